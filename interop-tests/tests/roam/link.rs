//! A link between the two implementations, over a socket in the file system.

use std::{future::Future, pin::Pin, task::Poll};

use adjoin::{ConnectOptions, Connection, IncomingConnection, MetadataValue, Options, Settings, stream};
use roam_session::{ConnectionError, ConnectionHandle, HandshakeConfig, IncomingConnections};
use roam_stream::CobsFramed;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::JoinHandle,
};

use crate::{
    interface::{InteropClient, InteropDispatcher},
    ours::Ours,
    theirs::Theirs,
    watchdog::Watchdog,
};

/// Which of the two has connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Initiator {
    Adjoin,
    Roam,
}

/// A link, seen from both of its ends.
pub(crate) struct Link {
    pub(crate) ours: Connection,
    /// Calls roam's service.
    pub(crate) client: InteropClient,
    pub(crate) theirs: ConnectionHandle,
    /// The virtual connections that we ask roam for.
    pub(crate) asked: IncomingConnections,
    /// Those that roam has asked for, and that were accepted.
    pub(crate) opened: mpsc::UnboundedReceiver<Connection>,
    /// Ends as roam's side of the link does.
    pub(crate) driver: JoinHandle<Result<(), ConnectionError>>,
}

/// No test sends as many bytes on one stream.
pub(crate) const WIDE: u32 = 16 << 20;

pub(crate) const MAX_PAYLOAD: u32 = 1 << 20;

/// Runs a behaviour over a link that `initiator` has connected.
pub(crate) fn run<F: Future<Output = ()>>(initiator: Initiator, behaviour: impl FnOnce(Link) -> F) {
    alone(async { behaviour(link(initiator, WIDE).await).await });
}

/// Runs one test, for a while at most.
pub(crate) fn alone(test: impl Future<Output = ()>) {
    let _hang = Watchdog::seconds(60);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

/// Makes a link on which both sides serve.
pub(crate) async fn link(initiator: Initiator, window: u32) -> Link {
    let (connected, accepted) = sockets().await;
    let (options, opened) = serving(window);
    let hello = HandshakeConfig { max_payload_size: MAX_PAYLOAD, initial_channel_credit: window };
    let (ours, (theirs, asked, driver)) = match initiator {
        Initiator::Adjoin => {
            tokio::join!(async { stream::connect(connected, options).await.unwrap() }, async {
                roam_stream::accept(accepted, hello, Theirs::default()).await.unwrap()
            },)
        }
        Initiator::Roam => tokio::join!(async { stream::accept(accepted, options).await.unwrap() }, async {
            let framed = CobsFramed::new(connected);
            roam_session::initiate_framed(framed, hello, Theirs::default()).await.unwrap()
        },),
    };
    let client = InteropClient::new(&ours);
    Link { ours, client, theirs, asked, opened, driver: tokio::spawn(driver.run()) }
}

/// Accepts what roam asks for, unless its metadata asks for a rejection.
fn decide(incoming: IncomingConnection, opening: &mpsc::UnboundedSender<Connection>) {
    if let Some(MetadataValue::String(reason)) = incoming.metadata().get("reject") {
        let reason = reason.clone();
        return incoming.reject(&reason);
    }
    let options = ConnectOptions::new().serve(InteropDispatcher::new(Ours::default()));
    let _ = opening.send(incoming.accept(options).unwrap()); // a test that is over takes none
}

/// Polls a future once: what it does is begun, and not done.
pub(crate) async fn begun(mut future: Pin<&mut impl Future>) {
    std::future::poll_fn(|cx| {
        assert!(future.as_mut().poll(cx).is_pending(), "it was done at once");
        Poll::Ready(())
    })
    .await;
}

/// Our side's options, with the service, and the virtual connections that it accepts.
pub(crate) fn serving(window: u32) -> (Options, mpsc::UnboundedReceiver<Connection>) {
    let (opening, opened) = mpsc::unbounded_channel();
    let settings = Settings::default().max_payload_size(MAX_PAYLOAD).initial_channel_credit(window);
    let options = Options::new().settings(settings).serve(InteropDispatcher::new(Ours::default()));
    (options.on_connect(move |incoming| decide(incoming, &opening)), opened)
}

/// Both ends of a socket: of the side that has connected, and of the one that has accepted.
pub(crate) async fn sockets() -> (UnixStream, UnixStream) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("interop.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let connected = UnixStream::connect(&path).await.unwrap();
    (connected, listener.accept().await.unwrap().0)
}
