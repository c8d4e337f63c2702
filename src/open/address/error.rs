//! What can be wrong with an address, and with what is reached by it.

use std::{fmt, io};

use super::Address;
use crate::open::stream;

/// Why a text is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// It says not over what.
    #[error("`{text}` is no address: it begins with none of shm:, uds:, tcp:")]
    Scheme {
        /// The text.
        text: String,
    },
    /// It has no path or name.
    #[error("`{text}` is no address: it names nothing")]
    Empty {
        /// The text.
        text: String,
    },
    /// It has no host, or no port.
    #[error("`{text}` is no address: a host and a port are missing, as in tcp:localhost:7000")]
    Port {
        /// The text.
        text: String,
    },
}

/// Why there is no listener or no connection at an address. Its text is that of the fault, behind the address; its source is
/// the fault's.
#[derive(Debug)]
#[non_exhaustive]
pub struct OpenError {
    /// The address.
    pub address: Address,
    /// What was wrong.
    pub fault: OpenFault,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.fault)
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.fault.source() // and not the fault itself, which has been told
    }
}

/// What was wrong with listening at an address, or with connecting to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenFault {
    /// This system has nothing of the kind: shared memory is for Linux, Unix sockets are for Unix.
    #[error("this system has nothing of the kind")]
    NotHere,
    /// Shared memory could not be agreed on.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Shm(#[from] crate::open::shm::OpenError),
    /// There is no link over the Unix socket.
    #[cfg(unix)]
    #[error(transparent)]
    Uds(#[from] crate::open::uds::OpenError),
    /// The peer did not greet in time, or not in this protocol.
    #[error(transparent)]
    Handshake(#[from] stream::HandshakeError),
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl OpenError {
    /// Says where it was.
    pub(super) fn at<F: Into<OpenFault>>(address: &Address) -> impl FnOnce(F) -> OpenError {
        move |fault| OpenError { address: address.clone(), fault: fault.into() }
    }
}
