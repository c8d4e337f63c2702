//! What `.ci/instructions` has counted: a caller and a callee over shared memory, who take turns on one thread, so that it is
//! the same each time.
//!
//! They sleep and do not spin. Nothing here asks the system for what the simulated processor does not know: instead of
//! handles on processes there are descriptors on which nothing ever happens.

use adjoin_shm_layout::Geometry;
use rustix::event::{EventfdFlags, eventfd};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
};

use crate::{
    channel,
    rpc::{
        caller::Caller,
        connection::Connection,
        dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
        errors::Never,
        method::{Method, Service, method, service},
        method_id::MethodId,
        options::Options,
        rx::Rx,
    },
    segments::{End, ends_for_test},
    settings::Waiting,
};

const ECHO: Method = method("Counted", "echo", MethodId::new(1), true, false);
const INGEST: Method = method("Counted", "ingest", MethodId::new(2), false, false);

struct Counted;

impl ServiceDispatcher for Counted {
    fn service(&self) -> &'static Service {
        static COUNTED: Service = service("Counted", &[ECHO, INGEST]);
        &COUNTED
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        match request.method_id() {
            id if id == ECHO.id => request.serve(&ECHO, |(data,): (Vec<u8>,)| async move { data }),
            id if id == INGEST.id => request.serve(&INGEST, |(mut rx,): (Rx<Vec<u8>>,)| async move {
                let mut count = 0_u64;
                while let Ok(Some(_)) = rx.recv().await {
                    count += 1;
                }
                count
            }),
            _ => request.unknown_method(),
        }
    }
}

/// Calls one after the other, with 32 bytes each.
async fn calls(caller: Caller, times: u64) {
    let mut data = vec![7_u8; 32];
    for _ in 0..times {
        data = caller.call::<_, _, Never>(&ECHO, (data,)).await.unwrap();
    }
    assert_eq!(data, [7; 32]);
}

/// Calls of which 64 are in flight.
async fn calls_of_64(caller: Caller, times: u64) {
    let mut tasks = JoinSet::new();
    (0..64).for_each(|_| drop(tasks.spawn(calls(caller.clone(), times / 64))));
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

/// Elements of 64 bytes.
async fn elements(caller: Caller, times: u64) {
    let (tx, rx) = channel();
    let sending = async move {
        for _ in 0..times {
            tx.send(vec![7_u8; 64]).await.unwrap();
        }
    };
    let (count, ()) = tokio::join!(caller.call::<_, u64, Never>(&INGEST, (rx,)), sending);
    assert_eq!(count.unwrap(), times);
}

/// One side, with a runtime of its own.
struct Side {
    runtime: Runtime,
    connection: Connection,
}

impl Side {
    fn new(end: End) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let connection = runtime
            .block_on(async { Connection::start(end.link(Waiting::Sleep), &Options::new().serve(Counted)) });
        Side { runtime, connection }
    }

    /// Goes on with everything that can go on.
    fn turn(&self) {
        self.runtime.block_on(async {
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
        });
    }
}

/// Looks at its tasks and its descriptors in a turn: a task that a descriptor wakes may wake another one.
const TURNS: usize = 3;

// What is counted is counted in these two. They differ, so that the compiler makes two of them.

#[inline(never)]
fn turn_of_the_caller(caller: &Side) {
    caller.turn();
    std::hint::black_box("caller");
}

#[inline(never)]
fn turn_of_the_callee(callee: &Side) {
    callee.turn();
    std::hint::black_box("callee");
}

fn run(workload: &str, times: u64) {
    let nothing = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let geometry = Geometry::default();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (callee, caller) = runtime.block_on(ends_for_test(&geometry, nothing));
    let (callee, caller) = (Side::new(callee), Side::new(caller));
    let calling = Caller::from(&caller.connection);
    let working = match workload {
        "call" => caller.runtime.spawn(calls(calling, times)),
        "call-of-64" => caller.runtime.spawn(calls_of_64(calling, times)),
        _ => caller.runtime.spawn(elements(calling, times)),
    };
    while !working.is_finished() {
        turn_of_the_caller(&caller);
        turn_of_the_callee(&callee);
    }
    caller.runtime.block_on(working).unwrap();
}

#[test]
fn what_is_counted_works() {
    ["call", "call-of-64", "element"].into_iter().for_each(|workload| run(workload, 640));
}

#[test]
#[ignore = "run by .ci/instructions, which counts"]
fn counted() {
    let workload = std::env::var("ADJOIN_COUNTED").unwrap();
    run(&workload, std::env::var("ADJOIN_TIMES").unwrap().parse().unwrap());
}
