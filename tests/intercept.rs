//! Interceptors on both sides of calls, over every link and through a proxy.
#![allow(missing_docs)]

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use adjoin::{
    CallError, Caller, Connection, Context, Deduplicate, Nonce, Options, Rx,
    intercept::{Intercept, InterceptedCall, Intercepting, Interceptor, Next, Outcome, Side},
    proxy::Forward,
};
use common::{
    links::{Far, Kind, link},
    watchdog::Watchdog,
};
use tokio::sync::Semaphore;

#[adjoin::service]
trait Counter {
    async fn add(&self, more: u32) -> u32;
    async fn divide(&self, by: u32) -> Result<u32, String>;
    async fn user(&self) -> Option<String>;
    async fn hang(&self);
    async fn panics(&self);
    async fn stream(&self, upto: u32) -> Rx<u32>;
    #[adjoin(inline)]
    async fn most_at_once(&self) -> u32;
}

#[derive(Default)]
struct Counting {
    value: Mutex<u32>,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Counter for Counting {
    async fn add(&self, more: u32) -> u32 {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        let mut value = self.value.lock().unwrap();
        *value += more;
        *value
    }

    async fn divide(&self, by: u32) -> Result<u32, String> {
        100u32.checked_div(by).ok_or_else(|| "by zero".to_owned())
    }

    async fn user(&self) -> Option<String> {
        Context::current()?.metadata().get("user")?.as_str().map(str::to_owned)
    }

    async fn hang(&self) {
        std::future::pending().await
    }

    async fn panics(&self) {
        panic!("on purpose: a handler that panics");
    }

    async fn stream(&self, upto: u32) -> Rx<u32> {
        let (tx, rx) = adjoin::channel();
        tokio::spawn(async move {
            for number in 0..upto {
                if tx.send(number).await.is_err() {
                    return;
                }
            }
        });
        rx
    }

    async fn most_at_once(&self) -> u32 {
        self.most.load(Ordering::SeqCst) as u32
    }
}

/// Writes down what it sees.
#[derive(Clone, Default)]
struct Log {
    name: &'static str,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Log {
    fn named(&self, name: &'static str) -> Self {
        Log { name, ..self.clone() }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }

    fn write(&self, line: String) {
        self.lines.lock().unwrap().push(line);
    }
}

/// Says so when a call is dropped before its outcome.
struct Dropped<'a>(Option<(&'a Log, &'static str)>);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        if let Some((log, method)) = self.0 {
            log.write(format!("{} {method} cancelled", log.name));
        }
    }
}

impl Interceptor for Log {
    fn intercept<'a>(&'a self, call: &'a mut InterceptedCall, next: Next<'a>) -> Intercepting<'a> {
        Box::pin(async move {
            let method = call.method_name();
            self.write(format!("{} {method} {:?}", self.name, call.side()));
            let mut dropped = Dropped(Some((self, method)));
            let began = call.elapsed();
            let outcome = next.run(call).await;
            dropped.0 = None;
            assert!(call.elapsed() >= began, "{began:?}");
            self.write(format!("{} {method} {outcome}", self.name));
            outcome
        })
    }
}

struct Authorize;

impl Interceptor for Authorize {
    fn intercept<'a>(&'a self, call: &'a mut InterceptedCall, next: Next<'a>) -> Intercepting<'a> {
        let user = call.metadata().get("token").and_then(|token| token.as_str()?.strip_prefix("of "));
        match user.map(str::to_owned) {
            None => Box::pin(std::future::ready(Outcome::rejected("who are you?"))),
            Some(user) => {
                assert_eq!(call.side(), Side::Callee);
                assert!(call.connection().is_some());
                call.metadata_mut().push("user", user);
                Box::pin(next.run(call))
            }
        }
    }
}

struct SignIn(&'static str);

impl Interceptor for SignIn {
    fn intercept<'a>(&'a self, call: &'a mut InterceptedCall, next: Next<'a>) -> Intercepting<'a> {
        call.metadata_mut().push("token", self.0);
        Box::pin(next.run(call))
    }
}

struct Limit(Semaphore);

impl Interceptor for Limit {
    fn intercept<'a>(&'a self, call: &'a mut InterceptedCall, next: Next<'a>) -> Intercepting<'a> {
        Box::pin(async move {
            let _permit = self.0.acquire().await;
            next.run(call).await
        })
    }
}

/// The caller's end, and what keeps the other one alive.
struct Ends {
    caller: Caller,
    _far: Far,
}

/// A link of a kind whose far end is in this process.
async fn ends(kind: Kind, far: Options) -> Ends {
    let (connection, far) = link(kind, Options::new(), far).await;
    Ends { caller: Caller::from(connection), _far: far }
}

fn run<F: Future<Output = ()>>(test: impl Fn(Kind) -> F) {
    let _hang = Watchdog::seconds(60);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let kinds = [
        Kind::Local,
        Kind::Uds,
        Kind::Tcp,
        Kind::Proxied(&[Kind::Uds, Kind::Local]),
        #[cfg(target_os = "linux")]
        Kind::ShmPath,
        #[cfg(target_os = "linux")]
        Kind::Proxied(&[Kind::Uds, Kind::ShmPath]),
    ];
    for kind in kinds {
        runtime.block_on(test(kind));
    }
}

fn serving(log: &Log) -> Options {
    let counter = Intercept::new(CounterDispatcher::new(Counting::default()))
        .with(log.named("first"))
        .with(log.named("second"));
    Options::new().serve(counter)
}

#[test]
fn interceptors_of_both_sides_see_a_call_in_their_order_and_its_outcome_in_reverse() {
    run(|kind| async move {
        let log = Log::default();
        let ends = ends(kind, serving(&log)).await;
        let caller =
            ends.caller.clone().with_interceptor(log.named("outer")).with_interceptor(log.named("inner"));
        let counter = CounterClient::new(caller);
        assert_eq!(counter.add(7).await.unwrap(), 7);
        let expected = [
            "outer add Caller",
            "inner add Caller",
            "first add Callee",
            "second add Callee",
            "second add done",
            "first add done",
            "inner add done",
            "outer add done",
        ];
        let mut seen = log.take();
        // The answer is out before its handler's interceptors have seen it.
        let position = |seen: &[String], line: &str| seen.iter().position(|seen| seen == line);
        while seen.len() < expected.len() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            seen.extend(log.take());
        }
        assert_eq!(seen[..4], expected[..4]);
        assert!(position(&seen, "second add done") < position(&seen, "first add done"));
        assert!(position(&seen, "inner add done") < position(&seen, "outer add done"));

        let mut numbers = counter.stream(1000).await.unwrap();
        for expected in 0..1000 {
            assert_eq!(numbers.recv().await.unwrap(), Some(expected));
        }
        assert_eq!(numbers.recv().await.unwrap(), None);
    });
}

/// Waits for a line of a log.
async fn until_logged(log: &Log, line: &str) {
    while !log.lines.lock().unwrap().iter().any(|seen| seen == line) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn every_outcome_is_told_apart() {
    run(|kind| async move {
        let log = Log::default();
        let ends = ends(kind, serving(&log)).await;
        let counter = CounterClient::new(ends.caller.clone().with_interceptor(log.named("caller")));
        assert!(matches!(counter.divide(0).await, Err(CallError::User(error)) if error == "by zero"));
        until_logged(&log, "first divide the service refused").await;
        until_logged(&log, "caller divide the service refused").await;
        assert!(matches!(counter.panics().await, Err(CallError::Cancelled)));
        until_logged(&log, "first panics the peer cancelled the call").await;
        until_logged(&log, "caller panics the peer cancelled the call").await;
        let timeout = Duration::from_millis(20);
        assert!(matches!(counter.hang().with_timeout(timeout).await, Err(CallError::TimedOut { .. })));
        until_logged(&log, "caller hang the call timed out after 20ms").await;
        until_logged(&log, "first hang cancelled").await;
        until_logged(&log, "second hang cancelled").await;
        log.take();
        let dropped = tokio::spawn(counter.hang());
        until_logged(&log, "second hang Callee").await;
        dropped.abort();
        until_logged(&log, "caller hang cancelled").await;
        until_logged(&log, "second hang cancelled").await;
        assert_eq!(counter.add(1).await.unwrap(), 1);
    });
}

#[test]
fn a_call_is_rejected_for_a_reason_and_does_not_run() {
    run(|kind| async move {
        let counter = Intercept::new(CounterDispatcher::new(Counting::default())).with(Authorize);
        let ends = ends(kind, Options::new().serve(counter)).await;
        let stranger = CounterClient::new(&ends.caller);
        let known = CounterClient::new(ends.caller.clone().with_interceptor(SignIn("of Ada")));
        for _ in 0..3 {
            match stranger.add(1).await {
                Err(CallError::Rejected { reason }) => assert_eq!(reason, "who are you?"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(known.add(1).await.unwrap(), 1, "those that were rejected did not run");
        assert_eq!(known.user().await.unwrap().as_deref(), Some("Ada"));
        // By an interceptor of the caller's own side nothing is sent.
        struct Never;
        impl Interceptor for Never {
            fn intercept<'a>(&'a self, _: &'a mut InterceptedCall, _: Next<'a>) -> Intercepting<'a> {
                Box::pin(std::future::ready(Outcome::rejected("not today")))
            }
        }
        let never = CounterClient::new(ends.caller.clone().with_interceptor(Never));
        assert!(matches!(never.add(1).await, Err(CallError::Rejected { reason }) if reason == "not today"));
    });
}

#[test]
fn no_more_calls_run_at_once_than_a_limit_allows_and_cancelled_ones_give_their_place_back() {
    run(|kind| async move {
        let limited =
            Intercept::new(CounterDispatcher::new(Counting::default())).with(Limit(Semaphore::new(2)));
        let ends = ends(kind, Options::new().serve(limited)).await;
        let counter = CounterClient::new(&ends.caller);
        let hanging: Vec<_> = (0..2).map(|_| tokio::spawn(counter.hang())).collect();
        let calls: Vec<_> = (0..100).map(|_| tokio::spawn(counter.add(1))).collect();
        tokio::task::yield_now().await;
        hanging.iter().for_each(|call| call.abort());
        for call in calls {
            call.await.unwrap().unwrap();
        }
        assert!((1..=2).contains(&counter.most_at_once().await.unwrap()));
        assert_eq!(counter.add(0).await.unwrap(), 100);
    });
}

#[test]
fn a_rejected_request_may_be_made_again_with_its_nonce() {
    run(|kind| async move {
        let counter = Intercept::new(CounterDispatcher::new(Counting::default())).with(Authorize);
        let ends = ends(kind, Options::new().serve(Deduplicate::new(counter))).await;
        let nonce = Nonce::random().unwrap();
        let stranger = CounterClient::new(&ends.caller);
        let refused = stranger.add(1).with_nonce(nonce).await;
        assert!(matches!(refused, Err(CallError::Rejected { .. })), "{refused:?}");
        let known = CounterClient::new(ends.caller.clone().with_interceptor(SignIn("of Ada")));
        for _ in 0..3 {
            assert_eq!(known.add(1).with_nonce(nonce).await.unwrap(), 1);
        }
    });
}

#[test]
fn what_is_forwarded_is_intercepted_too() {
    let _hang = Watchdog::seconds(60);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let log = Log::default();
        let counter = Intercept::new(CounterDispatcher::new(Counting::default())).with(Authorize);
        let upstream = ends(Kind::Uds, Options::new().serve(counter)).await;
        let upstream: &Connection = upstream.caller.connection().unwrap();
        // The proxy signs in for its callers, on the way in; and logs on the way out.
        let caller = Caller::from(upstream).with_interceptor(log.named("out"));
        let proxy = Intercept::new(Forward::to(caller)).with(SignIn("of Eve")).with(log.named("in"));
        let front = ends(Kind::Tcp, Options::new().serve(proxy)).await;
        let counter = CounterClient::new(&front.caller);
        assert_eq!(counter.user().await.unwrap().as_deref(), Some("Eve"));
        until_logged(&log, "in  done").await; // the method's name is not known
        until_logged(&log, "out  done").await;
        let mut numbers = counter.stream(10).await.unwrap();
        for expected in 0..10 {
            assert_eq!(numbers.recv().await.unwrap(), Some(expected));
        }
    });
}

#[test]
fn a_plain_thread_can_block_on_an_intercepted_call() {
    let _hang = Watchdog::seconds(60);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let log = Log::default();
    let ends = runtime.block_on(ends(Kind::Uds, serving(&log)));
    let counter = CounterClient::new(ends.caller.clone().with_interceptor(log.named("caller")));
    assert_eq!(counter.add(3).block().unwrap(), 3);
    let timeout = Duration::from_millis(20);
    assert!(matches!(counter.hang().with_timeout(timeout).block(), Err(CallError::TimedOut { .. })));
}

/// Does what interceptors do with the runtime's clock.
struct Patient;

impl Interceptor for Patient {
    fn intercept<'a>(&'a self, call: &'a mut InterceptedCall, next: Next<'a>) -> Intercepting<'a> {
        Box::pin(async move {
            let patience = Duration::from_secs(60);
            tokio::time::timeout(patience, next.run(call)).await.unwrap_or_else(|_| Outcome::rejected("slow"))
        })
    }
}

#[test]
fn interceptors_have_a_runtime_when_a_plain_thread_blocks() {
    let _hang = Watchdog::seconds(60);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ends = runtime.block_on(ends(Kind::Uds, serving(&Log::default())));
    let counter = CounterClient::new(ends.caller.clone().with_interceptor(Patient));
    assert_eq!(counter.add(3).block().unwrap(), 3);
}

#[test]
fn a_call_that_its_own_sides_interceptors_hold_up_is_over_in_time() {
    let timeout = Duration::from_millis(20);
    run(|kind| async move {
        let ends = ends(kind, serving(&Log::default())).await;
        let counter = CounterClient::new(ends.caller.clone().with_interceptor(Limit(Semaphore::new(0))));
        match counter.add(1).with_timeout(timeout).await {
            Err(CallError::TimedOut { after }) => assert_eq!(after, timeout),
            other => panic!("{other:?}"),
        }
        // On a thread without a runtime, too.
        let call = counter.add(1).with_timeout(timeout);
        let blocked = std::thread::spawn(move || call.block());
        let blocked = tokio::task::spawn_blocking(move || blocked.join()).await.unwrap().unwrap();
        assert!(matches!(blocked, Err(CallError::TimedOut { .. })), "{blocked:?}");
    });
}

#[test]
fn interceptors_see_that_a_call_has_timed_out() {
    run(|kind| async move {
        let ends = ends(kind, serving(&Log::default())).await;
        let log = Log::default();
        let counter = CounterClient::new(ends.caller.clone().with_interceptor(log.named("caller")));
        let timed_out = counter.hang().with_timeout(Duration::from_millis(20)).await;
        assert!(matches!(timed_out, Err(CallError::TimedOut { .. })), "{timed_out:?}");
        let seen = log.take();
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(!seen[1].contains("cancelled"), "{seen:?}");
    });
}

#[test]
fn a_forwarded_request_that_may_have_run_is_not_run_again() {
    let _hang = Watchdog::seconds(60);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let log = Log::default();
        let upstream = ends(Kind::Uds, serving(&log)).await;
        let proxy = Deduplicate::new(Forward::to(upstream.caller.clone()));
        let front = ends(Kind::Local, Options::new().serve(proxy)).await;
        let counter = CounterClient::new(&front.caller);
        let nonce = Nonce::random().unwrap();
        for _ in 0..2 {
            let answer = counter.panics().with_nonce(nonce).await;
            assert!(matches!(answer, Err(CallError::Cancelled)), "{answer:?}");
        }
        let ran = log.take().iter().filter(|line| *line == "first panics Callee").count();
        assert_eq!(ran, 1);
    });
}
