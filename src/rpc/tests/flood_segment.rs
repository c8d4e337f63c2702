//! Floods over shared memory, from a peer that writes its half itself.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use adjoin_shm_layout::Geometry;

use super::{Opening, end_of, request, settle, until};
use crate::{
    error::LinkEnd,
    link::{ChannelRef, Head, Message, Parts, SendFault, Sink},
    rpc::{
        connection::Connection,
        dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
        method::{Method, Service, method, service},
        method_id::MethodId,
        options::Options,
        rx::Rx,
        waiters::lock,
    },
    segments::pair_for_test,
    session::{answer::Verdict, channels::Arrived, connections::ConnKey},
    settings::{Settings, Waiting},
};

const HANG: Method = method("Stuck", "hang", MethodId::new(1), false, false);
const IGNORE: Method = method("Stuck", "ignore", MethodId::new(2), false, false);

/// Handlers that never end. Counts those that there are.
#[derive(Clone, Default)]
struct Stuck(Arc<AtomicUsize>);

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed); // Relaxed: counted and read by one thread
    }
}

impl ServiceDispatcher for Stuck {
    fn service(&self) -> &'static Service {
        static STUCK: Service = service("Stuck", &[HANG, IGNORE]);
        &STUCK
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        self.0.fetch_add(1, Ordering::Relaxed); // Relaxed: counted and read by one thread
        let running = Running(Arc::clone(&self.0));
        match request.method_id() {
            id if id == HANG.id => request.serve(&HANG, |()| async move {
                std::future::pending::<()>().await;
                drop(running);
            }),
            _ => request.serve(&IGNORE, |(units,): (Rx<()>,)| async move {
                std::future::pending::<()>().await;
                drop((units, running));
            }),
        }
    }
}

const GEOMETRY: Geometry = Geometry {
    ring_bytes: 1 << 16,
    channel_slots: 16,
    max_payload_size: 4096,
    initial_channel_credit: 1024,
    arena_blocks: 8,
    arena_bytes: 2 << 12,
};

/// Our side, the acceptor, with its handlers, and the peer's.
async fn pair(settings: Settings) -> (Connection, Arc<AtomicUsize>, Parts) {
    let (ours, peer) = pair_for_test(&GEOMETRY, Waiting::Sleep).await;
    let stuck = Stuck::default();
    let options = Options::new().settings(settings).serve(stuck.clone());
    (Connection::start(ours, &options), stuck.0, peer)
}

/// Counts answers, all of which are to say Cancelled.
#[derive(Default)]
struct Answers(usize);

impl Sink for Answers {
    fn message(&mut self, message: Message<'_>) -> bool {
        assert!(matches!(message.head, Head::Response { .. }), "{message:?}");
        assert_eq!(message.payload.to_vec(), Verdict::Cancelled.bytes());
        self.0 += 1;
        true
    }
}

/// Writes one message as soon as there is room. `false`: there is none.
fn write(peer: &mut Parts, head: &Head<'_>, payload: &[u8], channels: &[ChannelRef]) -> bool {
    match peer.sender.send(head, &mut Opening(payload, channels)) {
        Ok(_) => {
            let _ = peer.sender.publish();
            true
        }
        Err(SendFault::Full) => {
            let _ = peer.sender.has_room();
            false
        }
        Err(fault) => panic!("{fault:?}"),
    }
}

/// A request and its Cancel, as soon as there is room.
async fn write_pair(peer: &mut Parts, id: u64) {
    until(|| write(peer, &request(&HANG, id), &[], &[])).await;
    until(|| write(peer, &Head::Cancel { conn_id: 0, request_id: id }, &[], &[])).await;
}

/// Fails when a request leaves its place with its Cancel: more handlers run than may.
#[tokio::test]
async fn requests_and_cancels_over_a_segment_are_all_answered_and_run_up_to_the_limit() {
    const PAIRS: usize = 20_000;
    let (connection, handlers, mut peer) = pair(Settings::default().max_concurrent_requests(8)).await;
    let mut answers = Answers::default();
    for id in 1..=PAIRS as u64 {
        write_pair(&mut peer, id).await;
        while peer.receiver.drain(&mut answers).expect("the link lives") > 0 {}
        assert!(handlers.load(Ordering::Relaxed) <= 8); // Relaxed: as above
    }
    until(|| {
        let _ = peer.receiver.drain(&mut answers).expect("the link lives");
        answers.0 == PAIRS
    })
    .await;
    settle().await;
    assert_eq!(peer.receiver.drain(&mut answers).expect("the link lives"), 0, "one answer each");
    assert_eq!(handlers.load(Ordering::Relaxed), 0); // Relaxed: as above
    assert!(lock(&connection.hub().session).is_quiet(ConnKey::ROOT));
    assert_eq!(lock(&connection.hub().room).len(), 0);
}

/// Fails without the bound on what is parked: this side grew for as long as the peer wrote.
#[tokio::test]
async fn a_peer_on_a_segment_that_never_reads_is_let_go() {
    let (connection, _, mut peer) = pair(Settings::default().max_parked_messages(100)).await;
    let mut ids = 1..20_000;
    while connection.end().is_none() {
        let id = ids.next().expect("it is let go");
        write(&mut peer, &request(&HANG, id), &[], &[]);
        write(&mut peer, &Head::Cancel { conn_id: 0, request_id: id }, &[], &[]);
        tokio::task::yield_now().await;
    }
    let end = end_of(&connection).await;
    assert!(matches!(end, LinkEnd::Unread { messages: 100 }), "{end:?}");
}

/// Fails when they are stored: four bytes each.
#[tokio::test]
async fn empty_elements_over_a_segment_take_no_room() {
    let (connection, handlers, mut peer) = pair(Settings::default()).await;
    let table = peer.credit.clone().expect("shared memory has one");
    let slot = table.allot().expect("it is the first");
    table.open(slot, 1024);
    assert!(write(&mut peer, &request(&IGNORE, 1), &[1], &[ChannelRef { id: 1, slot }]));
    for _ in 0..200_000 {
        until(|| write(&mut peer, &Head::Data { conn_id: 0, channel_id: 1 }, &[], &[])).await;
    }
    settle().await;
    assert_eq!(handlers.load(Ordering::Relaxed), 1); // Relaxed: as above
    let mut session = lock(&connection.hub().session);
    let root = session.connection(ConnKey::ROOT).expect("the root is always there");
    let Ok(Arrived::Open(entry)) = root.channels.arrived(1) else { panic!("it is open") };
    let state = lock(&entry.channel.state);
    assert!(!state.queue.is_empty());
    assert!(state.queue.capacity() < 1024, "{}", state.queue.capacity());
}
