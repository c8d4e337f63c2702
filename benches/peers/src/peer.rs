//! What a library has to be able to do to be measured.

use std::path::Path;

use crate::{Failure, case::Case, measure::Run};

/// A library that takes work to another process, in the way that a case asks for. The value is the client.
pub(crate) trait Peer: Sized {
    /// Whether it has a way of its own to do this.
    fn can(case: &Case) -> bool;

    /// The server: says where it is ([`far::announce`](crate::far::announce)), serves one client, and returns when that is
    /// gone. It may put a socket into `directory`.
    fn serve(case: &Case, directory: &Path) -> Result<(), Failure>;

    /// Connects to the server that has announced this address.
    fn open(case: &Case, address: &str) -> Result<Self, Failure>;

    /// Works until [the time is over](Run) and everything is answered and compared; how many calls or elements that were.
    fn work(&mut self, run: &Run) -> Result<u64, Failure>;

    /// Ends the connection, and with it the server.
    fn close(self) -> Result<(), Failure>;
}

/// Calls a function that is generic over a [`Peer`], for the one of this name.
macro_rules! with_peer {
    ($who:expr, $function:ident($($argument:expr),*)) => {
        match $who {
            Who::Shm | Who::ShmSpin | Who::Uds | Who::UdsWide => $function::<peers::adjoin::Link>($($argument),*),
            Who::Iceoryx2 => $function::<peers::iceoryx2::Iceoryx2>($($argument),*),
            Who::Tarpc => $function::<peers::tarpc::Tarpc>($($argument),*),
            Who::Tonic => $function::<peers::tonic::Tonic>($($argument),*),
            Who::IpcChannel => $function::<peers::ipc_channel::Channels>($($argument),*),
        }
    };
}
pub(crate) use with_peer;
