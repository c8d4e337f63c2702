//! What the peer's requests hold on this side, beside their number: bytes and descriptors.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::settings::Settings;

/// What is held of one kind, and how much may be.
pub(crate) struct Held {
    now: AtomicUsize,
    most: usize,
}

impl Held {
    fn new(most: usize) -> Self {
        Held { now: AtomicUsize::new(0), most }
    }

    /// So much more is held, if it may be. By whoever has the receive role.
    ///
    /// # Errors
    ///
    /// What is held already.
    fn hold(&self, more: usize) -> Result<(), usize> {
        // Relaxed, here and below: a count, which guards nothing else. This is the only one that adds.
        let now = self.now.load(Ordering::Relaxed);
        if now.saturating_add(more) > self.most {
            return Err(now);
        }
        self.now.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    fn let_go(&self, less: usize) {
        self.now.fetch_sub(less, Ordering::Relaxed);
    }
}

/// What all requests of a link hold, whose handlers are not gone.
pub(crate) struct HeldByRequests {
    bytes: Held,
    descriptors: Held,
}

/// What one request holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holds {
    pub(crate) bytes: u32,
    pub(crate) descriptors: u32,
}

/// Bytes of a payload that is not counted: the number of requests bounds what those hold.
pub(crate) const UNCOUNTED: usize = 4 << 10;

impl HeldByRequests {
    pub(crate) fn new(settings: &Settings) -> Self {
        HeldByRequests {
            bytes: Held::new(usize::try_from(settings.max_request_bytes).unwrap_or(usize::MAX)),
            descriptors: Held::new(settings.max_held_descriptors as usize),
        }
    }

    /// A request came with so many descriptors.
    ///
    /// # Errors
    ///
    /// With them too many would be here: why it is not served.
    pub(crate) fn hold_descriptors(&self, count: usize) -> Result<(), String> {
        self.descriptors.hold(count).map_err(|held| {
            let most = self.descriptors.most;
            format!(
                "{count} descriptors, and {held} are here already, of at most {most} (Settings::max_held_descriptors)"
            )
        })
    }

    /// A request came whose payload has so many bytes. One that finds none may have any number.
    ///
    /// # Errors
    ///
    /// With them too many would be here: why it is not served.
    pub(crate) fn hold_bytes(&self, len: usize) -> Result<(), String> {
        self.bytes.hold(len).or_else(|held| {
            if held == 0 {
                self.bytes.now.fetch_add(len, Ordering::Relaxed); // as in `hold`
                return Ok(());
            }
            let most = self.bytes.most;
            Err(format!(
                "a request of {len} bytes, and {held} are here already, of at most {most} (Settings::max_request_bytes)"
            ))
        })
    }

    /// A request's handler is gone.
    #[inline]
    pub(crate) fn let_go(&self, holds: Holds) {
        if holds != Holds::default() {
            self.bytes.let_go(holds.bytes as usize);
            self.descriptors.let_go(holds.descriptors as usize);
        }
    }
}
