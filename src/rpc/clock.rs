//! The clock of calls and handlers: the runtime's, which a test may have stopped.

use std::time::Instant;

/// The time now.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
