//! By how much the windows of a link's streams may grow.
//!
//! A stream begins with the window that both peers agreed on, which is short: most streams carry little, and whoever opens a
//! thousand of them does not want memory for a thousand long ones. Where a sender waits for nothing but its window, since the
//! reader takes all that comes at once, each window is a wake-up of both sides, and the receiver makes it wider: twice as
//! wide each time. What all of a link's streams have grown by, together, is bounded by one setting, and so is the memory that
//! a peer can fill here while nobody reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is left of a link's allowance. Invariant: this, and what its streams have taken of it, is the same number always.
#[derive(Debug)]
pub(crate) struct Allowance {
    left: AtomicU64,
    /// What one stream may have of it.
    share: u64,
}

/// What one stream has taken. Changed under the lock of its channel's state.
#[derive(Debug, Default)]
pub(crate) struct Growth(AtomicU64);

/// The part of the allowance that one stream may take.
const SHARE: u64 = 4;

impl Allowance {
    pub(crate) fn new(bytes: u64) -> Self {
        Allowance { left: AtomicU64::new(bytes), share: bytes / SHARE }
    }

    /// Takes as much for a stream as is wanted, and there is; how much that was.
    pub(crate) fn take(&self, growth: &Growth, wanted: u64) -> u64 {
        // Relaxed, everywhere here: numbers, and no memory that they stand for.
        let taken = growth.0.load(Relaxed);
        let wanted = wanted.min(self.share.saturating_sub(taken));
        if wanted == 0 {
            return 0;
        }
        let left = self.left.fetch_update(Relaxed, Relaxed, |left| Some(left - left.min(wanted)));
        let got = wanted.min(left.unwrap_or_default());
        growth.0.store(taken + got, Relaxed);
        got
    }

    /// Takes back what a stream has, since it is gone.
    pub(crate) fn give_back(&self, growth: &Growth) {
        self.left.fetch_add(growth.0.swap(0, Relaxed), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_stream_takes_more_than_its_share_and_all_no_more_than_there_is() {
        let allowance = Allowance::new(1000);
        let streams = [(); 6].map(|()| Growth::default());
        assert_eq!(allowance.take(&streams[0], 100), 100);
        assert_eq!(allowance.take(&streams[0], 200), 150, "a quarter of all");
        assert_eq!(allowance.take(&streams[0], 400), 0);
        for stream in &streams[1..4] {
            assert_eq!(allowance.take(stream, 240), 240);
        }
        assert_eq!(allowance.take(&streams[4], 100), 30, "what is left");
        assert_eq!(allowance.take(&streams[5], 100), 0);
        allowance.give_back(&streams[0]);
        allowance.give_back(&streams[0]);
        assert_eq!(allowance.take(&streams[5], 1000), 250);
        streams.iter().for_each(|stream| allowance.give_back(stream));
        assert_eq!(allowance.left.load(Relaxed), 1000);
    }
}
