//! What every side of the world serves, on every connection, and how it takes connections.

use std::{future::Future, panic, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    chance::{Tardy, dawdle, millis, one_in, pick},
    ledger::Decision,
    load::Caller,
    streams::{At, Feeder, Item, Reader},
    world::{Conn, World},
};
use crate::rpc::{
    connect::ConnectOptions,
    context::Context,
    dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
    incoming::IncomingConnection,
    method::{self as described, Method},
    method_id::MethodId,
    rx::Rx,
    tx::{Tx, channel},
    waiters::lock,
};
use crate::session::metadata::Metadata;

macro_rules! methods {
    ($($name:ident $id:literal $inline:literal)*) => {
        $(pub(super) const $name: Method =
            described::method("World", stringify!($name), MethodId::new($id), $inline, false);)*
        const METHODS: &[Method] = &[$($name),*];
    };
}

// The first argument of each is the call's number in the ledger; those of streams follow.
methods! {
    ECHO 1 true
    SLOW 2 false
    FAIL 3 true
    PANIC 4 true
    STALL 5 false
    TAKE 6 false
    UNITS 7 false
    MANY 8 false
    GIVE 9 false
    STREAM 10 true
    OPEN 11 false
    BOTH 12 false
    BACK 13 false
    ON 14 false
    THROUGH 15 false
    LONG_ANSWER 16 false
    TWICE 17 false
    MARKED 18 false
}

/// Served by nobody.
pub(super) const UNKNOWN: Method = described::method("World", "unknown", MethodId::new(99), false, false);

/// Elements of a stream at most.
pub(super) const MANY_ELEMENTS: u32 = 12;

/// What one side of a link serves.
pub(super) struct Service {
    pub(super) world: Arc<World>,
    pub(super) side: usize,
}

/// A handler that is at work.
struct Running {
    world: Arc<World>,
    token: u64,
    deadline: Option<Instant>,
}

impl Running {
    /// A handler was given a request.
    fn start(world: &Arc<World>, token: u64) -> Self {
        world.note(|| format!("call {token}: its handler starts"));
        let mut ledger = lock(&world.ledger);
        let judged = ledger.judge_start(token as usize);
        let op = &mut ledger.ops[token as usize];
        op.starts += 1;
        op.running += 1;
        drop(ledger);
        world.fail_if(judged);
        Running { world: Arc::clone(world), token, deadline: None }
    }

    /// It is run for the first time.
    fn enter(&mut self) {
        let deadline = Context::current().and_then(|context| context.deadline());
        self.deadline = deadline.map(Instant::from_std);
        let (token, timeout) = (self.token, lock(&self.world.ledger).ops[self.token as usize].timeout);
        if self.deadline.is_some() != timeout.is_some() {
            let deadline = self.deadline;
            self.world.fail(format!("call {token} has a timeout of {timeout:?}, its handler {deadline:?}"));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.world.ledger).ops[self.token as usize].running -= 1;
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| now > deadline + Duration::from_millis(2)) {
            self.world.fail(format!("the handler of call {} ran on after its deadline", self.token));
        }
    }
}

/// Runs a handler, and writes down that it does.
fn run<T: Send, F: Future<Output = T> + Send>(
    world: &Arc<World>,
    token: u64,
    body: F,
) -> impl Future<Output = T> + Send + use<T, F> {
    let mut running = Running::start(world, token);
    Tardy::new(async move {
        running.enter();
        let result = body.await;
        running.world.note(|| format!("call {token}: its handler returns"));
        lock(&running.world.ledger).ops[token as usize].returns += 1;
        result
    })
}

impl Service {
    /// The connection of a request, as this side has it.
    fn conn(&self, token: u64) -> impl FnOnce() -> Option<Conn> + Send + use<> {
        let (record, side) = (lock(&self.world.ledger).ops[token as usize].conn, self.side);
        move || {
            let connection = Context::current()?.connection().clone();
            Some(Conn { connection, record, side })
        }
    }

    fn at(&self, token: u64, stream: u64) -> At {
        let record = lock(&self.world.ledger).ops[token as usize].conn;
        At { world: Arc::clone(&self.world), record, side: self.side, stream: stream as usize }
    }

    fn plain(&self, request: IncomingRequest<'_>) -> Dispatch {
        let world = Arc::clone(&self.world);
        match request.method_id() {
            id if id == ECHO.id => request
                .serve(&ECHO, move |(token, bytes): (u64, Vec<u8>)| run(&world, token, async move { bytes })),
            id if id == SLOW.id => request.serve(&SLOW, move |(token, bytes): (u64, Vec<u8>)| {
                run(&world, token, async move {
                    tokio::time::sleep(millis(0..=150)).await;
                    bytes
                })
            }),
            id if id == FAIL.id => request.serve_result(&FAIL, move |(token,): (u64,)| {
                run(&world, token, async move {
                    dawdle().await;
                    Err::<(), u64>(token)
                })
            }),
            id if id == PANIC.id => request.serve(&PANIC, move |(token,): (u64,)| {
                run(&world, token, async move {
                    dawdle().await;
                    give_up();
                })
            }),
            id if id == STALL.id => request
                .serve(&STALL, move |(token,): (u64,)| run(&world, token, std::future::pending::<()>())),
            id if id == LONG_ANSWER.id => request.serve(&LONG_ANSWER, move |(token, len): (u64, u64)| {
                run(&world, token, async move { vec![0_u8; len as usize] })
            }),
            id if id == TWICE.id => request
                .serve(&TWICE, move |(token, _, _): (u64, Rx<Item>, Tx<Item>)| run(&world, token, async {})),
            id if id == MARKED.id => request.serve(&MARKED, move |(token,): (u64,)| {
                run(&world, token, async move {
                    dawdle().await;
                    if one_in(10) {
                        give_up();
                    }
                    token
                })
            }),
            _ => request.unknown_method(),
        }
    }

    fn streaming(&self, request: IncomingRequest<'_>) -> Dispatch {
        let service = self.clone();
        let world = Arc::clone(&self.world);
        match request.method_id() {
            id if id == TAKE.id => request.serve(&TAKE, move |(token, stream, rx): (u64, u64, Rx<Item>)| {
                let reader = Reader::new(service.at(token, stream), rx);
                run(&world, token, reader.run())
            }),
            id if id == UNITS.id => request.serve(&UNITS, move |(token, stream, rx): (u64, u64, Rx<()>)| {
                let reader = Reader::new(service.at(token, stream), rx);
                run(&world, token, reader.run())
            }),
            id if id == MANY.id => {
                request.serve(&MANY, move |(token, streams): (u64, Vec<(u64, Rx<Item>)>)| {
                    let readers: Vec<_> = streams
                        .into_iter()
                        .map(|(stream, rx)| Reader::new(service.at(token, stream), rx))
                        .collect();
                    run(&world.clone(), token, async move {
                        for reader in readers {
                            let task = async move { _ = reader.run().await };
                            world.spawn(format!("a reader of call {token}"), task);
                        }
                    })
                })
            }
            id if id == GIVE.id => request.serve(&GIVE, move |(token, stream, tx): (u64, u64, Tx<Item>)| {
                let feeder = Feeder::new(service.at(token, stream), tx);
                run(&world, token, feeder.run(MANY_ELEMENTS))
            }),
            id if id == STREAM.id => request.serve(&STREAM, move |(token, stream): (u64, u64)| {
                run(&world.clone(), token, async move {
                    let (feeder, rx) = service.feeder(token, stream).await;
                    world.spawn(format!("the feeder of call {token}"), feeder.run(MANY_ELEMENTS));
                    rx
                })
            }),
            id if id == OPEN.id => request.serve(&OPEN, move |(token, out, back): (u64, u64, u64)| {
                run(&world.clone(), token, async move {
                    let (feeder, rx) = service.feeder(token, out).await;
                    world.spawn(format!("the feeder of call {token}"), feeder.run(MANY_ELEMENTS));
                    let (tx, kept) = channel::<Item>();
                    let reader = Reader::new(service.at(token, back), kept);
                    world.spawn(format!("the reader of call {token}"), async move { _ = reader.run().await });
                    (rx, tx)
                })
            }),
            id if id == BOTH.id => request.serve(
                &BOTH,
                move |(token, into, rx, back, tx): (u64, u64, Rx<Item>, u64, Tx<Item>)| {
                    let mut reader = Reader::new(service.at(token, into), rx);
                    let mut feeder = Feeder::new(service.at(token, back), tx);
                    run(&world, token, async move { while reader.one().await && feeder.one().await {} })
                },
            ),
            _ => self.calling(request),
        }
    }

    /// A stream that this side feeds; some of it is there before it is returned.
    async fn feeder(&self, token: u64, stream: u64) -> (Feeder<Item>, Rx<Item>) {
        let (tx, rx) = channel::<Item>();
        let mut feeder = Feeder::new(self.at(token, stream), tx);
        while one_in(3) && feeder.one().await {}
        (feeder, rx)
    }

    /// Handlers that call themselves: back, or on to the next session.
    fn calling(&self, request: IncomingRequest<'_>) -> Dispatch {
        let service = self.clone();
        let world = Arc::clone(&self.world);
        match request.method_id() {
            id if id == BACK.id => request.serve_result(&BACK, move |(token,): (u64,)| {
                run(&world.clone(), token, async move {
                    let back = service.conn(token)().ok_or(token)?;
                    Caller { world, conn: back }.plain().await.ok_or(token)
                })
            }),
            id if id == ON.id => request.serve_result(&ON, move |(token, link): (u64, u64)| {
                run(&world.clone(), token, async move {
                    let next = world.next(link as usize, service.side).ok_or(token)?;
                    Caller { world, conn: next }.plain().await.ok_or(token)
                })
            }),
            id if id == THROUGH.id => {
                request.serve_result(&THROUGH, move |(token, stream, rx): (u64, u64, Rx<Item>)| {
                    let reader = Reader::new(service.at(token, stream), rx);
                    run(&world.clone(), token, async move {
                        let next = world.next(0, service.side).ok_or(token)?;
                        Caller { world, conn: next }.pass_on(reader).await.ok_or(token)
                    })
                })
            }
            _ => self.plain(request),
        }
    }
}

impl Clone for Service {
    fn clone(&self) -> Self {
        Service { world: Arc::clone(&self.world), side: self.side }
    }
}

impl ServiceDispatcher for Service {
    fn service(&self) -> &'static described::Service {
        static SERVICE: described::Service = described::service("World", METHODS);
        &SERVICE
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        self.streaming(request)
    }
}

/// Panics, without a word of the panic's hook.
fn give_up() {
    panic::resume_unwind(Box::new("on purpose"))
}

/// The key under which both sides tell each other which of the ledger's connections is meant.
const RECORD: &str = "record";

/// What goes along with a Connect or an Accept.
pub(super) fn tagged(record: usize) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.push(RECORD, record as u64);
    metadata
}

/// Which connection is meant.
pub(super) fn tag(metadata: &Metadata) -> Option<usize> {
    metadata.get(RECORD)?.as_u64().map(|record| record as usize)
}

/// Decides on a connection that the peer asks for, now or later.
pub(super) fn on_connect(world: &Arc<World>, side: usize, incoming: IncomingConnection) {
    if one_in(3) {
        let late = Arc::clone(world);
        world.spawn("who decides on a connection".into(), async move {
            dawdle().await;
            decide(&late, side, incoming);
        });
    } else {
        decide(world, side, incoming);
    }
}

fn decide(world: &Arc<World>, side: usize, incoming: IncomingConnection) {
    let Some(record) = tag(incoming.metadata()) else {
        return world.fail("a connection was asked for without its metadata".into());
    };
    let decided = |decision: Decision| {
        world.note(|| format!("connection {record}: {decision:?}"));
        lock(&world.ledger).conns[record].decision = Some(decision);
    };
    match fastrand::u32(..8) {
        0 => {
            let reason = pick(&["no", "not today", ""]);
            decided(Decision::Rejected(reason));
            incoming.reject(reason);
        }
        1 => {
            decided(Decision::Rejected("not accepted"));
            drop(incoming);
        }
        _ => {
            decided(Decision::Accepted);
            let serves = !one_in(8);
            lock(&world.ledger).conns[record].serves[side] = serves;
            let mut options = ConnectOptions::new().metadata(tagged(record));
            if serves {
                options = options.serve(world.service(world.link_of(record), side));
            }
            if let Ok(connection) = incoming.accept(options) {
                let caller = Caller { world: Arc::clone(world), conn: Conn { connection, record, side } };
                world.spawn(format!("the acceptor of connection {record}"), caller.host());
            }
        }
    }
}
