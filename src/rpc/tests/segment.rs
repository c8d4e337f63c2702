//! A peer on shared memory that handles its slots and its credit itself.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
};

use adjoin_shm_layout::Geometry;

use super::{ELEMENT, Opening, RECEIVE, Raw, SEND, poll, request, settle, until};
use crate::{
    link::{
        ChannelRef, CreditSlot, CreditTable, Head, Message, Parts, Sink,
        testing::{Collector, message},
    },
    rpc::{
        connect::ConnectOptions, connection::Connection, deliver::Deliver, errors::Never, options::Options,
        rx::Rx, waiters::lock,
    },
    segments::pair_for_test,
    session::metadata::Metadata,
    settings::Waiting,
};

/// A window of eight elements.
const WINDOW: usize = 8 * ELEMENT;

const GEOMETRY: Geometry = Geometry {
    ring_bytes: 1 << 16,
    channel_slots: 16,
    max_payload_size: 4096,
    initial_channel_credit: WINDOW as u32,
    arena_blocks: 8,
    arena_bytes: 2 << 12,
};

/// Our side, the acceptor, and the peer's with its table.
async fn pair() -> (Connection, Parts, Arc<dyn CreditTable>) {
    let (ours, peer) = pair_for_test(&GEOMETRY, Waiting::Sleep).await;
    let table = peer.credit.clone().expect("shared memory has one");
    (Connection::start(ours, &Options::new().serve(Raw::default())), peer, table)
}

/// Counts elements, and remembers channels.
#[derive(Default)]
struct Seen {
    elements: usize,
    channels: Vec<ChannelRef>,
}

impl Sink for Seen {
    fn message(&mut self, message: Message<'_>) -> bool {
        self.elements += usize::from(matches!(message.head, Head::Data { .. }));
        self.channels.extend(message.channels);
        true
    }
}

impl Seen {
    /// Takes what has arrived.
    fn drain(&mut self, peer: &mut Parts) -> usize {
        while peer.receiver.drain(self).expect("the link lives") > 0 {}
        self.elements
    }
}

fn send(peer: &mut Parts, head: &Head<'_>, payload: &[u8], channels: &[ChannelRef]) {
    peer.sender.send(head, &mut Opening(payload, channels)).expect("there is room");
}

/// Opens a stream that our side fills.
fn open(peer: &mut Parts, table: &dyn CreditTable, id: u64) -> CreditSlot {
    let slot = table.allot().expect("there are more than the test takes");
    table.open(slot, WINDOW as u64);
    send(peer, &request(&SEND, id), &[1], &[ChannelRef { id, slot }]);
    slot
}

/// Receives as a thread does that reads its own answer: the tasks that it wakes run before the driver's.
fn read_as_a_thread_does(connection: &Connection) -> usize {
    let hub = connection.hub();
    let mut receiver = lock(&hub.receive);
    let mut deliver = Deliver::new(hub);
    let messages = receiver.drain(&mut deliver).expect("the link lives");
    assert!(deliver.finish().is_none());
    hub.return_role(receiver);
    messages
}

/// Both are noted as waiting for a moment: the first one's wait was taken back for the slot, and with it the
/// second's. Fails when `wake_granted` does not repeat the waits of those that stay.
#[tokio::test]
async fn a_slot_used_again_keeps_the_wait_of_its_new_sender() {
    let (connection, mut peer, table) = pair().await;
    let mut seen = Seen::default();
    let first = open(&mut peer, &*table, 1);
    let _ = peer.sender.publish();
    until(|| seen.drain(&mut peer) == 8).await;
    settle().await; // its sender waits, and the driver sleeps
    send(&mut peer, &Head::Reset { conn_id: 0, channel_id: 1 }, &[], &[]);
    table.give_back(first);
    let again = open(&mut peer, &*table, 3);
    assert_eq!(again.index, first.index);
    let _ = peer.sender.publish();
    assert_eq!(read_as_a_thread_does(&connection), 2);
    until(|| seen.drain(&mut peer) == 16).await;
    settle().await;
    table.grant(again, (WINDOW + 4 * ELEMENT) as u64); // only this: no message
    until(|| seen.drain(&mut peer) == 20).await;
}

/// A task that knows how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed); // Relaxed: counted and read by one thread
    }
}

/// The one that found the credit itself left a total that did not change any more: the other one slept on.
/// Fails when `wake_granted` compares with what was granted just before it looks, not with what the wait
/// began at.
#[tokio::test]
async fn a_sender_is_woken_for_credit_that_another_one_of_its_stream_has_seen_first() {
    let (connection, mut peer, table) = pair().await;
    let (tx, rx) = crate::channel::<Vec<u8>>();
    let mut call = pin!(connection.call::<(Rx<Vec<u8>>,), (), Never>(&RECEIVE, (rx,)));
    assert!(poll(call.as_mut()).is_pending());
    let mut seen = Seen::default();
    until(|| {
        seen.drain(&mut peer);
        !seen.channels.is_empty()
    })
    .await;
    let slot = seen.channels[0].slot;
    table.open(slot, WINDOW as u64);
    for _ in 0..8 {
        assert!(poll(pin!(tx.send(vec![1; ELEMENT - 2]))).is_ready());
    }
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    let mut big = pin!(tx.send(vec![2; 6 * ELEMENT]));
    assert!(big.as_mut().poll(&mut cx).is_pending(), "there is no credit");
    settle().await; // the driver sleeps
    woken.0.store(0, Ordering::Relaxed); // Relaxed: counted and read by one thread
    table.grant(slot, (WINDOW + 8 * ELEMENT) as u64); // rings; the driver has not looked yet
    assert!(poll(pin!(tx.send(vec![3; ELEMENT - 2]))).is_ready(), "it fits, and looks itself");
    until(|| woken.0.load(Ordering::Relaxed) > 0).await; // Relaxed: as above
    assert!(big.as_mut().poll(&mut cx).is_ready());
}

/// An answer longer than the ring carries was lost, and the peer waited for it for good. Fails when `send_parkable`
/// ignores what is too large.
#[tokio::test]
async fn an_answer_to_a_connect_that_the_ring_cannot_carry_is_refused_here_and_rejected_over_there() {
    let geometry = Geometry { ring_bytes: 1 << 12, ..GEOMETRY };
    let (ours, mut peer) = pair_for_test(&geometry, Waiting::Sleep).await;
    let mut large = Metadata::new();
    large.push("k", vec![0; 4096]);
    let refusals = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&refusals);
    let options = Options::new().on_connect(move |asked| {
        let refused = if asked.metadata().is_empty() {
            asked.accept(ConnectOptions::new().metadata(large.clone())).map(drop).unwrap_err().to_string()
        } else {
            asked.reject_with("no", &large).unwrap_err().to_string()
        };
        lock(&told).push(refused);
    });
    let connection = Connection::start(ours, &options);
    let mut asked_with = Metadata::new();
    asked_with.push("k", 1u64);
    for (request_id, metadata) in [(1, Vec::new()), (2, asked_with.encode().unwrap())] {
        send(&mut peer, &Head::Connect { request_id, metadata: &metadata }, &[], &[]);
    }
    let _ = peer.sender.publish();
    until(|| lock(&refusals).len() == 2).await;
    assert!(lock(&refusals).iter().all(|refusal| refusal.contains("ring_bytes")), "{refusals:?}");
    let mut heard = Collector::all();
    until(|| {
        while peer.receiver.drain(&mut heard).is_ok_and(|messages| messages > 0) {}
        heard.messages.len() == 2
    })
    .await;
    let reject =
        |request_id| message(&Head::Reject { request_id, reason: "not accepted", metadata: &[] }, &[]);
    assert_eq!(heard.messages, [reject(1), reject(2)]);
    assert!(connection.end().is_none());
}
