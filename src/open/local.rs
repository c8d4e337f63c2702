//! Connections within one process: the same services, with no socket and no segment.

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
