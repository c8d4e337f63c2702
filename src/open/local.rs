//! Connections within one process: the same services, with no socket and no segment.
//!
//! Arguments, results and elements that would take more than 256 bytes, and carry neither streams nor descriptors, are not
//! copied here and not read: they arrive as they were sent, if both sides name the same type for them. Their `Serialize`
//! runs once, without writing anything: how many bytes that would have been is what they count for, so that the limit of
//! payloads, credit and what else goes by bytes are the same as on every link. Their `Deserialize` does not run, which shows
//! in little:
//!
//! - fields that serde skips arrive, and what is behind an `Arc` is still shared;
//! - what `Deserialize` would refuse or change arrives as it is, and [`Settings::max_nesting`](crate::Settings::max_nesting)
//!   does not bound it.
//!
//! Where the types differ the value is encoded for the receiver, and read as on every link. So are errors, what a
//! [`Permit`](crate::Permit), [`Tx::try_send`](crate::Tx::try_send) or a `Sink` sends, what interceptors and reconnecting
//! clients call, and what is passed on or remembered.

use crate::{
    link::memory,
    rpc::{connection::Connection, options::Options},
};

/// Makes a link within this process. The first end is the initiator, the second the acceptor; after that
/// both are equal.
///
/// ```
/// use adjoin::{Options, local};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let (client, server) = local::pair(Options::new(), Options::new());
/// drop(server);
/// client.closed().await;
/// # });
/// ```
///
/// # Panics
///
/// Outside of a tokio runtime with time enabled; the drivers of both ends run on it.
#[must_use]
pub fn pair(initiator: Options, acceptor: Options) -> (Connection, Connection) {
    let (first, second) = memory::pair(&initiator.settings, &acceptor.settings);
    (Connection::start(first, &initiator), Connection::start(second, &acceptor))
}
