//! Virtual connections and the graceful end, through the whole stack.

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, OnceLock, Weak, mpsc},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use super::{NOP, RECEIVE, Raw, end_of, nop, poll, settle, until, within};
use crate::{
    error::{ConnectionEnd, LinkEnd},
    open::local,
    rpc::{
        connect::ConnectOptions,
        connection::{Connection, Drained},
        dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
        errors::{CallError, ConnectError, Never, RecvError, Refusal, SendError},
        hub::Hub,
        incoming::IncomingConnection,
        method::{Service, service},
        options::Options,
        rx::Rx,
        tx::channel,
        waiters::{lock, try_lock},
    },
    session::metadata::Metadata,
    settings::Settings,
};

/// A link whose second side hands what the first one asks for to the test.
fn asking(settings: Settings) -> (Connection, Connection, mpsc::Receiver<IncomingConnection>) {
    let (asked, incoming) = mpsc::channel();
    let acceptor = Options::new()
        .settings(settings.clone())
        .serve(Raw::default())
        .on_connect(move |connection| drop(asked.send(connection)));
    let (client, server) = local::pair(Options::new().settings(settings).serve(Raw::default()), acceptor);
    (client, server, incoming)
}

/// A virtual connection, as both sides have it, each serving `Raw`.
async fn open(
    client: &Connection,
    incoming: &mpsc::Receiver<IncomingConnection>,
) -> (Connection, Connection) {
    let accept = async {
        let mut asked = None;
        until(|| {
            asked = incoming.try_recv().ok();
            asked.is_some()
        })
        .await;
        asked
            .map(|asked| asked.accept(ConnectOptions::new().serve(Raw::default())))
            .expect("it was asked for")
    };
    let (ours, theirs) = tokio::join!(client.connect(ConnectOptions::new().serve(Raw::default())), accept);
    (ours.expect("it was accepted"), theirs.expect("the link lives"))
}

fn metadata(entry: &str) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.push("name", entry);
    metadata
}

#[tokio::test]
async fn metadata_goes_both_ways_and_both_sides_serve() {
    let (client, _server, incoming) = asking(Settings::default());
    let accept = async {
        settle().await;
        let asked = incoming.try_recv().expect("it was asked for");
        assert_eq!(asked.metadata(), &metadata("ada"));
        let options = ConnectOptions::new().metadata(metadata("bob")).serve(Raw::default());
        asked.accept(options).expect("the link lives")
    };
    let options = ConnectOptions::new().metadata(metadata("ada")).serve(Raw::default());
    let (ours, theirs) = tokio::join!(client.connect(options), accept);
    let ours = ours.expect("it was accepted");
    assert_eq!((ours.metadata(), theirs.metadata()), (&metadata("bob"), &metadata("ada")));
    assert_eq!((ours.id(), theirs.id(), client.id()), (2, 2, 0));
    assert_eq!(ours.link().id(), 0);
    within(nop(&ours)).await.expect("the acceptor serves");
    within(nop(&theirs)).await.expect("the initiator serves");
}

#[tokio::test]
async fn where_nobody_listens_or_decides_the_peer_is_told() {
    let (client, server) = local::pair(Options::new(), Options::new());
    let rejected = within(client.connect(ConnectOptions::new())).await;
    assert!(matches!(&rejected, Err(ConnectError::Rejected { reason, .. }) if reason == "not listening"));
    assert!(client.end().is_none() && server.end().is_none());

    let dropping = Options::new().on_connect(drop);
    let (client, _server) = local::pair(Options::new(), dropping);
    let rejected = within(client.connect(ConnectOptions::new())).await;
    assert!(matches!(&rejected, Err(ConnectError::Rejected { reason, .. }) if reason == "not accepted"));

    let refusing = Options::new().on_connect(|asked| asked.reject_with("no", &metadata("why")).unwrap());
    let (client, _server) = local::pair(Options::new(), refusing);
    let rejected = within(client.connect(ConnectOptions::new())).await;
    let Err(ConnectError::Rejected { reason, metadata: why }) = rejected else { panic!("{rejected:?}") };
    assert_eq!((reason.as_str(), why), ("no", metadata("why")));
}

#[tokio::test]
async fn what_the_application_says_is_within_limits_or_refused_with_the_numbers() {
    let (client, _server, incoming) = asking(Settings::default());
    let mut large = Metadata::new();
    large.push("k", vec![0; Metadata::MAX_VALUE + 1]);
    let refused = client.connect(ConnectOptions::new().metadata(large.clone())).await;
    assert!(matches!(refused, Err(ConnectError::Refused(Refusal::Metadata(_)))), "{refused:?}");
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.connect(ConnectOptions::new()).await }
    });
    settle().await;
    let asked = incoming.try_recv().expect("it was asked for");
    let long = "é".repeat(IncomingConnection::MAX_REASON);
    assert_eq!(
        asked.reject_with(&long, &Metadata::new()),
        Err(Refusal::ReasonTooLong { len: 2048, limit: 1024 })
    );
    let rejected = within(waiting).await.expect("it does not panic");
    assert!(matches!(&rejected, Err(ConnectError::Rejected { reason, .. }) if reason == "not accepted"));
    let waiting = tokio::spawn(async move { client.connect(ConnectOptions::new()).await });
    settle().await;
    incoming.try_recv().expect("it was asked for").reject(&long);
    let rejected = within(waiting).await.expect("it does not panic");
    assert!(matches!(&rejected, Err(ConnectError::Rejected { reason, .. }) if *reason == "é".repeat(512)));
}

#[tokio::test]
async fn a_link_has_only_so_many_connections_until_one_is_closed() {
    let (client, server, incoming) = asking(Settings::default().max_connections(2));
    let (first, _accepted) = open(&client, &incoming).await;
    let (_second, _accepted2) = open(&client, &incoming).await;
    let refused = client.connect(ConnectOptions::new()).await;
    let limit = Refusal::TooManyConnections { limit: 2 };
    assert!(matches!(refused, Err(ConnectError::Refused(refusal)) if refusal == limit));
    let refused = server.connect(ConnectOptions::new()).await;
    assert!(matches!(refused, Err(ConnectError::Refused(refusal)) if refusal == limit));
    first.close().await;
    settle().await;
    open(&client, &incoming).await;
}

/// The peer's limit is its own: it rejects, and says why.
#[tokio::test]
async fn a_peer_with_a_lower_limit_rejects_with_its_number() {
    let lower = Options::new().settings(Settings::default().max_connections(1)).on_connect(move |asked| {
        let connection = asked.accept(ConnectOptions::new()).unwrap();
        tokio::spawn(async move { connection.closed().await });
    });
    let (client, _server) = local::pair(Options::new(), lower);
    let _open = within(client.connect(ConnectOptions::new())).await.unwrap();
    let rejected = within(client.connect(ConnectOptions::new())).await;
    let Err(ConnectError::Rejected { reason, .. }) = rejected else { panic!("{rejected:?}") };
    assert_eq!(reason, "too many connections: at most 1 on this link");
}

#[tokio::test]
async fn closed_alone_it_fails_what_is_open_on_it_and_nothing_else() {
    let (client, _server, incoming) = asking(Settings::default());
    let (ours, theirs) = open(&client, &incoming).await;
    let (tx, rx) = channel::<Vec<u8>>();
    let stream = tokio::spawn(ours.call::<(Rx<Vec<u8>>,), (), Never>(&RECEIVE, (rx,)));
    let (root_tx, root_rx) = channel::<Vec<u8>>();
    let root_stream = tokio::spawn(client.call::<(Rx<Vec<u8>>,), (), Never>(&RECEIVE, (root_rx,)));
    settle().await;
    theirs.close().await;
    assert!(matches!(theirs.end(), Some(LinkEnd::Connection(ConnectionEnd::Closed))));
    let end = end_of(&ours).await;
    assert!(matches!(&end, LinkEnd::Connection(ConnectionEnd::Goodbye { reason }) if reason.is_empty()));
    let called = within(stream).await.expect("it does not panic");
    assert!(matches!(called, Err(CallError::Ended(LinkEnd::Connection(_)))), "{called:?}");
    let sent = within(tx.send(vec![1])).await;
    assert!(matches!(sent, Err(SendError::Ended(LinkEnd::Connection(_)))), "{sent:?}");
    let called = within(nop(&ours)).await;
    assert!(matches!(called, Err(CallError::Ended(LinkEnd::Connection(_)))), "{called:?}");
    within(root_tx.send(vec![1])).await.expect("the root goes on");
    drop(root_tx);
    within(root_stream).await.expect("it does not panic").expect("the root goes on");
}

#[tokio::test]
async fn the_last_handle_that_goes_closes_it() {
    let (client, _server, incoming) = asking(Settings::default());
    let (ours, theirs) = open(&client, &incoming).await;
    let clone = theirs.clone();
    drop(theirs);
    settle().await;
    within(nop(&ours)).await.expect("a clone keeps it open");
    drop(clone);
    let end = end_of(&ours).await;
    assert!(matches!(&end, LinkEnd::Connection(ConnectionEnd::Goodbye { reason }) if reason.is_empty()));
    within(nop(&client)).await.expect("the root goes on");
}

/// Neither side holds a handle of the root any more.
#[tokio::test]
async fn a_virtual_connection_keeps_its_link_open_and_the_last_one_lets_it_go() {
    let (client, server, incoming) = asking(Settings::default());
    let (ours, theirs) = open(&client, &incoming).await;
    let hub = Arc::clone(client.hub());
    drop((client, server));
    settle().await;
    within(nop(&ours)).await.expect("the link is open");
    drop(ours);
    let end = end_of(&theirs).await;
    assert!(
        matches!(end, LinkEnd::Connection(ConnectionEnd::Goodbye { .. }) | LinkEnd::Goodbye { .. }),
        "{end:?}"
    );
    assert!(matches!(within(hub.root.wait_for_end()).await, LinkEnd::Closed));
}

/// The peer's Accept comes for nobody: the connection is closed, and its place is free again.
#[tokio::test]
async fn a_connect_that_nobody_waits_for_any_more_leaves_no_connection() {
    let (client, server, incoming) = asking(Settings::default().max_connections(1));
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.connect(ConnectOptions::new()).await }
    });
    settle().await;
    waiting.abort();
    settle().await;
    let theirs = incoming.try_recv().unwrap().accept(ConnectOptions::new()).expect("the link lives");
    let end = end_of(&theirs).await;
    assert!(matches!(end, LinkEnd::Connection(ConnectionEnd::Goodbye { .. })), "{end:?}");
    drop(theirs);
    settle().await;
    assert!(lock(&server.hub().session).connections.check_limit().is_ok());
    open(&client, &incoming).await;
}

/// A service that notes, as it is dropped, whether its link's session is free.
struct Watching {
    hub: Weak<Hub>,
    free: Arc<OnceLock<bool>>,
}

impl ServiceDispatcher for Watching {
    fn service(&self) -> &'static Service {
        static NOTHING: Service = service("Nothing", &[]);
        &NOTHING
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        request.unknown_method()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let free = self.hub.upgrade().is_some_and(|hub| try_lock(&hub.session).is_some());
        let _ = self.free.set(free);
    }
}

/// A service that held a stream of the same link hung the link: dropped with the peer's Reject, under the session's
/// lock.
#[tokio::test]
async fn a_service_whose_connect_was_rejected_behind_its_callers_back_is_dropped_under_no_lock() {
    let (client, _server, incoming) = asking(Settings::default());
    let free = Arc::new(OnceLock::new());
    let watching = Watching { hub: Arc::downgrade(client.hub()), free: Arc::clone(&free) };
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.connect(ConnectOptions::new().serve(watching)).await }
    });
    settle().await;
    waiting.abort();
    settle().await;
    assert!(free.get().is_none(), "it waits for the answer");
    incoming.try_recv().unwrap().reject("no");
    settle().await;
    assert_eq!(free.get(), Some(&true));
}

/// Calls a function when it is woken, wherever that is.
struct OnWake<F>(F);

impl<F: Fn() + Send + Sync + 'static> Wake for OnWake<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

/// As a sender on another thread, between the Goodbye and the end of the last channel.
#[tokio::test]
async fn no_element_is_sent_behind_the_goodbye_of_its_connection() {
    let (client, _server, incoming) = asking(Settings::default());
    let (ours, _theirs) = open(&client, &incoming).await;
    let senders: Arc<[_; 2]> = Arc::new([(); 2].map(|()| {
        let (tx, rx) = channel::<Vec<u8>>();
        let mut call = Box::pin(ours.call::<(Rx<Vec<u8>>,), (), Never>(&RECEIVE, (rx,)));
        assert!(poll(call.as_mut()).is_pending());
        std::mem::forget(call); // it is in flight
        tx
    }));
    settle().await;
    let sent = Arc::new(Mutex::new(Vec::new()));
    let waker = Waker::from(Arc::new(OnWake({
        let (senders, sent) = (Arc::clone(&senders), Arc::clone(&sent));
        move || {
            lock(&sent).extend(senders.iter().map(|tx| poll(pin!(tx.send(vec![7])))));
        }
    })));
    let mut waiting: Vec<_> = senders.iter().map(|tx| Box::pin(tx.closed())).collect();
    for closed in &mut waiting {
        assert!(closed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    ours.close().await;
    let sent = std::mem::take(&mut *lock(&sent));
    assert_eq!(sent.len(), 4, "both were woken, and tried both");
    assert!(sent.iter().all(|sent| matches!(sent, Poll::Ready(Err(SendError::Ended(_))))), "{sent:?}");
}

/// Fails when `Hub::end` begins with the root, as it did.
#[tokio::test]
async fn who_is_told_of_the_links_end_finds_the_calls_of_all_connections_over() {
    let (client, _server, incoming) = asking(Settings::default());
    let (ours, _theirs) = open(&client, &incoming).await;
    let (_tx, rx) = channel::<Vec<u8>>();
    let mut call = Box::pin(ours.call::<(Rx<Vec<u8>>,), (), Never>(&RECEIVE, (rx,)));
    assert!(poll(call.as_mut()).is_pending());
    let (call, over) = (Mutex::new(call), Arc::new(OnceLock::new()));
    let waker = Waker::from(Arc::new(OnWake({
        let over = Arc::clone(&over);
        move || {
            let _ = over.set(poll(lock(&call).as_mut()).is_ready());
        }
    })));
    let mut closed = Box::pin(client.closed());
    assert!(closed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    client.close().await;
    assert_eq!(over.get(), Some(&true));
}

/// A drain that looked again as soon as the last stream was forgotten said Goodbye before that stream's Close.
#[tokio::test]
async fn a_stream_whose_end_completes_a_drain_ends_well() {
    type Read = Result<Option<Vec<u8>>, RecvError>;
    struct Reading(Arc<Mutex<Option<Read>>>);
    impl ServiceDispatcher for Reading {
        fn service(&self) -> &'static Service {
            static READING: Service = service("Reading", &[RECEIVE]);
            &READING
        }
        fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
            let read = Arc::clone(&self.0);
            request.serve(&RECEIVE, |(mut rx,): (Rx<Vec<u8>>,)| async move {
                drop(tokio::spawn(async move { *lock(&read) = Some(rx.recv().await) }));
            })
        }
    }
    let read = Arc::default();
    let (asked, incoming) = mpsc::channel();
    let options = Options::new().on_connect(move |connection| drop(asked.send(connection)));
    let (client, _server) = local::pair(Options::new(), options);
    let connecting = tokio::spawn({
        let client = client.clone();
        async move { client.connect(ConnectOptions::new()).await }
    });
    settle().await;
    let serving = ConnectOptions::new().serve(Reading(Arc::clone(&read)));
    let _theirs = incoming.try_recv().unwrap().accept(serving).expect("the link lives");
    let ours = within(connecting).await.unwrap().expect("it was accepted");

    let (tx, rx) = channel::<Vec<u8>>();
    within(ours.call::<(Rx<Vec<u8>>,), (), Never>(&RECEIVE, (rx,))).await.expect("it only begins to read");
    let draining = ours.clone();
    let drain = async move { draining.drain(Duration::from_secs(60)).await };
    let drain: Arc<Mutex<Pin<Box<dyn Future<Output = Drained> + Send>>>> =
        Arc::new(Mutex::new(Box::pin(drain)));
    let waker = Waker::from(Arc::new(OnWake({
        let drain = Arc::clone(&drain);
        move || {
            let _ = try_lock(&drain).map(|mut drain| poll(Pin::new(&mut *drain)));
        }
    })));
    assert!(lock(&drain).as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(tx);
    assert!(ours.end().is_some(), "the drain is complete");
    settle().await;
    let read = lock(&read).take();
    assert!(matches!(read, Some(Ok(None))), "{read:?}");
}

#[tokio::test]
async fn the_links_end_ends_all_connections_and_who_waits_for_one() {
    let (client, server, incoming) = asking(Settings::default());
    let (ours, theirs) = open(&client, &incoming).await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.connect(ConnectOptions::new()).await }
    });
    settle().await;
    server.close().await;
    assert!(matches!(end_of(&ours).await, LinkEnd::Goodbye { .. }));
    assert!(matches!(end_of(&theirs).await, LinkEnd::Closed));
    let waited = within(waiting).await.expect("it does not panic");
    assert!(matches!(waited, Err(ConnectError::Ended(LinkEnd::Goodbye { .. }))), "{waited:?}");
    let late = incoming.try_recv().unwrap().accept(ConnectOptions::new());
    assert!(matches!(late, Err(ConnectError::Ended(LinkEnd::Closed))), "{late:?}");
}

#[tokio::test]
async fn a_decision_that_panics_rejects_and_the_link_goes_on() {
    let panics = Options::new().serve(Raw::default()).on_connect(|_| std::panic::resume_unwind(Box::new(())));
    let (client, _server) = local::pair(Options::new(), panics);
    let rejected = within(client.connect(ConnectOptions::new())).await;
    assert!(matches!(rejected, Err(ConnectError::Rejected { .. })), "{rejected:?}");
    within(nop(&client)).await.expect("the link goes on");
}

#[tokio::test(start_paused = true)]
async fn drained_it_refuses_calls_lets_those_in_flight_finish_and_says_goodbye() {
    let (client, server, _incoming) = asking(Settings::default());
    let (tx, rx) = channel::<Vec<u8>>();
    let running = tokio::spawn(client.call::<(Rx<Vec<u8>>,), (), Never>(&RECEIVE, (rx,)));
    settle().await;
    let draining = tokio::spawn({
        let server = server.clone();
        async move { server.drain(Duration::from_secs(3600)).await }
    });
    settle().await;
    assert!(matches!(within(nop(&client)).await, Err(CallError::Cancelled)));
    assert!(!draining.is_finished());
    within(tx.send(vec![1])).await.expect("the stream goes on");
    drop(tx);
    within(running).await.expect("it does not panic").expect("it finishes");
    assert_eq!(within(draining).await.expect("it does not panic"), Drained::Complete);
    assert!(matches!(end_of(&client).await, LinkEnd::Goodbye { reason } if reason.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_patience_closes_all_the_same() {
    let (client, server, incoming) = asking(Settings::default());
    let (ours, theirs) = open(&client, &incoming).await;
    let (_tx, rx) = channel::<Vec<u8>>();
    let running = tokio::spawn(ours.call::<(Rx<Vec<u8>>,), (), Never>(&RECEIVE, (rx,)));
    settle().await;
    assert_eq!(theirs.drain(Duration::from_secs(1)).await, Drained::TimedOut);
    let called = running.await.expect("it does not panic");
    assert!(matches!(called, Err(CallError::Ended(LinkEnd::Connection(_)))), "{called:?}");
    within(nop(&client)).await.expect("the root goes on");
    assert_eq!(theirs.drain(Duration::from_secs(1)).await, Drained::Ended);
    assert_eq!(server.drain(Duration::from_secs(1)).await, Drained::Complete);
}

/// What a handler learned of its time, and the calls that it made.
#[tokio::test(start_paused = true)]
async fn deadlines_shrink_from_hop_to_hop() {
    let timeouts = Arc::new(Mutex::new(Vec::new()));
    struct Seen(Arc<Mutex<Vec<Option<Duration>>>>);
    impl crate::rpc::dispatch::ServiceDispatcher for Seen {
        fn service(&self) -> &'static crate::rpc::method::Service {
            Raw::default().service()
        }
        fn dispatch(
            &self,
            request: crate::rpc::dispatch::IncomingRequest<'_>,
        ) -> crate::rpc::dispatch::Dispatch {
            lock(&self.0).push(request.metadata().timeout());
            request.serve(&RECEIVE, |()| std::future::pending::<()>())
        }
    }
    struct Hop(Connection);
    impl crate::rpc::dispatch::ServiceDispatcher for Hop {
        fn service(&self) -> &'static crate::rpc::method::Service {
            Raw::default().service()
        }
        fn dispatch(
            &self,
            request: crate::rpc::dispatch::IncomingRequest<'_>,
        ) -> crate::rpc::dispatch::Dispatch {
            let next = self.0.clone();
            request.serve(&NOP, |()| async move {
                tokio::time::sleep(Duration::from_secs(3)).await;
                let _ = next.call::<(), (), Never>(&NOP, ()).await;
            })
        }
    }
    let (to_last, _last) = local::pair(Options::new(), Options::new().serve(Seen(Arc::clone(&timeouts))));
    let (client, _hop) = local::pair(Options::new(), Options::new().serve(Hop(to_last)));
    let called = client.call::<(), (), Never>(&NOP, ()).with_timeout(Duration::from_secs(10)).await;
    assert!(matches!(called, Err(CallError::TimedOut { .. })), "{called:?}");
    let seen = lock(&timeouts).clone();
    let [Some(left)] = seen[..] else { panic!("{seen:?}") };
    assert!(left <= Duration::from_secs(7) && left > Duration::from_secs(6), "{left:?}");
}
