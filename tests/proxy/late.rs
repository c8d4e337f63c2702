//! A dispatcher that is bound late.

use std::{pin::Pin, time::Duration};

use adjoin::{
    CallError, Connection, Options, channel, local,
    proxy::{AlreadyBound, Forward, LateBound},
};

use crate::{
    common::{
        links::{Far, Kind, link},
        suite::until_passed,
        watchdog::Watchdog,
    },
    rig::{ProbeClient, runtime, serving},
};

/// A client of a proxy that is to be bound, and a connection to bind it to.
async fn parts(kind: Kind, late: &LateBound) -> (ProbeClient, Far, Connection, Far) {
    let (upstream, server) = link(kind, Options::new(), serving()).await;
    let (client, proxy) = link(Kind::Uds, Options::new(), Options::new().serve(late.clone())).await;
    (ProbeClient::new(client), proxy, upstream, server)
}

#[track_caller]
fn assert_rejected<T: std::fmt::Debug>(outcome: Result<T, CallError>, why: &str) {
    match outcome {
        Err(CallError::Rejected { reason }) => assert!(reason.contains(why), "{reason}"),
        other => panic!("the call ended otherwise: {other:?}"),
    }
}

#[test]
fn before_it_is_bound_calls_are_rejected_at_once_and_afterwards_served() {
    let _hang = Watchdog::seconds(60);
    for kind in Kind::all() {
        runtime().block_on(async {
            let late = LateBound::new();
            let (probe, _proxy, upstream, _server) = parts(kind, &late).await;
            for _ in 0..20 {
                let (tx, input) = channel();
                assert_rejected(probe.take(input).await, "not connected yet");
                tx.closed().await;
            }
            assert!(!late.is_bound());
            late.bind(Forward::to(&upstream)).unwrap();
            assert!(late.is_bound());
            assert_eq!(probe.add(1, 2).await.unwrap(), 3);
            let twice = late.clone().bind(Forward::to(&upstream));
            assert_eq!(twice, Err(AlreadyBound));
            assert_eq!(probe.add(1, 2).await.unwrap(), 3);
        });
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<u64, CallError>>>>;

/// A call that waits at the proxy, as soon as those before it have given up their places. `full`: as the last one that
/// may.
async fn waiting(probe: &ProbeClient, full: bool) -> Waiting {
    loop {
        let (tx, input) = channel();
        tx.send(vec![1; 3]).await.unwrap();
        let client = probe.clone();
        let mut call: Waiting = Box::pin(async move { client.take(input).await });
        let more = async {
            until_passed(&tx).await;
            let _ = tx.send(vec![1; 4]).await;
            drop(tx);
            if full {
                // It comes behind the other one, and is answered behind it.
                assert_full(probe).await;
            }
        };
        tokio::select! { biased;
            rejected = &mut call => assert_rejected(rejected, "calls wait already"),
            () = more => return call,
        }
    }
}

#[test]
fn calls_wait_up_to_the_limit_with_what_was_sent_on_their_streams() {
    let _hang = Watchdog::seconds(60);
    for kind in Kind::all() {
        runtime().block_on(async {
            let late = LateBound::new().waiting(3);
            let (probe, _proxy, upstream, _server) = parts(kind, &late).await;
            let calls =
                [waiting(&probe, false).await, waiting(&probe, false).await, waiting(&probe, true).await];
            assert_full(&probe).await;
            late.bind(Forward::to(&upstream)).unwrap();
            for call in calls {
                assert_eq!(call.await.unwrap(), 7);
            }
            assert_eq!(probe.add(1, 2).await.unwrap(), 3);
        });
    }
}

#[test]
fn a_waiting_call_that_is_dropped_or_times_out_or_loses_its_link_gives_its_place_back() {
    let _hang = Watchdog::seconds(60);
    runtime().block_on(async {
        let late = LateBound::new().waiting(1);
        let (probe, _proxy, upstream, _server) = parts(Kind::Local, &late).await;
        for _ in 0..20 {
            let call = waiting(&probe, true).await;
            assert_full(&probe).await;
            drop(call);
        }
        for _ in 0..3 {
            drop(waiting(&probe, true).await);
            let late = loop {
                // Rejected until the one before has given up its place.
                match probe.add(1, 2).with_timeout(Duration::from_millis(20)).await {
                    Err(CallError::Rejected { .. }) => {}
                    late => break late,
                }
            };
            assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
        }
        for _ in 0..20 {
            let serve = Options::new().serve(late.clone());
            let (client, proxy) = local::pair(Options::new(), serve);
            let other = ProbeClient::new(&client);
            let call = waiting(&other, true).await;
            assert_full(&probe).await;
            client.close().await;
            proxy.closed().await;
            assert!(matches!(call.await, Err(CallError::Ended(_))));
        }
        let call = waiting(&probe, true).await;
        late.bind(Forward::to(&upstream)).unwrap();
        assert_eq!(call.await.unwrap(), 7);
    });
}

/// As many calls wait as may.
async fn assert_full(probe: &ProbeClient) {
    assert_rejected(probe.add(1, 2).await, "calls wait already");
}

#[test]
fn the_time_of_a_call_runs_while_it_waits() {
    let _hang = Watchdog::seconds(60);
    runtime().block_on(async {
        let late = LateBound::new().waiting(1);
        let (probe, _proxy, upstream, _server) = parts(Kind::Tcp, &late).await;
        let (given, waited) = (Duration::from_secs(60), Duration::from_millis(50));
        let bind = async {
            assert_full(&probe).await; // since the other one waits
            tokio::time::sleep(waited).await; // what this test is about is time
            late.bind(Forward::to(&upstream)).unwrap();
        };
        let (left, ()) = tokio::join!(probe.left().with_timeout(given), bind);
        let left = Duration::from_nanos(left.unwrap().unwrap());
        assert!(left <= given - waited, "{left:?} of {given:?} after {waited:?}");
    });
}
