//! How connections are made: when, how often, for whom. The clock is stopped, and goes on when nothing else does.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use adjoin::{
    CallError, Options,
    reconnect::{
        Backoff, Builder, ConnectFailure, Connecting, Connector, Established, Reconnecting, State as Stand,
    },
};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{Links, State, Stopwatch, TillClient, in_process};

/// Does as its script says, and notes when.
struct Scripted {
    state: Arc<State>,
    attempts: Mutex<Vec<Instant>>,
    links: Links,
    script: Box<dyn Fn(usize) -> Attempt + Send + Sync>,
}

/// What an attempt comes to; the first has number 1.
#[derive(Clone, Copy)]
enum Attempt {
    Serves,
    /// After a while.
    ServesLate(Duration),
    /// The link ends at once.
    Ends,
    Fails,
    Hangs,
    Panics,
}

use Attempt::{Ends, Fails, Hangs, Panics, Serves, ServesLate};

impl Scripted {
    fn new(script: impl Fn(usize) -> Attempt + Send + Sync + 'static) -> Arc<Self> {
        let (attempts, links) = (Mutex::default(), Arc::default());
        Arc::new(Scripted { state: State::new(), attempts, links, script: Box::new(script) })
    }

    fn builder(self: &Arc<Self>) -> Builder {
        let backoff = Backoff::default().initial(ms(100)).max(ms(1000)).jitter(false);
        Reconnecting::builder(Script(Arc::clone(self))).backoff(backoff)
    }

    fn attempts(&self) -> usize {
        self.attempts.lock().unwrap().len()
    }

    /// The times between attempts, in milliseconds.
    fn gaps(&self) -> Vec<u128> {
        let attempts = self.attempts.lock().unwrap();
        attempts.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect()
    }

    fn cut(&self) {
        for cut in self.links.lock().unwrap().drain(..) {
            cut();
        }
    }
}

struct Script(Arc<Scripted>);

impl Connector for Script {
    fn connect(&self) -> Connecting {
        let scripted = Arc::clone(&self.0);
        let number = {
            let mut attempts = scripted.attempts.lock().unwrap();
            attempts.push(Instant::now());
            attempts.len()
        };
        Box::pin(async move {
            match (scripted.script)(number) {
                Serves => {}
                ServesLate(after) => sleep(after).await,
                Ends => {
                    let (near, far) = adjoin::local::pair(Options::new(), Options::new());
                    far.close().await;
                    near.closed().await;
                    return Ok(near.into());
                }
                Fails => return Err(ConnectFailure::from(format!("failure {number}"))),
                Hangs => std::future::pending().await,
                Panics => panic!("on purpose"),
            }
            let options = Options::new().serve(scripted.state.dispatcher());
            Ok(in_process(&scripted.links, options).into())
        })
    }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn unconnected<T: std::fmt::Debug>(result: Result<T, CallError>) -> (u32, String) {
    match result {
        Err(CallError::Unconnected { attempts, why }) => (attempts, why),
        other => panic!("it went otherwise: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_attempt_is_made_by_the_first_call_and_those_that_fail_are_followed_by_longer_waits() {
    let server = Scripted::new(|number| if number < 8 { Fails } else { Serves });
    let client = server.builder().build();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!((server.attempts(), client.state()), (0, Stand::Idle));
    TillClient::new(&client).once().await.unwrap();
    assert_eq!(server.gaps(), [100, 200, 400, 800, 1000, 1000, 1000]);
    assert_eq!(client.state(), Stand::Connected);
}

#[tokio::test(start_paused = true)]
async fn after_a_connection_that_was_of_use_the_first_attempt_is_made_at_once() {
    let server = Scripted::new(|number| if [1, 2, 5].contains(&number) { Fails } else { Serves });
    let client = server.builder().build();
    let till = TillClient::new(&client);
    till.once().await.unwrap();
    server.cut();
    sleep(ms(5)).await;
    till.once().await.unwrap();
    server.cut();
    sleep(ms(7)).await;
    till.once().await.unwrap();
    assert_eq!(server.gaps(), [100, 200, 5, 7, 100]);
}

#[tokio::test(start_paused = true)]
async fn connections_that_end_before_they_are_of_use_are_followed_by_longer_waits() {
    let server = Scripted::new(|number| if number < 6 { Ends } else { Serves });
    let client = server.builder().build();
    TillClient::new(&client).once().await.unwrap();
    assert_eq!(server.gaps(), [100, 200, 400, 800, 1000]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_lives_long_was_of_use_though_nobody_called() {
    let server = Scripted::new(|number| if number < 3 { Fails } else { Serves });
    let client = server.builder().build();
    client.connection().await.unwrap();
    sleep(ms(999)).await;
    server.cut();
    let mut watch = client.watch();
    watch.changed().await;
    client.connection().await.unwrap();
    assert_eq!(server.gaps()[2], 999 + 400);
    sleep(ms(1000)).await;
    let mut watch = client.watch();
    server.cut();
    watch.changed().await;
    client.connection().await.unwrap();
    assert_eq!(server.gaps()[3], 1000);
}

#[tokio::test(start_paused = true)]
async fn one_attempt_serves_all_callers_and_one_that_goes_away_ends_it_for_nobody_else() {
    let server = Scripted::new(|_| ServesLate(ms(500)));
    let client = server.builder().build();
    let till = TillClient::new(&client);
    let first = tokio::spawn(till.once());
    sleep(ms(100)).await;
    let others: Vec<_> = (0..100).map(|_| tokio::spawn(till.once())).collect();
    sleep(ms(100)).await;
    first.abort();
    let watch = Stopwatch::start();
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert_eq!((server.attempts(), server.state.count()), (1, 100));
    assert_eq!(watch.elapsed(), ms(300));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_tried_while_nobody_waits_and_the_next_caller_waits_as_long_as_there_was_to_wait() {
    let server = Scripted::new(|number| if number < 4 { Fails } else { Serves });
    let client = server.builder().build();
    let till = TillClient::new(&client);
    let call = tokio::spawn(till.once());
    sleep(ms(310)).await; // attempts at 0, 100, 300
    call.abort();
    let _ = call.await;
    assert_eq!((server.attempts(), client.state()), (3, Stand::Idle));
    sleep(ms(90)).await;
    till.once().await.unwrap(); // at 700
    assert_eq!(server.gaps(), [100, 200, 400]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_runs_goes_on_without_callers_but_is_not_followed_by_another() {
    let server = Scripted::new(|number| if number == 1 { ServesLate(ms(500)) } else { Hangs });
    let client = server.builder().attempt_timeout(ms(2000)).build();
    let till = TillClient::new(&client);
    let called = timeout(ms(100), till.once()).await;
    assert!(called.is_err());
    sleep(ms(500)).await;
    assert_eq!((server.attempts(), client.state()), (1, Stand::Connected));
    till.once().await.unwrap();
    server.cut();
    sleep(ms(1)).await;
    assert!(timeout(ms(100), till.once()).await.is_err());
    sleep(Duration::from_secs(3600)).await;
    assert_eq!((server.attempts(), client.state()), (2, Stand::Idle));
}

#[tokio::test(start_paused = true)]
async fn an_eager_client_connects_before_anybody_calls_and_after_each_loss() {
    let server = Scripted::new(|number| if [1, 2, 4, 5].contains(&number) { Fails } else { Serves });
    let client = server.builder().eager().build();
    sleep(ms(301)).await;
    assert_eq!((server.attempts(), client.state()), (3, Stand::Connected));
    sleep(ms(1000)).await;
    server.cut();
    sleep(ms(301)).await;
    assert_eq!((server.attempts(), client.state()), (6, Stand::Connected));
    let call = tokio::spawn(TillClient::new(&client).once());
    call.await.unwrap().unwrap();
    let (mut watch, attempts) = (client.watch(), server.attempts());
    drop(client);
    assert_eq!(watch.changed().await, Some(Stand::Closed));
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(server.attempts(), attempts);
}

#[tokio::test(start_paused = true)]
async fn after_enough_attempts_all_calls_that_wait_fail_and_the_next_one_begins_anew() {
    let server = Scripted::new(|number| if number < 5 { Fails } else { Serves });
    let client = server.builder().max_attempts(3).build();
    let till = TillClient::new(&client);
    let calls: Vec<_> = (0..3).map(|_| tokio::spawn(till.once())).collect();
    for call in calls {
        assert_eq!(unconnected(call.await.unwrap()), (3, "failure 3".into()));
    }
    assert_eq!(client.state(), Stand::Gone { attempts: 3, why: "failure 3".into() });
    till.once().await.unwrap();
    // No sooner than the backoff said, and then from its beginning.
    assert_eq!(server.gaps(), [100, 200, 400, 100]);
    assert_eq!(server.state.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn after_long_enough_without_a_connection_the_client_gives_up() {
    let server = Scripted::new(|_| Fails);
    let client = server.builder().max_outage(ms(2000)).build();
    let watch = Stopwatch::start();
    let till = TillClient::new(&client);
    // At 0, 100, 300, 700, 1500; the next would be at 2500.
    assert_eq!(unconnected(till.once().await), (5, "failure 5".into()));
    assert_eq!(watch.elapsed(), ms(1500));
    // While nobody waits there is no outage.
    assert!(timeout(ms(1100), till.once()).await.is_err());
    sleep(Duration::from_secs(3600)).await;
    let (before, watch) = (server.attempts(), Stopwatch::start());
    unconnected(till.once().await);
    assert!(server.attempts() > before + 1, "{} {:?}", server.attempts() - before, watch.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_gives_up_does_not() {
    let server = Scripted::new(|number| if number < 10_000 { Fails } else { Serves });
    let client = server.builder().max_attempts(3).never_give_up().build();
    TillClient::new(&client).once().await.unwrap();
    assert_eq!(server.attempts(), 10_000);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_is_a_failure() {
    let server = Scripted::new(|_| Hangs);
    let client = server.builder().attempt_timeout(ms(700)).max_attempts(2).build();
    let (attempts, why) = unconnected(TillClient::new(&client).once().await);
    assert_eq!((attempts, why.as_str()), (2, "not connected within 700ms"));
    assert_eq!(server.gaps(), [800]);
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_panics_fails_the_calls_that_wait_and_not_later_ones() {
    let server = Scripted::new(|number| if number == 1 { Panics } else { Serves });
    let client = server.builder().build();
    let till = TillClient::new(&client);
    let (attempts, why) = unconnected(till.once().await);
    assert!(attempts == 1 && why.contains("panicked"), "{why}");
    till.once().await.unwrap();
    assert_eq!(server.gaps(), [100]);
}

#[test]
fn when_the_runtime_is_shut_down_the_calls_that_wait_on_other_threads_fail() {
    let _hang = crate::common::watchdog::Watchdog::seconds(60);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = Scripted::new(|_| Hangs);
    let client = runtime.block_on(async { server.builder().build() });
    let till = TillClient::new(&client);
    let wait = |timeout| {
        let call = till.once().with_timeout(timeout);
        std::thread::spawn(move || call.block())
    };
    let waiting = [wait(Duration::from_secs(3600)), wait(Duration::MAX)];
    while server.attempts() == 0 {
        std::thread::yield_now();
    }
    runtime.shutdown_timeout(Duration::from_secs(50));
    for waiting in waiting {
        let why = unconnected(waiting.join().unwrap()).1;
        assert!(why.contains("runtime"), "{why}");
    }
    unconnected(till.once().block());
    unconnected(till.once().with_timeout(ms(1000)).block());
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_connection_counts_against_the_calls_time() {
    let server = Scripted::new(|_| Fails);
    let client = server.builder().build();
    let watch = Stopwatch::start();
    let result = TillClient::new(&client).once().with_timeout(ms(950)).await;
    assert!(matches!(result, Err(CallError::TimedOut { after }) if after == ms(950)), "{result:?}");
    assert_eq!(watch.elapsed(), ms(950));
}

#[tokio::test(start_paused = true)]
async fn each_attempt_carries_the_time_that_is_left() {
    let server = Scripted::new(|number| if number < 3 { Fails } else { Serves });
    let client = server.builder().build();
    let till = TillClient::new(&client);
    // After 300 ms without a connection.
    let left = till.left().with_timeout(ms(1000)).await.unwrap().unwrap();
    assert_eq!(left, ms(700));
    // Also in metadata of the caller's.
    server.cut();
    let mut metadata = adjoin::Metadata::new();
    metadata.push(adjoin::Metadata::TIMEOUT, 2_000_000_000);
    let left = till.left().with_metadata(metadata).await.unwrap().unwrap();
    assert_eq!(left, ms(2000));
    // And when it is made again.
    server.state.hang.store(true, Ordering::SeqCst);
    let call = tokio::spawn(till.left().with_timeout(ms(1000)));
    while server.state.count() < 3 {
        sleep(ms(1)).await;
    }
    sleep(ms(399)).await;
    server.state.hang.store(false, Ordering::SeqCst);
    server.cut();
    let left = call.await.unwrap().unwrap().unwrap();
    assert!(left > ms(500) && left <= ms(601), "{left:?}");
    // All attempts together have no more than that.
    server.state.hang.store(true, Ordering::SeqCst);
    let watch = Stopwatch::start();
    let call = tokio::spawn(till.again().with_timeout(ms(1000)));
    sleep(ms(600)).await;
    server.cut();
    let result = call.await.unwrap();
    assert!(matches!(result, Err(CallError::TimedOut { after }) if after == ms(1000)), "{result:?}");
    assert!(watch.elapsed() <= ms(1001), "{:?}", watch.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_sent_once_never_says_that_nothing_was_sent() {
    let server = Scripted::new(|number| if number == 1 { Serves } else { Fails });
    let client = server.builder().max_attempts(2).build();
    server.state.hang.store(true, Ordering::SeqCst);
    let again = tokio::spawn(TillClient::new(&client).again());
    server.state.entered().await;
    server.cut();
    let result = again.await.unwrap();
    assert!(matches!(result, Err(CallError::OutcomeUnknown { .. })), "{result:?}");
    // The connection that was lost before it was of use counts as an attempt that failed.
    assert_eq!(server.attempts(), 2);
}

#[tokio::test(start_paused = true)]
async fn states_are_told_in_order_and_each_once() {
    let server = Scripted::new(|number| if number % 3 == 0 { Serves } else { Fails });
    let client = server.builder().max_attempts(3).build();
    let mut watch = client.watch();
    let seen = Arc::new(Mutex::new(vec![watch.state()]));
    let watching = tokio::spawn({
        let seen = Arc::clone(&seen);
        async move {
            while let Some(state) = watch.changed().await {
                seen.lock().unwrap().push(state);
            }
        }
    });
    let till = TillClient::new(&client);
    till.once().await.unwrap();
    server.cut();
    sleep(ms(2000)).await;
    till.once().await.unwrap();
    client.close().await;
    watching.await.unwrap(); // it ends, though there are handles
    drop((client, till));
    let (connecting, reconnecting) =
        (|attempt| Stand::Connecting { attempt }, |attempt| Stand::Reconnecting { attempt });
    let first = [Stand::Idle, connecting(1), connecting(2), connecting(3), Stand::Connected];
    let second =
        [Stand::Idle, reconnecting(1), reconnecting(2), reconnecting(3), Stand::Connected, Stand::Closed];
    assert_eq!(*seen.lock().unwrap(), [&first[..], &second[..]].concat());
}

#[tokio::test(start_paused = true)]
async fn what_a_connection_needs_is_dropped_after_its_end() {
    struct Kept(Arc<AtomicBool>);
    impl Drop for Kept {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let server = Scripted::new(|_| Serves);
    let client = Reconnecting::new({
        let (server, dropped) = (Arc::clone(&server), Arc::clone(&dropped));
        move || {
            let options = Options::new().serve(server.state.dispatcher());
            let (near, kept) = (in_process(&server.links, options), Kept(Arc::clone(&dropped)));
            async { Ok::<_, ConnectFailure>(Established::keeping(near, kept)) }
        }
    });
    TillClient::new(&client).once().await.unwrap();
    sleep(ms(100)).await;
    assert!(!dropped.load(Ordering::SeqCst));
    server.cut();
    sleep(ms(100)).await;
    assert!(dropped.load(Ordering::SeqCst));
}

/// Calls that are dropped, time out or wait, while connections fail, hang, end and come, on two threads.
#[test]
fn callers_that_come_and_go_leave_nothing_behind() {
    let _hang = crate::common::watchdog::Watchdog::seconds(120);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Scripted::new(|_| match fastrand::u32(0..6) {
            0 => Fails,
            1 => Ends,
            2 => Hangs,
            3 => ServesLate(Duration::from_micros(fastrand::u64(0..500))),
            _ => Serves,
        });
        let backoff = Backoff::default().initial(Duration::from_micros(100)).max(ms(1));
        let client = server.builder().backoff(backoff).attempt_timeout(ms(2)).never_give_up().build();
        let till = TillClient::new(&client);
        let over = Arc::new(AtomicBool::new(false));
        let caller = |_| {
            let (till, over) = (till.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    let patience = Duration::from_micros(fastrand::u64(0..3000));
                    let ended = match fastrand::u32(0..3) {
                        0 => timeout(patience, till.once()).await.unwrap_or(Ok(0)),
                        1 => till.again().with_timeout(patience).await,
                        _ => till.once().await,
                    };
                    match ended {
                        Ok(_) | Err(CallError::TimedOut { .. } | CallError::OutcomeUnknown { .. }) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
            })
        };
        let callers: Vec<_> = (0..8).map(caller).collect();
        for _ in 0..1500 {
            sleep(Duration::from_micros(fastrand::u64(0..1000))).await;
            server.cut();
        }
        over.store(true, Ordering::SeqCst);
        for caller in callers {
            caller.await.unwrap();
        }
        // Nobody is counted who waits no longer: nothing more is tried once the last attempt is over.
        sleep(ms(10)).await;
        server.cut();
        let mut watch = client.watch();
        while !matches!(watch.state(), Stand::Idle) {
            watch.changed().await;
        }
        let attempts = server.attempts();
        sleep(ms(20)).await;
        assert_eq!(server.attempts(), attempts);
        till.once().await.or_else(|error| if is_unknown(&error) { Ok(0) } else { Err(error) }).unwrap();
    });
}

fn is_unknown(error: &CallError) -> bool {
    matches!(error, CallError::OutcomeUnknown { .. })
}

#[tokio::test(start_paused = true)]
async fn connections_that_all_end_at_once_make_the_client_give_up() {
    let server = Scripted::new(|_| Ends);
    let client = server.builder().max_attempts(3).build();
    let till = TillClient::new(&client);
    let call = timeout(Duration::from_secs(3600), till.once()).await;
    assert_eq!(unconnected(call.expect("it gives up")).0, 3);
    assert_eq!(server.attempts(), 3);
    let client = server.builder().max_outage(ms(2000)).build();
    let call = timeout(Duration::from_secs(3600), TillClient::new(&client).once()).await;
    unconnected(call.expect("it gives up"));
}

#[tokio::test(start_paused = true)]
async fn the_time_in_which_nobody_wanted_a_connection_is_no_outage() {
    let server = Scripted::new(|number| if number == 1 { Serves } else { Fails });
    let client = server.builder().max_outage(ms(2000)).build();
    drop(client.connection().await.unwrap());
    server.cut(); // before it was of any use
    sleep(Duration::from_secs(3600)).await;
    let before = server.attempts();
    unconnected(TillClient::new(&client).once().await);
    assert!(server.attempts() > before + 1, "{}", server.attempts() - before);
}
