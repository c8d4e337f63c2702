//! The links: our side at one end, a raw peer at the other.

use std::{fmt, thread, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream, UnixStream},
    sync::mpsc,
};

use super::{
    peer::{
        Peer,
        end::EndPeer,
        socket::{SocketPeer, Stream},
    },
    rig::{Line, Rig},
    service::Handlers,
};
use crate::{
    link::{Role, memory},
    open::stream::{self, HandshakeError},
    rpc::{connection::Connection, incoming::IncomingConnection, options::Options},
    settings::{Settings, Waiting},
};

/// The kinds of links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Memory,
    Unix,
    Tcp,
    Shm,
}

impl Kind {
    pub(super) const ALL: [Kind; 4] = [Kind::Memory, Kind::Unix, Kind::Tcp, Kind::Shm];
}

/// As the table names them.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Memory => "memory",
            Kind::Unix => "unix",
            Kind::Tcp => "tcp",
            Kind::Shm => "shm",
        })
    }
}

/// Which of a link's connections a case is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Root,
    /// A virtual connection that the peer asked for.
    Accepted,
    /// A virtual connection that our side asked for.
    Connected,
}

impl Place {
    /// For what is the same on every connection.
    pub(super) const ALL: &[Place] = &[Place::Root, Place::Accepted, Place::Connected];
    /// For what is about the link itself.
    pub(super) const LINK: &[Place] = &[Place::Root];
}

/// Where a case takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ground {
    pub(super) kind: Kind,
    /// Our side's.
    pub(super) role: Role,
    pub(super) place: Place,
}

/// The longest payload: longer than the window, so that an element can exceed either.
pub(super) const MAX_PAYLOAD: u32 = 4096;
/// The initial credit of a channel.
pub(super) const WINDOW: u32 = 1024;

/// What both sides of most cases agree on.
pub(super) fn settings() -> Settings {
    Settings::default()
        .max_payload_size(MAX_PAYLOAD)
        .initial_channel_credit(WINDOW)
        .window_growth(0)
        .ring_bytes(1 << 18)
        .channel_slots(64)
        .handshake_timeout(PATIENCE)
        .waiting(Waiting::Sleep)
}

/// A bound on a case that hangs, not an assertion on how long it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a case on every ground of a kind.
pub(super) fn run<F: Future<Output = ()>>(kind: Kind, places: &[Place], case: impl Fn(Ground) -> F) {
    let roles = [Role::Acceptor, Role::Initiator];
    let grounds = roles.iter().flat_map(|role| places.iter().map(move |place| (*role, *place)));
    for (role, place) in grounds {
        let ground = Ground { kind, role, place };
        let _where = Where(ground);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("the system has timers").block_on(async {
            let done = tokio::time::timeout(PATIENCE, case(ground)).await;
            assert!(done.is_ok(), "what is waited for never comes: {ground:?}");
        });
    }
}

/// Says on which ground a case failed.
struct Where(Ground);

impl Drop for Where {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("on {:?}", self.0);
        }
    }
}

impl Ground {
    /// A connection with our side in service.
    pub(super) async fn rig(self) -> Rig {
        self.rig_with(settings()).await
    }

    /// As [`rig`](Ground::rig), with other settings.
    pub(super) async fn rig_with(self, settings: Settings) -> Rig {
        let (asked, asking) = mpsc::unbounded_channel();
        let options = Options::new().settings(settings);
        let mut rig =
            self.rig_of(options.on_connect(move |incoming| drop(asked.send(incoming))), asking).await;
        if self.place != Place::Root {
            let line = rig.open_line(self.place).await;
            rig.go_to(line);
        }
        rig
    }

    /// A link on which nobody of our side takes connections.
    pub(super) async fn rig_that_does_not_listen(self) -> Rig {
        self.rig_of(Options::new().settings(settings()), mpsc::unbounded_channel().1).await
    }

    async fn rig_of(self, options: Options, asking: mpsc::UnboundedReceiver<IncomingConnection>) -> Rig {
        let (handlers, seen, gate) = Handlers::new();
        let (ours, peer, process) = self.open(&options.serve(handlers)).await;
        Rig::new(self, Line::new(self.role, ours, seen, gate), peer, process, asking)
    }

    async fn open(self, options: &Options) -> (Connection, Peer, Process) {
        match self.kind {
            Kind::Memory => {
                let (initiator, acceptor) = memory::pair(&options.settings, &options.settings);
                let (ours, theirs) = match self.role {
                    Role::Initiator => (initiator, acceptor),
                    Role::Acceptor => (acceptor, initiator),
                };
                (Connection::start(ours, options), Peer::End(EndPeer::new(theirs)), Process::None)
            }
            Kind::Unix | Kind::Tcp => {
                let (ours, theirs) = self.sockets().await;
                let mut peer = SocketPeer::new(theirs);
                let (payload, credit) = options.settings.limits();
                let (ours, ()) =
                    tokio::join!(self.establish(ours, options.clone()), peer.greet(payload, credit));
                (ours.expect("the peer has greeted"), Peer::Socket(peer), Process::None)
            }
            Kind::Shm => self.open_segment(options).await,
        }
    }

    /// Takes our end of a byte stream into service.
    pub(super) async fn establish(
        self,
        socket: Box<dyn Stream>,
        options: Options,
    ) -> Result<Connection, HandshakeError> {
        match self.role {
            Role::Initiator => stream::connect(socket, options).await,
            Role::Acceptor => stream::accept(socket, options).await,
        }
    }

    /// Two ends of a byte stream.
    pub(super) async fn sockets(self) -> (Box<dyn Stream>, Box<dyn Stream>) {
        if self.kind == Kind::Unix {
            let (ours, theirs) = UnixStream::pair().expect("the system has sockets");
            return (Box::new(ours), Box::new(theirs));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the system has a loopback");
        let address = listener.local_addr().expect("it is bound");
        let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (connected, (accepted, _)) = (connected.expect("it listens"), accepted.expect("it listens"));
        connected.set_nodelay(true).expect("a socket can be told so");
        accepted.set_nodelay(true).expect("a socket can be told so");
        match self.role {
            Role::Initiator => (Box::new(connected), Box::new(accepted)),
            Role::Acceptor => (Box::new(accepted), Box::new(connected)),
        }
    }

    /// As a host, our side has its guest in another process. As a guest it has its host in this one: a process
    /// attaches once.
    #[cfg(target_os = "linux")]
    async fn open_segment(self, options: &Options) -> (Connection, Peer, Process) {
        use super::peer::puppet::{GUEST, PuppetPeer};
        use crate::segments::{Manner, geometry, launch, pair_for_test};
        if self.role == Role::Initiator {
            let (host, guest) = pair_for_test(&geometry(&options.settings), options.settings.waiting).await;
            return (Connection::start(guest, options), Peer::End(EndPeer::new(host)), Process::None);
        }
        let (command, puppet) = PuppetPeer::command(GUEST);
        let launched = launch(command, &options.settings, &Manner::default()).await;
        let (parts, process) = launched.expect("the puppet attaches");
        (Connection::start(parts, options), Peer::Puppet(puppet), Process::Puppet(process))
    }

    #[cfg(not(target_os = "linux"))]
    async fn open_segment(self, _: &Options) -> (Connection, Peer, Process) {
        unreachable!("no case takes place on shared memory where there is none")
    }
}

/// The process that plays the peer.
pub(super) enum Process {
    None,
    #[cfg(target_os = "linux")]
    Puppet(std::sync::Arc<crate::segments::Process>),
}
