//! Which calls are made again, over every link.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use adjoin::{
    CallError, Caller, Deduplicate, LinkEnd, Metadata, Options, RecvError, Settings, channel,
    intercept::{InterceptedCall, Intercepting, Interceptor, Next},
    local,
    reconnect::{ConnectFailure, Reconnecting, RetryBudget, State as Stand},
    stream,
};
use tokio::io::AsyncWriteExt;

use crate::{
    common::{links::Kind, watchdog::Watchdog, wire::Message},
    rig::{Server, State, TillClient, TillDispatcher, serve},
};

/// The kinds whose server is in this process.
const HERE: [Kind; 3] = [Kind::Local, Kind::Uds, Kind::Tcp];

pub fn on_two_threads<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test)
}

/// Kills the server, or cuts its links.
pub async fn kill(kind: Kind, server: &Server, till: &TillClient) {
    match kind {
        #[cfg(target_os = "linux")]
        Kind::Shm => {
            use rustix::process::{Pid, Signal, kill_process};
            let pid = till.pid().await.unwrap();
            kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
        }
        _ => {
            till.pid().await.unwrap(); // there is a link
            server.cut();
        }
    }
}

#[test]
fn generated_clients_work_unchanged_and_go_on_after_their_link_has_ended() {
    let _hang = Watchdog::seconds(60);
    on_two_threads(async {
        for kind in Kind::all() {
            let server = Server::start(kind, State::new()).await;
            let client = server.builder().build();
            let till = TillClient::new(&client);
            for round in 0..3 {
                assert!(till.again().await.unwrap() > 0, "{kind:?}");
                // Streams both ways.
                let (tx, rx) = channel();
                let sending = tokio::spawn(async move {
                    for number in 1..=1000 {
                        tx.send(number).await.unwrap();
                    }
                });
                assert_eq!(till.taking(rx).await.unwrap(), 500_500, "{kind:?}");
                sending.await.unwrap();
                let mut numbers = till.giving(1000).await.unwrap();
                let mut sum = 0;
                while let Some(number) = numbers.recv().await.unwrap() {
                    sum += number;
                }
                assert_eq!(sum, 500_500, "{kind:?}");
                // From a plain thread.
                let blocking = till.clone();
                let blocked = std::thread::spawn(move || {
                    (blocking.pid().block(), blocking.left().with_timeout(Duration::from_secs(50)).block())
                });
                let (pid, left) = tokio::task::spawn_blocking(|| blocked.join().unwrap()).await.unwrap();
                assert!(pid.is_ok() && left.unwrap().is_some(), "{kind:?}");
                // One that is open when the link ends, ends with it.
                let mut endless = till.giving(u64::MAX).await.unwrap();
                endless.recv().await.unwrap();
                kill(kind, &server, &till).await;
                let end = loop {
                    if let Err(end) = endless.recv().await {
                        break end;
                    }
                };
                assert!(matches!(end, RecvError::Ended(_)), "{kind:?}, round {round}: {end:?}");
            }
        }
    });
}

#[tokio::test]
async fn a_call_that_was_sent_is_made_again_only_if_its_method_is_idempotent() {
    let _hang = Watchdog::seconds(60);
    for kind in HERE {
        let server = Server::start(kind, State::new()).await;
        let client = server.builder().build();
        let till = TillClient::new(&client);
        server.state.hang.store(true, Ordering::SeqCst);

        let once = tokio::spawn(till.once());
        server.state.entered().await;
        server.cut();
        let result = once.await.unwrap();
        let expected =
            |end: &LinkEnd| matches!(end, LinkEnd::Gone | LinkEnd::Io(_) | LinkEnd::Goodbye { .. });
        assert!(matches!(&result, Err(CallError::OutcomeUnknown { end }) if expected(end)), "{result:?}");
        assert_eq!(server.state.count(), 1);

        let again = tokio::spawn(till.again());
        server.state.entered().await;
        server.state.hang.store(false, Ordering::SeqCst);
        server.cut();
        assert_eq!(again.await.unwrap().unwrap(), 3, "{kind:?}");
    }
}

#[tokio::test]
async fn a_call_that_was_not_sent_waits_for_the_next_connection_whatever_it_does() {
    let _hang = Watchdog::seconds(60);
    for kind in [Kind::Uds, Kind::Tcp] {
        let mut server = Server::start(kind, State::new()).await;
        let client = server.builder().build();
        let till = TillClient::new(&client);
        till.pid().await.unwrap();
        let mut watch = client.watch();
        server.stop().await;
        assert_eq!(watch.changed().await, Some(Stand::Idle)); // nobody calls, and nothing is tried

        let once = tokio::spawn(till.once());
        let (tx, rx) = channel();
        let taking = tokio::spawn(till.taking(rx));
        tx.send(7).await.unwrap();
        while !matches!(watch.changed().await, Some(Stand::Reconnecting { attempt }) if attempt > 2) {}
        server.restart().await;
        once.await.unwrap().unwrap();
        tx.send(8).await.unwrap();
        drop(tx);
        assert_eq!(taking.await.unwrap().unwrap(), 15, "{kind:?}");
        assert_eq!(server.state.count(), 2);
        assert_eq!(client.state(), Stand::Connected);
    }
}

#[tokio::test]
async fn calls_that_wait_for_room_when_their_link_ends_were_not_sent_and_are_made_on_the_next_one() {
    let _hang = Watchdog::seconds(60);
    let state = State::new();
    // The first peer greets, and reads nothing.
    let mute = Arc::new(Mutex::new(None));
    let connector = {
        let (state, mute) = (Arc::clone(&state), Arc::clone(&mute));
        move || {
            let (near, mut far) = tokio::io::duplex(512);
            let (state, mute) = (Arc::clone(&state), Arc::clone(&mute));
            async move {
                if state.hang.swap(true, Ordering::SeqCst) {
                    state.hang.store(false, Ordering::SeqCst);
                    let serving = Options::new().serve(state.dispatcher());
                    serve(far, serving, Arc::default());
                } else {
                    far.write_all(&Message::hello().frame()).await?;
                    *mute.lock().unwrap() = Some(far);
                }
                let narrow = Options::new().settings(Settings::default().send_buffer(1024));
                Ok::<_, ConnectFailure>(stream::connect(near, narrow).await?)
            }
        }
    };
    // None of that is a repetition, which the builder would forbid.
    let budget = RetryBudget::default().ratio(0.0).per_second(0).capacity(0);
    let client = Reconnecting::builder(connector).max_repeats(0).budget(budget).build();
    client.connection().await.unwrap();
    let till = TillClient::new(&client);
    let (mut calls, mut streaming) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        calls.push(tokio::spawn(till.once()));
        let (tx, rx) = channel();
        tx.send(7).await.unwrap();
        streaming.push(tokio::spawn(till.taking(rx)));
    }
    for _ in 0..100 {
        tokio::task::yield_now().await; // all have been polled
    }
    drop(mute.lock().unwrap().take());
    let (mut done, mut unknown) = (0, 0);
    let mut count = |result: Result<u64, CallError>| match result {
        Ok(_) => done += 1,
        Err(CallError::OutcomeUnknown { .. }) => unknown += 1,
        other => panic!("{other:?}"),
    };
    for call in calls {
        count(call.await.unwrap());
    }
    for call in streaming {
        count(call.await.unwrap().inspect(|sum| assert_eq!(*sum, 7)));
    }
    assert!(unknown > 0 && done > 0, "{unknown} {done}");
    assert_eq!(state.count(), done);
}

#[tokio::test]
async fn a_call_with_streams_in_its_arguments_is_not_made_again_once_it_was_sent() {
    let _hang = Watchdog::seconds(60);
    for kind in HERE {
        let state = State::new();
        let dispatcher = Deduplicate::new(state.dispatcher());
        let server = Server::start_with(kind, state, dispatcher).await;
        // Its method is idempotent, and the server deduplicates.
        let client = server.builder().server_deduplicates().build();
        let till = TillClient::new(&client);
        let (tx, rx) = channel();
        let taking = tokio::spawn(till.taking(rx));
        server.state.entered().await;
        tx.send(1).await.unwrap();
        server.cut();
        let result = taking.await.unwrap();
        assert!(matches!(result, Err(CallError::OutcomeUnknown { .. })), "{kind:?}: {result:?}");
        assert_eq!(server.state.count(), 1);
        assert_eq!(client.state(), Stand::Idle); // nothing is tried for it
    }
}

#[tokio::test]
async fn a_call_to_a_server_that_deduplicates_is_made_again_with_the_same_nonce_and_runs_once() {
    let _hang = Watchdog::seconds(60);
    for kind in HERE {
        let state = State::new();
        let dispatcher = Deduplicate::new(state.dispatcher());
        let server = Server::start_with(kind, state, dispatcher).await;
        let client = server.builder().server_deduplicates().build();
        let till = TillClient::new(&client);
        for count in 1..=3 {
            let once = tokio::spawn(till.once());
            server.state.entered().await;
            server.cut();
            assert_eq!(once.await.unwrap().unwrap(), count, "{kind:?}");
        }
        assert_eq!(server.state.count(), 3);
    }
}

#[tokio::test]
async fn a_call_that_ends_each_server_is_made_again_as_often_as_the_builder_says() {
    let _hang = Watchdog::seconds(60);
    for repeats in [0, 1, 3] {
        let server = Server::start(Kind::Uds, State::new()).await;
        server.state.hang.store(true, Ordering::SeqCst);
        let client = server.builder().max_repeats(repeats).build();
        let again = tokio::spawn(TillClient::new(&client).again());
        for _ in 0..=repeats {
            server.state.entered().await;
            server.cut();
        }
        let result = again.await.unwrap();
        assert!(matches!(result, Err(CallError::OutcomeUnknown { .. })), "{result:?}");
        assert_eq!(server.state.count(), u64::from(repeats) + 1);
    }
}

#[tokio::test]
async fn without_a_token_left_no_call_is_made_again_and_new_calls_bring_some() {
    let _hang = Watchdog::seconds(60);
    let server = Server::start(Kind::Local, State::new()).await;
    let budget = RetryBudget::default().per_second(0).capacity(2).ratio(0.5);
    let client = server.builder().budget(budget).build();
    let till = TillClient::new(&client);
    let interrupted = || async {
        server.state.hang.store(true, Ordering::SeqCst);
        let again = tokio::spawn(till.again());
        server.state.entered().await;
        server.state.hang.store(false, Ordering::SeqCst);
        server.cut();
        let result = again.await.unwrap();
        if result.is_ok() {
            server.state.entered().await;
        }
        result.is_ok()
    };
    // Two tokens, and half a one with each call: 2, 1.5, 1, 0.5.
    assert!(interrupted().await && interrupted().await && interrupted().await);
    assert!(!interrupted().await);
    till.pid().await.unwrap();
    assert!(interrupted().await);
}

#[tokio::test]
async fn what_the_peer_answers_is_the_answer() {
    let _hang = Watchdog::seconds(60);
    #[adjoin::service(name = "Till")]
    trait Stranger {
        #[adjoin(id = 7, idempotent)]
        async fn unheard_of(&self);
    }
    let server = Server::start(Kind::Uds, State::new()).await;
    let client = server.builder().build();
    let unknown = StrangerClient::new(&client).unheard_of().await;
    assert!(matches!(unknown, Err(CallError::UnknownMethod)), "{unknown:?}");
    assert_eq!(client.state(), Stand::Connected);
}

#[tokio::test]
async fn a_server_that_drains_has_its_cancellations_believed() {
    let _hang = Watchdog::seconds(60);
    let state = State::new();
    let (attempts, far) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(None)));
    let client = Reconnecting::new({
        let (state, attempts, far) = (Arc::clone(&state), Arc::clone(&attempts), Arc::clone(&far));
        move || {
            attempts.fetch_add(1, Ordering::SeqCst);
            let (near, there) = local::pair(Options::new(), Options::new().serve(state.dispatcher()));
            *far.lock().unwrap() = Some(there);
            async { Ok::<_, std::io::Error>(near) }
        }
    });
    let till = TillClient::new(&client);
    state.hang.store(true, Ordering::SeqCst);
    let held = tokio::spawn(till.again());
    state.entered().await;
    let draining = far.lock().unwrap().clone().unwrap();
    let draining = tokio::spawn(async move { draining.drain(Duration::from_secs(50)).await });
    tokio::task::yield_now().await;
    assert!(matches!(till.again().await, Err(CallError::Cancelled)));
    assert_eq!((attempts.load(Ordering::SeqCst), state.count()), (1, 1));
    held.abort();
    let _ = (held.await, draining.await);
    state.hang.store(false, Ordering::SeqCst);
    till.again().await.unwrap();
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_nonce_of_the_callers_own_is_kept() {
    let _hang = Watchdog::seconds(60);
    let state = State::new();
    let dispatcher = Deduplicate::new(state.dispatcher());
    let server = Server::start_with(Kind::Local, state, dispatcher).await;
    let client = server.builder().server_deduplicates().build();
    let till = TillClient::new(&client);
    let nonce = adjoin::Nonce::random().unwrap();
    assert_eq!(till.once().with_nonce(nonce).await.unwrap(), 1);
    assert_eq!(till.once().with_nonce(nonce).await.unwrap(), 1);
    let mut metadata = Metadata::new();
    metadata.push(adjoin::Nonce::KEY, nonce.to_bytes().to_vec());
    assert_eq!(till.once().with_metadata(metadata).await.unwrap(), 1);
    assert_eq!(till.once().await.unwrap(), 2);
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_over_there() {
    let _hang = Watchdog::seconds(60);
    let server = Server::start(Kind::Uds, State::new()).await;
    server.state.hang.store(true, Ordering::SeqCst);
    let client = server.builder().build();
    let call = tokio::spawn(TillClient::new(&client).once());
    server.state.entered().await;
    call.abort();
    server.quiet().await;
}

#[tokio::test]
async fn when_the_last_handle_goes_the_connection_closes_unless_a_stream_uses_it() {
    let _hang = Watchdog::seconds(60);
    let server = Server::start(Kind::Uds, State::new()).await;
    let client = server.builder().build();
    let connection = client.connection().await.unwrap();
    let mut watch = client.watch();
    let till = TillClient::new(&client);
    drop(client);
    let mut numbers = till.giving(100_000).await.unwrap(); // a client is a handle, too
    drop(till);
    assert_eq!(watch.changed().await, Some(Stand::Closed));
    assert_eq!(watch.changed().await, None);
    assert!(connection.end().is_none());
    drop(connection);
    for number in 1..=100_000 {
        assert_eq!(numbers.recv().await.unwrap(), Some(number));
    }
    assert_eq!(server.open.load(Ordering::SeqCst), 1);
    drop(numbers);
    while server.open.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_closed_client_says_so_to_all_calls_and_what_was_sent_is_unknown() {
    let _hang = Watchdog::seconds(60);
    let mut server = Server::start(Kind::Uds, State::new()).await;
    server.state.hang.store(true, Ordering::SeqCst);
    let client = server.builder().build();
    let till = TillClient::new(&client);
    let (once, again) = (tokio::spawn(till.once()), tokio::spawn(till.again()));
    server.state.entered().await;
    server.state.entered().await;
    client.close().await;
    for sent in [once, again] {
        let result = sent.await.unwrap();
        assert!(matches!(result, Err(CallError::OutcomeUnknown { end: LinkEnd::Closed })), "{result:?}");
    }
    assert_eq!(client.state(), Stand::Closed);
    let later = till.once().await;
    assert!(matches!(later, Err(CallError::Unconnected { attempts: 0, .. })), "{later:?}");

    // One that waits for a connection.
    server.stop().await;
    let client = server.builder().build();
    let waiting = tokio::spawn(TillClient::new(&client).once());
    let mut watch = client.watch();
    while !matches!(watch.changed().await, Some(Stand::Connecting { attempt: 2.. })) {}
    client.close().await;
    let result = waiting.await.unwrap();
    assert!(matches!(result, Err(CallError::Unconnected { attempts: 0, .. })), "{result:?}");
}

/// Counts calls, and hides nothing of them.
struct Count(Arc<AtomicU32>);

impl Interceptor for Count {
    fn intercept<'a>(&'a self, call: &'a mut InterceptedCall, next: Next<'a>) -> Intercepting<'a> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(next.run(call))
    }
}

#[tokio::test]
async fn an_interceptor_in_front_sees_one_call_however_often_it_is_made() {
    let _hang = Watchdog::seconds(60);
    let server = Server::start(Kind::Uds, State::new()).await;
    let (client, seen) = (server.builder().build(), Arc::new(AtomicU32::new(0)));
    let caller = Caller::from(&client).with_interceptor(Count(Arc::clone(&seen)));
    server.state.hang.store(true, Ordering::SeqCst);
    let again = tokio::spawn(TillClient::new(&caller).again());
    for _ in 0..2 {
        server.state.entered().await;
        server.cut();
    }
    server.state.entered().await;
    server.state.hang.store(false, Ordering::SeqCst);
    server.cut();
    assert_eq!(again.await.unwrap().unwrap(), 4);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

/// Gives its own calls no more time than it has.
#[adjoin::service]
trait Between {
    async fn left(&self) -> Option<Duration>;
}

struct InBetween(TillClient);

impl Between for InBetween {
    async fn left(&self) -> Option<Duration> {
        self.0.left().await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_handlers_calls_have_no_more_time_than_the_handler() {
    let server = Server::start(Kind::Local, State::new()).await;
    let client = server.builder().build();
    let between = BetweenDispatcher::new(InBetween(TillClient::new(&client)));
    let (caller, _between) = local::pair(Options::new(), Options::new().serve(between));
    let between = BetweenClient::new(&caller);
    assert_eq!(between.left().await.unwrap(), None);
    let left = between.left().with_timeout(Duration::from_secs(3)).await.unwrap().unwrap();
    assert!(left > Duration::from_secs(2) && left <= Duration::from_secs(3), "{left:?}");
}

#[test]
fn clients_and_their_parts_can_be_shared_by_threads() {
    fn shared<T: Clone + Send + Sync>() {}
    fn sent<T: Send>(_: T) {}
    shared::<Reconnecting>();
    shared::<adjoin::reconnect::Watch>();
    let _ = |till: TillClient| sent(till.once());
    let _ = TillDispatcher::<crate::rig::Served>::new;
}
