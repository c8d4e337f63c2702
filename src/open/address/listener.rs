//! One listener for whatever an address names.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{Address, OpenError};
use crate::{
    open::{HANDSHAKES, stream},
    rpc::{connection::Connection, options::Options},
};

/// Listens at an [`Address`]. Made by [`listen`](super::listen), or from a listener of one kind.
#[derive(Debug)]
pub struct Listener {
    address: Address,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    #[cfg(target_os = "linux")]
    Shm(crate::open::shm::Listener),
    #[cfg(unix)]
    Uds(crate::open::uds::Listener),
    Tcp {
        socket: TcpListener,
        handshakes: Arc<Semaphore>,
    },
}

/// One that has connected, and has no link yet. Made by [`Listener::accept`].
#[derive(Debug)]
#[must_use = "dropped, it is turned away"]
pub struct Incoming {
    address: Address,
    kind: Waiting,
}

#[derive(Debug)]
enum Waiting {
    #[cfg(target_os = "linux")]
    Shm(crate::open::shm::Incoming),
    #[cfg(unix)]
    Uds(crate::open::uds::Incoming),
    Tcp {
        socket: TcpStream,
        /// Given back with this.
        _place: OwnedSemaphorePermit,
    },
}

#[cfg(target_os = "linux")]
impl From<crate::open::shm::Listener> for Listener {
    fn from(listener: crate::open::shm::Listener) -> Self {
        Listener { address: Address::Shm(listener.path().to_owned()), kind: Kind::Shm(listener) }
    }
}

#[cfg(unix)]
impl From<crate::open::uds::Listener> for Listener {
    fn from(listener: crate::open::uds::Listener) -> Self {
        Listener { address: Address::Uds(listener.path().to_owned()), kind: Kind::Uds(listener) }
    }
}

impl Listener {
    pub(super) fn tcp(socket: TcpListener, address: Address) -> Self {
        Listener { address, kind: Kind::Tcp { socket, handshakes: Arc::new(Semaphore::new(HANDSHAKES)) } }
    }

    /// Where it listens: of TCP with the port that the system chose, where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// How many may have connected and not got their link yet: those that are between [`accept`](Listener::accept) and the
    /// end of [`Incoming::establish`]. At least 1. Default: 64. More wait in the socket's queue, which the system bounds.
    #[must_use]
    pub fn max_handshakes(self, handshakes: usize) -> Self {
        let Listener { address, kind } = self;
        let kind = match kind {
            #[cfg(target_os = "linux")]
            Kind::Shm(listener) => Kind::Shm(listener.max_handshakes(handshakes)),
            #[cfg(unix)]
            Kind::Uds(listener) => Kind::Uds(listener.max_handshakes(handshakes)),
            Kind::Tcp { socket, .. } => {
                let handshakes = handshakes.clamp(1, Semaphore::MAX_PERMITS);
                Kind::Tcp { socket, handshakes: Arc::new(Semaphore::new(handshakes)) }
            }
        };
        Listener { address, kind }
    }

    /// Waits for the next that connects. What follows with it ([`Incoming::establish`]) may take its time: do it in a task
    /// of its own.
    ///
    /// # Errors
    ///
    /// The system's, as when this process has no more descriptors; the listener can be used further, after a little wait.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn accept(&self) -> io::Result<Incoming> {
        let kind = match &self.kind {
            #[cfg(target_os = "linux")]
            Kind::Shm(listener) => Waiting::Shm(listener.accept().await?),
            #[cfg(unix)]
            Kind::Uds(listener) => Waiting::Uds(listener.accept().await?),
            Kind::Tcp { socket, handshakes } => {
                let place = Arc::clone(handshakes).acquire_owned().await.map_err(io::Error::other)?;
                Waiting::Tcp { socket: socket.accept().await?.0, _place: place }
            }
        };
        Ok(Incoming { address: self.address.clone(), kind })
    }

    /// Serves all that come, each with these options and for as long as it stays, until this future is dropped. Links that
    /// were made by then go on.
    ///
    /// Who cannot be let in, or does not agree, is turned away, with an event of `tracing`, and costs nobody else anything.
    /// While the system has no descriptors left for those that come, it waits (10 ms at first, 1 s at most) and tries
    /// again.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    pub async fn serve(self, options: Options) {
        let mut wait = SHORTEST_WAIT;
        loop {
            match self.accept().await {
                Ok(incoming) => {
                    wait = SHORTEST_WAIT;
                    drop(tokio::spawn(serve_one(incoming, options.clone())));
                }
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, "nobody could be accepted");
                    tokio::time::sleep(wait).await;
                    wait = LONGEST_WAIT.min(wait * 2);
                }
            }
        }
    }
}

async fn serve_one(incoming: Incoming, options: Options) {
    match incoming.establish(options).await {
        Ok(connection) => {
            let end = connection.closed().await;
            tracing::debug!(%end, "a link that was accepted ended");
        }
        Err(error) => tracing::warn!(
            error = &error as &dyn std::error::Error,
            "there is no link with one that has connected"
        ),
    }
}

impl Incoming {
    /// Makes a link with the one that has connected, and serves it.
    ///
    /// # Errors
    ///
    /// [`OpenError`], after [`Settings::handshake_timeout`](crate::Settings::handshake_timeout) at the latest.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is done, the other is turned away.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled; the link's driver runs on it.
    pub async fn establish(self, options: Options) -> Result<Connection, OpenError> {
        let Incoming { address, kind } = self;
        match kind {
            #[cfg(target_os = "linux")]
            Waiting::Shm(incoming) => incoming.establish(options).await.map_err(OpenError::at(&address)),
            #[cfg(unix)]
            Waiting::Uds(incoming) => incoming.establish(options).await.map_err(OpenError::at(&address)),
            Waiting::Tcp { socket, _place } => {
                socket.set_nodelay(true).map_err(OpenError::at(&address))?;
                stream::accept(socket, options).await.map_err(OpenError::at(&address))
            }
        }
    }
}

/// What is waited for descriptors, at first.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);
/// What is waited for descriptors, at most.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
