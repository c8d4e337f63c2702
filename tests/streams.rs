//! What the handles of streams offer beside `send` and `recv`, on every link and on every kind of runtime; and what is
//! lost when a wait is given up: nothing, or what the documentation says.
#![allow(missing_docs)]

mod common;

use std::{
    collections::BTreeSet,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
};

use adjoin::{
    Call, Connection, Never, Options, Permit, RecvError, Refusal, Rx, SendError, Settings, TryRecvError,
    TrySendError, Tx, channel,
};
use common::{
    links::{Far, Kind, link},
    watchdog::Watchdog,
};
use futures_core::{FusedStream, Stream};
use futures_sink::Sink;
use tokio::task::{LocalSet, yield_now};

/// A number, and bytes that cost credit.
type Item = (u32, Vec<u8>);

#[adjoin::service]
trait Streams {
    /// Receives when the gate has ended: all numbers, and how they end.
    async fn gather(&self, gate: Rx<u8>, items: Rx<Item>) -> (Vec<u32>, String);
    /// Receives so many and drops the stream.
    async fn take(&self, count: u32, items: Rx<Item>);
    /// Sends the numbers below `count`.
    async fn emit(&self, count: u32, padding: u32) -> Rx<Item>;
    /// Sends so many, and breaks the stream off.
    async fn break_off(&self, count: u32) -> Rx<Item>;
    /// Sends for as long as it can: how many, and why no more.
    async fn emit_into(&self, items: Tx<Item>) -> (u32, String);
}

struct Plain;

impl Streams for Plain {
    async fn gather(&self, mut gate: Rx<u8>, mut items: Rx<Item>) -> (Vec<u32>, String) {
        let _ = gate.recv().await;
        let mut numbers = Vec::new();
        loop {
            match items.recv().await {
                Ok(Some((number, _))) => numbers.push(number),
                Ok(None) => return (numbers, "closed".into()),
                Err(error) => return (numbers, error.to_string()),
            }
        }
    }

    async fn take(&self, count: u32, mut items: Rx<Item>) {
        for _ in 0..count {
            items.recv().await.unwrap();
        }
    }

    async fn emit(&self, count: u32, padding: u32) -> Rx<Item> {
        let (tx, rx) = channel();
        tokio::spawn(async move {
            for number in 0..count {
                if tx.send((number, vec![0; padding as usize])).await.is_err() {
                    return;
                }
            }
        });
        rx
    }

    async fn break_off(&self, count: u32) -> Rx<Item> {
        let (tx, rx) = channel();
        tokio::spawn(async move {
            for number in 0..count {
                tx.send((number, Vec::new())).await.unwrap();
            }
            yield_now().await;
            tx.reset();
        });
        rx
    }

    async fn emit_into(&self, items: Tx<Item>) -> (u32, String) {
        for number in 0.. {
            if let Err(error) = items.send((number, vec![0; 100])).await {
                return (number, error.to_string());
            }
        }
        unreachable!("numbers have no end that a test could wait for")
    }
}

const WINDOW: u32 = 4096;

fn settings() -> Settings {
    Settings::default().initial_channel_credit(WINDOW)
}

fn serving() -> Options {
    Options::new().settings(settings()).serve(StreamsDispatcher::new(Plain))
}

#[cfg(target_os = "linux")]
#[test]
fn cell_entry() {
    common::links::serve_if_cell_with(serving);
}

/// A client of the far end, and what keeps that alive.
struct Peer {
    far: StreamsClient,
    _link: (Connection, Far),
}

async fn connect(kind: Kind) -> Peer {
    let link = link(kind, Options::new().settings(settings()), serving()).await;
    Peer { far: StreamsClient::new(&link.0), _link: link }
}

/// Runs a behaviour on a runtime of each kind.
fn run<F: Future<Output = ()>>(kind: Kind, behaviour: impl Fn(Peer) -> F) {
    let _hang = Watchdog::seconds(60);
    let one = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let many = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let behave = || async { behaviour(connect(kind).await).await };
    one().block_on(behave());
    many().block_on(behave());
    LocalSet::new().block_on(&one(), behave());
}

macro_rules! behaviours {
    ($($name:ident)*) => {
        mod local { $(#[test] fn $name() { super::run(super::Kind::Local, super::$name); })* }
        mod uds { $(#[test] fn $name() { super::run(super::Kind::Uds, super::$name); })* }
        mod tcp { $(#[test] fn $name() { super::run(super::Kind::Tcp, super::$name); })* }
        #[cfg(target_os = "linux")]
        mod shm { $(#[test] fn $name() { super::run(super::Kind::Shm, super::$name); })* }
        /// Through a proxy, from a socket into shared memory.
        #[cfg(target_os = "linux")]
        mod uds_proxy_shm {
            $(#[test] fn $name() {
                super::run(super::Kind::Proxied(&[super::Kind::Uds, super::Kind::Shm]), super::$name);
            })*
        }
    };
}

behaviours! {
    a_receive_that_is_given_up_loses_nothing
    a_receive_of_many_that_is_given_up_loses_nothing
    a_send_that_is_given_up_was_not_sent
    a_reservation_that_is_given_up_sets_nothing_aside
    a_wait_for_the_end_that_is_given_up_can_be_begun_again
    a_sink_whose_waits_are_given_up_loses_nothing
    a_stream_ends_once_and_stays_ended
    what_has_no_room_comes_back
    what_has_not_arrived_is_not_waited_for
    permits_of_many_tasks_are_not_stolen
    a_permit_outlives_the_receiver_and_says_so
    a_closed_receiver_gets_what_is_there_and_stops_the_sender
    a_stream_that_is_reset_does_not_look_complete
    threads_without_a_runtime_receive_many_and_send
    tasks_that_stay_on_their_thread_stream
}

/// Polls so many times at most, each time that it is woken, and gives up.
async fn cut<F: Future>(future: F, polls: u32) -> Option<F::Output> {
    let (mut future, mut left) = (pin!(future), polls);
    let output = poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => {
            left -= 1;
            if left == 0 { Poll::Ready(None) } else { Poll::Pending }
        }
    })
    .await;
    if output.is_none() {
        yield_now().await; // for those who have to do something first
    }
    output
}

/// How often to poll before giving up: once, twice, three times, and so on.
fn polls() -> impl Iterator<Item = u32> {
    (1..=3).cycle()
}

fn item(number: u32) -> Item {
    (number, vec![7; PADDING])
}

const PADDING: usize = 100;

/// What an item of [`item`] takes at most: two lengths, and its bytes.
const ITEM: usize = 5 + 5 + PADDING;

async fn a_receive_that_is_given_up_loses_nothing(peer: Peer) {
    let mut items = peer.far.emit(1000, 50).await.unwrap();
    let mut numbers = Vec::new();
    for polls in polls() {
        match cut(items.recv(), polls).await {
            Some(Ok(Some((number, _)))) => numbers.push(number),
            Some(end) => {
                assert!(matches!(end, Ok(None)), "{end:?}");
                break;
            }
            None => {}
        }
    }
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
}

async fn a_receive_of_many_that_is_given_up_loses_nothing(peer: Peer) {
    let mut items = peer.far.emit(1000, 50).await.unwrap();
    let (mut received, mut most) = (Vec::new(), 0);
    assert_eq!(items.recv_many(&mut received, 0).await.unwrap(), 0, "of none, there is nothing to wait for");
    for polls in polls() {
        let before = received.len();
        match cut(items.recv_many(&mut received, 7), polls).await {
            Some(Ok(0)) => break,
            Some(count) => {
                let count = count.unwrap();
                assert_eq!(received.len(), before + count);
                most = most.max(count);
            }
            None => assert_eq!(received.len(), before),
        }
    }
    let numbers: Vec<_> = received.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
    assert_eq!(most, 7, "a window holds more of them");
    assert_eq!(items.recv_many(&mut received, 7).await.unwrap(), 0, "the end stays the end");
}

async fn a_send_that_is_given_up_was_not_sent(peer: Peer) {
    let ((gate, shut), (tx, rx)) = (channel(), channel());
    let mut gate = Some(gate);
    let send = async {
        let (mut sent, mut given_up) = (Vec::new(), 0);
        for (number, polls) in (0..2000).zip(polls()) {
            // While nobody receives, there is no second time.
            let polls = if gate.is_some() { 1 } else { polls };
            match cut(tx.send(item(number)), polls).await {
                Some(done) => sent.push(done.map(|()| number).unwrap()),
                None => given_up += 1,
            }
            if given_up == 20 {
                gate.take(); // the window is full
            }
        }
        assert!(given_up >= 20, "the window was never full");
        drop(tx);
        sent
    };
    let (gathered, sent) = tokio::join!(peer.far.gather(shut, rx), send);
    assert_eq!(gathered.unwrap(), (sent, "closed".into()));
}

async fn a_reservation_that_is_given_up_sets_nothing_aside(peer: Peer) {
    let ((gate, shut), (tx, rx)) = (channel(), channel());
    let mut gate = Some(gate);
    let send = async {
        let (mut sent, mut given_up) = (Vec::new(), 0);
        for (number, polls) in (0..2000).zip(polls()) {
            let polls = if gate.is_some() { 1 } else { polls };
            let Some(permit) = cut(tx.reserve(ITEM), polls).await else {
                given_up += 1;
                if given_up == 20 {
                    gate.take(); // the window is full
                }
                continue;
            };
            let permit: Permit<'_, _> = permit.unwrap();
            if number % 3 == 0 {
                drop(permit);
            } else {
                permit.send(item(number)).unwrap();
                sent.push(number);
            }
        }
        assert!(given_up >= 20, "the window was never full");
        let whole = tx.reserve(WINDOW as usize).await.unwrap();
        drop(whole);
        drop(tx);
        sent
    };
    let (gathered, sent) = tokio::join!(peer.far.gather(shut, rx), send);
    assert_eq!(gathered.unwrap(), (sent, "closed".into()));
}

async fn a_wait_for_the_end_that_is_given_up_can_be_begun_again(peer: Peer) {
    let (tx, rx) = channel();
    let watch = async {
        for (number, polls) in (0..10).zip(polls()) {
            tx.send(item(number)).await.unwrap();
            assert_eq!(cut(tx.closed(), polls.min(1)).await, None);
        }
        assert!(!tx.is_closed());
        tx.send(item(10)).await.unwrap();
        tx.closed().await;
        assert!(tx.is_closed());
        assert_eq!(cut(tx.closed(), 1).await, Some(()), "the end stays the end");
        assert!(matches!(tx.send(item(11)).await, Err(SendError::Closed)));
    };
    let (taken, ()) = tokio::join!(peer.far.take(11, rx), watch);
    taken.unwrap();
}

async fn a_sink_whose_waits_are_given_up_loses_nothing(peer: Peer) {
    let ((gate, shut), (mut tx, rx)) = (channel(), channel());
    let mut gate = Some(gate);
    let send = async {
        let (mut polls, mut given_up) = (polls(), 0);
        for number in 0..1000 {
            loop {
                let polls = if gate.is_some() { 1 } else { polls.next().unwrap() };
                if let Some(ready) = cut(poll_fn(|cx| Pin::new(&mut tx).poll_ready(cx)), polls).await {
                    break ready.unwrap();
                }
                given_up += 1;
                if given_up == 20 {
                    gate.take(); // the window is full, and one is held
                }
            }
            Pin::new(&mut tx).start_send(item(number)).unwrap();
        }
        assert!(given_up >= 20, "the window was never full");
        while cut(poll_fn(|cx| Pin::new(&mut tx).poll_close(cx)), polls.next().unwrap()).await.is_none() {}
        assert!(matches!(Pin::new(&mut tx).start_send(item(0)), Err(SendError::Closed)));
        tx
    };
    let (gathered, _tx) = tokio::join!(peer.far.gather(shut, rx), send);
    assert_eq!(gathered.unwrap(), ((0..1000).collect(), "closed".into()));
}

async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await
}

async fn a_stream_ends_once_and_stays_ended(peer: Peer) {
    let mut items = peer.far.emit(100, 50).await.unwrap();
    let (mut polls, mut expected) = (polls(), 0);
    loop {
        assert!(!items.is_terminated());
        match cut(next(&mut items), polls.next().unwrap()).await {
            Some(Some(item)) => {
                assert_eq!(item.unwrap().0, expected);
                expected += 1;
            }
            Some(None) => break,
            None => {}
        }
    }
    assert_eq!(expected, 100);
    assert!(items.is_terminated() && next(&mut items).await.is_none());

    let mut items = peer.far.break_off(3).await.unwrap();
    while let Some(item) = next(&mut items).await {
        assert!(!items.is_terminated() || item.is_err(), "an error is the last item");
        if let Err(error) = item {
            assert!(matches!(error, RecvError::Reset), "{error:?}");
        }
    }
    assert!(items.is_terminated());
    assert!(matches!(items.recv().await, Err(RecvError::Reset)), "who asks again is told again");
}

async fn what_has_no_room_comes_back(peer: Peer) {
    let ((gate, shut), (tx, rx)) = (channel::<u8>(), channel());
    let send = async {
        // The call is on its way, and the stream with it.
        let _ = tx.reserve(WINDOW as usize).await.unwrap();
        let mut sent = Vec::new();
        let full = loop {
            match tx.try_send(item(sent.len() as u32)) {
                Ok(()) => sent.push(sent.len() as u32),
                Err(error) => break error,
            }
        };
        assert!(matches!(full, TrySendError::Full(_)), "{full:?}");
        assert_eq!(full.into_inner(), item(sent.len() as u32), "the value is back");
        assert!(tx.try_reserve(ITEM).unwrap_err().is_full());
        match tx.try_send((7, vec![0; WINDOW as usize])) {
            Err(TrySendError::Refused { value: (7, _), refusal: Refusal::ElementTooLarge { .. } }) => {}
            other => panic!("{other:?}"),
        }
        drop(gate);
        tx.send(item(sent.len() as u32)).await.unwrap();
        sent.push(sent.len() as u32);
        drop(tx);
        sent
    };
    let (gathered, sent) = tokio::join!(peer.far.gather(shut, rx), send);
    assert!(sent.len() >= WINDOW as usize / ITEM, "the whole window was used");
    assert_eq!(gathered.unwrap(), (sent, "closed".into()));
}

async fn what_has_not_arrived_is_not_waited_for(peer: Peer) {
    let mut items = peer.far.emit(300, 50).await.unwrap();
    let mut numbers = Vec::new();
    let end = loop {
        match items.try_recv() {
            Ok((number, _)) => numbers.push(number),
            Err(TryRecvError::Empty) => yield_now().await,
            Err(end) => break end,
        }
    };
    assert!(matches!(end, TryRecvError::Closed), "{end:?}");
    assert_eq!(numbers, (0..300).collect::<Vec<_>>());
    assert!(matches!(items.try_recv(), Err(TryRecvError::Closed)));

    let (tx, mut items) = channel::<Item>();
    let call = peer.far.emit_into(tx); // which nobody has begun
    assert!(matches!(items.try_recv(), Err(TryRecvError::Empty)));
    drop(call);
    assert!(matches!(items.try_recv(), Err(TryRecvError::Closed)));

    let mut items = peer.far.break_off(0).await.unwrap();
    while matches!(items.try_recv(), Err(TryRecvError::Empty)) {
        yield_now().await;
    }
    assert!(matches!(items.try_recv(), Err(TryRecvError::Failed(RecvError::Reset))));
}

async fn permits_of_many_tasks_are_not_stolen(peer: Peer) {
    let ((_, open), (tx, rx)) = (channel(), channel());
    let tx = Arc::new(tx);
    let far = peer.far.clone();
    let gathering = tokio::spawn(async move { far.gather(open, rx).await });
    while !format!("{tx:?}").contains("Some") {
        yield_now().await; // permits from before it has an id are worth less
    }
    let mut tasks = Vec::new();
    for task in 0..8 {
        let tx = Arc::clone(&tx);
        tasks.push(tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(task);
            let (mut sent, mut number) = (Vec::new(), task as u32 * 1000);
            for _ in 0..200 {
                number += 1;
                match random.u8(0..4) {
                    // Whatever the others do meanwhile.
                    0 | 1 => {
                        let permit = tx.reserve(ITEM).await.unwrap();
                        if random.bool() {
                            yield_now().await;
                        }
                        permit.send(item(number)).unwrap();
                        sent.push(number);
                    }
                    2 => drop(tx.reserve(random.usize(0..WINDOW as usize)).await.unwrap()),
                    _ => match tx.try_send(item(number)) {
                        Ok(()) => sent.push(number),
                        Err(error) => {
                            assert!(error.is_full(), "{error:?}");
                            yield_now().await;
                        }
                    },
                }
            }
            sent
        }));
    }
    let mut sent = BTreeSet::new();
    for task in tasks {
        sent.extend(task.await.unwrap());
    }
    let whole = tx.reserve(WINDOW as usize).await.unwrap();
    drop(whole);
    drop(tx);
    let (gathered, end) = gathering.await.unwrap().unwrap();
    assert_eq!(end, "closed");
    assert_eq!(gathered.len(), sent.len());
    assert_eq!(BTreeSet::from_iter(gathered), sent);
}

async fn a_permit_outlives_the_receiver_and_says_so(peer: Peer) {
    let (tx, rx) = channel();
    let hold = async {
        let permit = tx.reserve(ITEM).await.unwrap();
        tx.send(item(0)).await.unwrap();
        tx.closed().await;
        let error = permit.send(item(1)).unwrap_err();
        assert!(matches!(error, TrySendError::Closed((1, _))), "{error:?}");
        assert!(matches!(tx.reserve(1).await, Err(SendError::Closed)));
    };
    let (taken, ()) = tokio::join!(peer.far.take(1, rx), hold);
    taken.unwrap();
}

async fn a_closed_receiver_gets_what_is_there_and_stops_the_sender(peer: Peer) {
    let (tx, mut rx) = channel::<Item>();
    let receive = async {
        for expected in 0..100 {
            assert_eq!(rx.recv().await.unwrap().unwrap().0, expected);
        }
        rx.close();
        rx.close();
        let mut expected = 100;
        while let Some((number, _)) = rx.recv().await.unwrap() {
            assert_eq!(number, expected);
            expected += 1;
        }
        assert!(matches!(rx.try_recv(), Err(TryRecvError::Closed)), "the end stays the end");
        expected
    };
    let (sent, received) = tokio::join!(peer.far.emit_into(tx), receive);
    let (sent, why) = sent.unwrap();
    assert!(sent >= received && sent <= received + 2 * WINDOW, "{sent} sent, {received} received");
    assert_eq!(why, SendError::Closed.to_string());
}

async fn a_stream_that_is_reset_does_not_look_complete(peer: Peer) {
    let ((_, open), (tx, rx)) = (channel(), channel());
    let send = async {
        tx.send(item(1)).await.unwrap();
        yield_now().await;
        tx.reset();
    };
    let (gathered, ()) = tokio::join!(peer.far.gather(open, rx), send);
    assert_eq!(gathered.unwrap(), (vec![1], RecvError::Reset.to_string()));

    // Before the other half is passed: the peer learns of it as soon as it has that.
    let ((_, open), (tx, rx)) = (channel(), channel::<Item>());
    tx.reset();
    let gathered = peer.far.gather(open, rx).await.unwrap();
    assert_eq!(gathered, (vec![], RecvError::Reset.to_string()));
}

async fn threads_without_a_runtime_receive_many_and_send(peer: Peer) {
    let mut items = peer.far.emit(500, 50).await.unwrap();
    let receiving = tokio::task::spawn_blocking(move || {
        let mut received = Vec::new();
        while items.blocking_recv_many(&mut received, 16).unwrap() > 0 {}
        received
    });
    let received = receiving.await.unwrap();
    assert!(received.iter().map(|(number, _)| *number).eq(0..500));

    let ((_, open), (tx, rx)) = (channel(), channel());
    let sending = tokio::task::spawn_blocking(move || {
        for number in 0..500 {
            // Those that find no room wait for it.
            if let Err(error) = tx.try_send(item(number)) {
                tx.blocking_send(error.into_inner()).unwrap();
            }
        }
    });
    let (gathered, sent) = tokio::join!(peer.far.gather(open, rx), sending);
    sent.unwrap();
    assert_eq!(gathered.unwrap(), ((0..500).collect(), "closed".into()));
}

async fn tasks_that_stay_on_their_thread_stream(peer: Peer) {
    let tasks = LocalSet::new();
    let stays = Rc::new(100);
    let ((_, open), (tx, rx)) = (channel(), channel());
    let count = Rc::clone(&stays);
    let sending = tasks.spawn_local(async move {
        for number in 0..*count {
            tx.reserve(ITEM).await.unwrap().send(item(number)).unwrap();
        }
    });
    let far = peer.far.clone();
    let gathering = tasks.spawn_local(async move { (far.gather(open, rx).await.unwrap(), stays) });
    tasks.await;
    sending.await.unwrap();
    let ((numbers, end), stays) = gathering.await.unwrap();
    assert_eq!((numbers, end), ((0..*stays).collect(), "closed".into()));
}

/// What may go to other threads, be shared by them, and be moved while it is polled.
#[test]
fn handles_go_anywhere_whatever_they_carry() {
    fn any_thread<T: Send + Sync + Unpin>() {}
    fn moves<T: Send + Unpin>() {}
    fn sends<T: Send>(_: T) {}
    fn clones<T: Clone>() {}
    any_thread::<StreamsClient>();
    any_thread::<Connection>();
    clones::<StreamsClient>();
    any_thread::<Tx<Rc<u8>>>();
    any_thread::<Rx<Rc<u8>>>();
    any_thread::<Permit<'static, Rc<u8>>>();
    any_thread::<TrySendError<u8>>();
    any_thread::<TryRecvError>();
    moves::<Call<(u32,), String, Never>>();
    fn futures(far: &StreamsClient, tx: &Tx<u8>, rx: &mut Rx<u8>) {
        sends(far.emit(1, 1));
        sends(far.emit(1, 1).into_future());
        sends((tx.send(1), tx.reserve(1), tx.closed()));
        sends(rx.recv());
        sends(rx.recv_many(&mut Vec::new(), 1));
    }
    let _ = futures;
}
