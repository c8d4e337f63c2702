//! The mark of a logical request.

use std::{fmt, io};

use crate::session::metadata::{Metadata, MetadataValue};

/// Marks a logical request (protocol section 4): a call, and its repetitions, carry the same one, and a service
/// behind [`Deduplicate`](crate::Deduplicate) runs it once. See [`Call::with_nonce`](crate::Call::with_nonce).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce([u8; Nonce::BYTES]);

impl Nonce {
    /// Its length in bytes.
    pub const BYTES: usize = 16;
    /// The metadata key that carries it.
    pub const KEY: &'static str = "roam-nonce";

    /// A new one, from the system's secure random source.
    ///
    /// # Errors
    ///
    /// The system has no such source.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; Nonce::BYTES];
        getrandom::fill(&mut bytes).map_err(io::Error::from)?;
        Ok(Nonce(bytes))
    }

    /// One that was made before, for a retry after a restart. Never one that can be guessed.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Nonce::BYTES]) -> Self {
        Nonce(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Nonce::BYTES] {
        self.0
    }

    /// The nonce of a request. `Err`: what stands there is none.
    pub(super) fn of(metadata: &Metadata) -> Result<Option<Nonce>, ()> {
        match metadata.get(Nonce::KEY) {
            None => Ok(None),
            Some(MetadataValue::Bytes(bytes)) => {
                bytes.as_slice().try_into().map(|bytes| Some(Nonce(bytes))).map_err(drop)
            }
            Some(_) => Err(()),
        }
    }
}

/// Not shown: whoever has it can ask for the answer.
impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nonce").finish_non_exhaustive()
    }
}
