//! Senders that wait, and permits, on a link whose peer reads when the test wants.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

use super::*;
use crate::{
    link::{Head, Message, Parts, Sink, memory},
    rpc::{
        call::Call,
        connection::Connection,
        errors::{Never, Refusal, TrySendError},
        method::{Method, method},
        method_id::MethodId,
        options::Options,
    },
    settings::Settings,
};

const RECEIVE: Method = method("Raw", "receive", MethodId::new(2), false, false);

/// What an element of `value` takes: a length of one byte, and itself.
const ELEMENT: usize = 100;

fn value(number: u8) -> Vec<u8> {
    vec![number; ELEMENT - 1]
}

type Receiving = Call<(Rx<Vec<u8>>,), (), Never>;

/// A link within this process, and a stream on it whose receiver is the peer.
struct Stream {
    tx: Tx<Vec<u8>>,
    peer: Parts,
    _connection: Connection,
    _call: Box<Receiving>,
}

/// `send_buffer` bytes of the link, and `window` bytes of the stream, wait for the peer to read.
fn stream(send_buffer: u32, window: usize) -> Stream {
    let window = u32::try_from(window).unwrap();
    let settings = Settings::default().send_buffer(send_buffer).initial_channel_credit(window);
    let (ours, peer) = memory::pair(&settings, &settings);
    let connection = Connection::start(ours, &Options::new());
    let (tx, rx) = channel();
    let mut call = Box::new(connection.call(&RECEIVE, (rx,)));
    assert!(poll(Pin::new(&mut *call)).is_pending(), "it was sent");
    Stream { tx, peer, _connection: connection, _call: call }
}

impl Stream {
    /// Reads what was sent: the first byte of each value.
    fn read(&mut self) -> Vec<u8> {
        struct Firsts(Vec<u8>);
        impl Sink for Firsts {
            fn message(&mut self, message: Message<'_>) -> bool {
                if let Head::Data { .. } = message.head {
                    self.0.push(message.payload.to_vec()[1]);
                }
                true
            }
        }
        let mut firsts = Firsts(Vec::new());
        while self.peer.receiver.drain(&mut firsts).unwrap() > 0 {}
        firsts.0
    }

    fn writers(&self) -> usize {
        lock(&self.tx.channel.state).writers.len()
    }
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Counts its wake-ups. Each is another task's.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Lets the link's driver run until it waits.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Fails when a permit finds the link full as others do, and when one is given while anything is parked.
#[tokio::test]
async fn with_a_permit_a_value_goes_out_in_its_turn_however_full_the_link_is() {
    let mut stream = stream(10 * ELEMENT as u32, 1 << 16);
    let permit = stream.tx.reserve(ELEMENT).await.unwrap();
    let mut sent = 0;
    while stream.tx.try_send(value(sent)).is_ok() {
        sent += 1;
    }
    assert!(sent > 2, "the link had room for {sent}");
    permit.send(value(100)).unwrap();
    assert!(matches!(stream.tx.try_reserve(ELEMENT), Err(TrySendError::Full(()))));
    assert!(poll(pin!(stream.tx.reserve(ELEMENT))).is_pending());
    assert!(poll(pin!(stream.tx.send(value(101)))).is_pending());
    let mut read = stream.read();
    settle().await; // the driver sends what is parked
    stream.tx.try_send(value(102)).unwrap();
    settle().await;
    read.extend(stream.read());
    let expected: Vec<u8> = (0..sent).chain([100, 102]).collect();
    assert_eq!(read, expected);
    stream.tx.try_reserve(ELEMENT).unwrap().send(value(103)).unwrap();
}

/// Fails when the longer value is parked.
#[tokio::test]
async fn a_value_longer_than_its_permit_comes_back_from_a_full_link() {
    let stream = stream(10 * ELEMENT as u32, 1 << 16);
    let permit = stream.tx.reserve(ELEMENT - 1).await.unwrap();
    while stream.tx.try_send(value(1)).is_ok() {}
    let error = permit.send(value(7)).unwrap_err();
    assert!(error.is_full(), "{error:?}");
    assert_eq!(error.into_inner(), value(7));
}

/// Fails when credit that is set aside counts as free, and when it is set aside for good.
#[tokio::test]
async fn credit_of_a_permit_is_nobody_elses_until_it_is_dropped() {
    let mut stream = stream(1 << 16, 4 * ELEMENT);
    let first = stream.tx.try_reserve(2 * ELEMENT).unwrap();
    let second = stream.tx.try_reserve(2 * ELEMENT).unwrap();
    assert!(stream.tx.try_send(value(1)).unwrap_err().is_full());
    assert!(stream.tx.try_reserve(1).unwrap_err().is_full());
    drop(first);
    stream.tx.try_send(value(2)).unwrap();
    stream.tx.try_send(value(3)).unwrap();
    assert!(stream.tx.try_send(value(4)).unwrap_err().is_full());
    second.send(value(5)).unwrap(); // which needs half of what it has
    stream.tx.try_send(value(6)).unwrap();
    assert!(stream.tx.try_send(value(7)).unwrap_err().is_full());
    assert_eq!(stream.read(), [2, 3, 5, 6]);
}

/// Fails when the drop of a permit, or what a value leaves of it, wakes nobody.
#[tokio::test]
async fn who_waits_for_credit_hears_of_what_a_permit_gives_back() {
    for used in [false, true] {
        for remote in [false, true] {
            let stream = stream(1 << 16, 64 << 10);
            let (local, _rx) = channel();
            let tx = if remote { &stream.tx } else { &local };
            let permit = tx.try_reserve(64 << 10).unwrap();
            let mut wait = pin!(tx.send(value(1)));
            let woken = Arc::new(Woken::default());
            assert!(wait.as_mut().poll(&mut Context::from_waker(&Arc::clone(&woken).into())).is_pending());
            if used {
                permit.send(value(0)).unwrap()
            } else {
                drop(permit)
            }
            assert_eq!(woken.0.load(SeqCst), 1, "used {used}, remote {remote}");
            assert!(matches!(poll(wait), Poll::Ready(Ok(()))));
        }
    }
}

/// Fails with wakers in a list without tickets.
#[tokio::test]
async fn a_wait_that_is_given_up_leaves_nothing() {
    let stream = stream(1 << 16, 2 * ELEMENT);
    stream.tx.try_send(value(1)).unwrap();
    stream.tx.try_send(value(2)).unwrap();
    for _ in 0..1000 {
        // A task of its own each, whose waker is like no other.
        let waker = Waker::from(Arc::new(Woken::default()));
        let mut cx = Context::from_waker(&waker);
        let (mut closed, mut send) = (pin!(stream.tx.closed()), pin!(stream.tx.send(value(3))));
        let mut reserve = pin!(stream.tx.reserve(ELEMENT));
        for _ in 0..2 {
            assert!(closed.as_mut().poll(&mut cx).is_pending());
            assert!(send.as_mut().poll(&mut cx).is_pending());
            assert!(reserve.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(stream.writers(), 3);
    }
    assert_eq!(stream.writers(), 0);
}

/// Fails when `passed` leaves the channel direct at once: nobody woke the sender, who waited for room in a queue that
/// is used no more.
#[tokio::test]
async fn who_waits_for_room_within_the_process_is_woken_when_the_other_half_is_passed() {
    let (ours, _peer) = memory::pair(&Settings::default(), &Settings::default());
    let connection = Connection::start(ours, &Options::new());
    let (tx, rx) = channel();
    let permit = tx.try_reserve(64 << 10).unwrap();
    let mut wait = pin!(tx.send(value(1)));
    let woken = Arc::new(Woken::default());
    assert!(wait.as_mut().poll(&mut Context::from_waker(&Arc::clone(&woken).into())).is_pending());
    let mut call = pin!(connection.call::<_, (), Never>(&RECEIVE, (rx,)));
    assert!(poll(call.as_mut()).is_pending());
    settle().await;
    assert_eq!(woken.0.load(SeqCst), 1);
    assert!(matches!(poll(wait), Poll::Ready(Ok(()))), "the link has room");
    permit.send(value(2)).unwrap(); // the room of this process is not needed any more
}

#[tokio::test]
async fn no_permit_is_longer_than_what_can_ever_be_sent() {
    let stream = stream(1 << 16, 1000);
    let refused = stream.tx.reserve(1001).await;
    let refusal = Refusal::ElementTooLarge { len: 1001, window: 1000 };
    assert!(matches!(&refused, Err(SendError::Refused(found)) if *found == refusal), "{refused:?}");
    assert_eq!(stream.tx.reserve(1000).await.unwrap().reserved(), 1000);
}

/// Fails when `start_send` takes the place of the held value: that was lost without a word.
#[tokio::test]
#[should_panic(expected = "without a poll_ready")]
async fn a_sink_that_holds_a_value_takes_no_other() {
    use futures_sink::Sink as _;
    let mut stream = stream(1 << 16, ELEMENT);
    for number in 0..3 {
        Pin::new(&mut stream.tx).start_send(value(number)).unwrap();
    }
}
