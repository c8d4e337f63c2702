//! Waits whose end depends on what a link, or another thread, does in between.

use std::{
    cell::RefCell,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use serde::{Deserialize, Serialize, Serializer};

use super::{RECEIVE, Raw, SEND, end_of, nop, poll, settle, until, within};
use crate::{
    error::LinkEnd,
    link::{
        Body, Brought, Head, Limits, Message, Parts, Publish, Receiver, Role, SendFault, Sender, Sink,
        Watcher, memory, message::encode_into,
    },
    rpc::{
        connection::Connection,
        errors::{CallError, Never, Refusal},
        options::Options,
        rx::Rx,
        tx::Tx,
        waiters::lock,
    },
    settings::Settings,
};

/// A link of these parts.
fn start(sender: impl Sender + 'static, receiver: impl Receiver + 'static, gone: bool) -> Connection {
    let parts = Parts {
        role: Role::Initiator,
        limits: Limits { max_payload_size: 1000, initial_channel_credit: 1000 },
        sender: Box::new(sender),
        receiver: Box::new(receiver),
        credit: None,
        lending: None,
        watcher: gone.then(|| Box::new(HungUp) as Box<dyn Watcher>),
        interrupt: None,
    };
    Connection::start(parts, &Options::new().serve(Raw::default()))
}

/// Refuses so many messages, though it has room each time that it is asked: another sender takes it first.
struct Fickle {
    refuses: usize,
    sent: Arc<AtomicUsize>,
}

impl Sender for Fickle {
    fn send(&mut self, _: &Head<'_>, _: &mut dyn Body) -> Result<usize, SendFault> {
        if self.refuses > 0 {
            self.refuses -= 1;
            return Err(SendFault::Full);
        }
        self.sent.fetch_add(1, Ordering::Relaxed); // Relaxed: counted and read by one thread
        Ok(0)
    }

    fn publish(&mut self) -> Publish {
        Publish::Done
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LinkEnd>> {
        Poll::Ready(Ok(()))
    }

    fn has_room(&mut self) -> Result<bool, LinkEnd> {
        Ok(true)
    }
}

/// Hears nothing.
struct Silent;

impl Receiver for Silent {
    fn drain(&mut self, _: &mut dyn Sink) -> Result<usize, LinkEnd> {
        Ok(0)
    }

    fn poll_receive(&mut self, _: &mut Context<'_>, _: &mut dyn Sink) -> Poll<Result<usize, LinkEnd>> {
        Poll::Pending
    }
}

/// Has one more message whenever it is drained. Panics when that has no end, which ends the link as closed.
struct Endless {
    drained: u32,
}

impl Receiver for Endless {
    fn drain(&mut self, sink: &mut dyn Sink) -> Result<usize, LinkEnd> {
        self.drained += 1;
        assert!(self.drained < 1_000_000, "drained without end");
        let head = Head::Cancel { conn_id: 0, request_id: 1 };
        sink.message(Message { head, channels: &[], payload: Brought::Here(&[]) });
        Ok(1)
    }

    fn poll_receive(&mut self, _: &mut Context<'_>, _: &mut dyn Sink) -> Poll<Result<usize, LinkEnd>> {
        Poll::Pending
    }
}

/// Sees that the peer has closed its end.
struct HungUp;

impl Watcher for HungUp {
    fn poll_rung(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LinkEnd>> {
        Poll::Ready(Err(LinkEnd::Gone))
    }
}

/// Fails when `wait_for_room` leaves a link that has room to the driver's next turn, which nothing brings.
#[tokio::test]
async fn a_call_that_finds_room_taken_by_another_sender_goes_out_with_the_next() {
    for refuses in 0..6 {
        let sent = Arc::new(AtomicUsize::new(0));
        let connection = start(Fickle { refuses, sent: Arc::clone(&sent) }, Silent, false);
        settle().await; // the driver sleeps
        let call = tokio::spawn(async move { nop(&connection).await });
        until(|| sent.load(Ordering::Relaxed) == 1).await; // Relaxed: counted by this thread
        call.abort();
    }
}

/// Refuses its elements as full, once, and then so many times for want of memory; and keeps those that it sends.
struct Short {
    refuses: u32,
    sent: Arc<Mutex<Vec<usize>>>,
}

impl Sender for Short {
    fn send(&mut self, head: &Head<'_>, body: &mut dyn Body) -> Result<usize, SendFault> {
        let (mut payload, mut channels) = (Vec::new(), Vec::new());
        let len = encode_into(body, &mut payload, &mut channels).map_err(SendFault::Encode)?;
        if matches!(head, Head::Data { .. }) {
            self.refuses += 1;
            match self.refuses {
                1 => return Err(SendFault::Full),
                2..5 => return Err(SendFault::NoMemory { len, kind: std::io::ErrorKind::OutOfMemory }),
                _ => lock(&self.sent).push(len),
            }
        }
        Ok(len)
    }

    fn publish(&mut self) -> Publish {
        Publish::Done
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LinkEnd>> {
        Poll::Ready(Ok(()))
    }

    fn has_room(&mut self) -> Result<bool, LinkEnd> {
        Ok(true)
    }
}

/// Fails, by a stream with a hole, where `flush_parked` drops what finds no memory, and as a hang without
/// `retry_later`.
#[tokio::test(start_paused = true)]
async fn a_parked_element_that_finds_no_memory_is_sent_later_and_in_its_order() {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let connection = start(Short { refuses: 0, sent: Arc::clone(&sent) }, Silent, false);
    let (tx, rx) = crate::channel::<Vec<u8>>();
    let mut call = pin!(connection.call::<(Rx<Vec<u8>>,), (), Never>(&RECEIVE, (rx,)));
    assert!(poll(call.as_mut()).is_pending());
    let permit = tx.try_reserve(101).expect("there is credit");
    permit.send(vec![1; 100]).expect("it has a permit");
    within(tx.send(vec![2; 50])).await.unwrap();
    assert_eq!(*lock(&sent), [101, 51]);
}

/// Its process lives, its end of the socket is closed. Fails without `LAST_BATCHES`: the driver drained for
/// as long as the peer wrote.
#[tokio::test]
async fn a_peer_that_hangs_up_and_goes_on_writing_is_let_go() {
    let sender = Fickle { refuses: 0, sent: Arc::default() };
    let connection = start(sender, Endless { drained: 0 }, true);
    let end = end_of(&connection).await;
    assert!(matches!(end, LinkEnd::Gone), "{end:?}");
}

thread_local! {
    /// What happens while a `Meanwhile` is encoded.
    static MEANWHILE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// An argument during whose encoding something else happens.
#[derive(Deserialize)]
struct Meanwhile;

impl Serialize for Meanwhile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(meanwhile) = MEANWHILE.take() {
            meanwhile();
        }
        serializer.serialize_unit()
    }
}

fn client() -> (Connection, Parts) {
    let (ours, peer) = memory::pair(&Settings::default(), &Settings::default());
    (Connection::start(ours, &Options::new()), peer)
}

/// The half is bound, and its message not sent yet, when the other one is passed on another link. Fails when
/// `start_pass` looks at the channel's way alone: both went out, and neither end fed the other.
#[tokio::test]
async fn of_both_halves_passed_at_once_one_is_refused() {
    let ((one, _peer), (other, _others_peer)) = (client(), client());
    let (tx, rx) = crate::channel::<Vec<u8>>();
    let second = other.call::<(Tx<Vec<u8>>,), (), Never>(&SEND, (tx,));
    MEANWHILE.set(Some(Box::new(move || {
        let refused = poll(pin!(second));
        let in_use = matches!(refused, Poll::Ready(Err(CallError::Refused(Refusal::HandleInUse))));
        assert!(in_use, "{refused:?}");
    })));
    let mut first = pin!(one.call::<(Rx<Vec<u8>>, Meanwhile), (), Never>(&RECEIVE, (rx, Meanwhile)));
    assert!(poll(first.as_mut()).is_pending(), "it was sent");
    assert!(MEANWHILE.take().is_none(), "the other one was tried");
}

/// What was refused binds nothing: its half may be passed by the next call. Fails when `Pass` is not given
/// back.
#[tokio::test]
async fn a_half_whose_call_was_refused_can_be_passed_again() {
    let (connection, _peer) = client();
    let (tx, rx) = crate::channel::<Vec<u8>>();
    let too_long = vec![0; 65 << 20];
    let mut call = pin!(connection.call::<(Rx<Vec<u8>>, Vec<u8>), (), Never>(&RECEIVE, (rx, too_long)));
    let refused = poll(call.as_mut());
    assert!(
        matches!(refused, Poll::Ready(Err(CallError::Refused(Refusal::PayloadTooLarge { .. })))),
        "{refused:?}"
    );
    let mut call = pin!(connection.call::<(Tx<Vec<u8>>,), (), Never>(&SEND, (tx,)));
    assert!(poll(call.as_mut()).is_pending(), "it was sent");
}
