//! What our side serves to the raw peer: a method for each thing that a handler can do, and a log of what
//! handlers saw.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use crate::{
    rpc::{
        context::Context,
        dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
        errors::{RecvError, SendError},
        method::{Method, Service, method, service},
        method_id::MethodId,
        rx::Rx,
        tx::{Tx, channel},
    },
    session::metadata::Metadata,
};

/// Nothing, in place.
pub(super) const NOP: Method = define("nop", 1, true);
/// Gives back its argument.
pub(super) const ECHO: Method = define("echo", 2, false);
/// Runs until it is stopped.
pub(super) const HANG: Method = define("hang", 3, false);
/// Says no, with the error 7.
pub(super) const FAIL: Method = define("fail", 4, false);
/// Panics.
pub(super) const PANIC: Method = define("panic", 5, false);
/// Returns when the test opens the gate.
pub(super) const GATED: Method = define("gated", 6, false);
/// Receives elements until their end.
pub(super) const LISTEN: Method = define("listen", 7, false);
/// Keeps a receiver without looking at it, until it is stopped.
pub(super) const HOLD: Method = define("hold", 8, false);
/// Sends so many elements of so many bytes.
pub(super) const TALK: Method = define("talk", 9, false);
/// Returns a stream of so many elements of so many bytes.
pub(super) const GIVE: Method = define("give", 10, false);
/// Returns a sender, and listens to what is sent.
pub(super) const TAKE: Method = define("take", 11, false);
/// Two streams as arguments: listens to the first, then to the second.
pub(super) const BOTH: Method = define("both", 12, false);
/// One that our side does not serve, and calls.
pub(super) const THEIRS: Method = define("theirs", 0x7777, false);

const fn define(name: &'static str, id: u64, inline: bool) -> Method {
    method("Conformance", name, MethodId::new(id), inline, false)
}

/// What a handler saw.
#[derive(Debug)]
pub(super) enum Event {
    /// A handler that runs until it is stopped runs.
    Started,
    /// It was stopped.
    Stopped,
    /// Metadata of a call of `NOP`.
    Metadata(Metadata),
    Element(Vec<u8>),
    /// A reader came to its end.
    Ended(Result<(), RecvError>),
    /// A sender could not send.
    NotSent(SendError),
}

/// The service.
pub(super) struct Handlers {
    events: mpsc::UnboundedSender<Event>,
    gate: Arc<Semaphore>,
}

impl Handlers {
    /// The service, what its handlers see, and the gate that `GATED` waits at.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Event>, Arc<Semaphore>) {
        let (events, seen) = mpsc::unbounded_channel();
        let gate = Arc::new(Semaphore::new(0));
        (Handlers { events, gate: Arc::clone(&gate) }, seen, gate)
    }
}

impl ServiceDispatcher for Handlers {
    fn service(&self) -> &'static Service {
        static SERVICE: Service = service(
            "Conformance",
            &[NOP, ECHO, HANG, FAIL, PANIC, GATED, LISTEN, HOLD, TALK, GIVE, TAKE, BOTH],
        );
        &SERVICE
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        let events = self.events.clone();
        match request.method_id() {
            id if id == NOP.id => request.serve(&NOP, |()| nop(events)),
            id if id == ECHO.id => request.serve(&ECHO, |(data,): (Vec<u8>,)| async move { data }),
            id if id == HANG.id => request.serve(&HANG, |()| hang(events)),
            id if id == FAIL.id => request.serve_result(&FAIL, |()| async { Err::<(), u8>(7) }),
            id if id == PANIC.id => request.serve(&PANIC, |()| async { panic_in_silence() }),
            id if id == GATED.id => {
                let gate = Arc::clone(&self.gate);
                request.serve(&GATED, |()| gated(events, gate))
            }
            id if id == LISTEN.id => request.serve(&LISTEN, |(rx,)| listen(events, rx)),
            id if id == HOLD.id => request.serve(&HOLD, |(rx,): (Rx<Vec<u8>>,)| async move {
                hang(events).await;
                drop(rx);
            }),
            id if id == TALK.id => request.serve(&TALK, |(tx, times, len)| talk(events, tx, times, len)),
            id if id == GIVE.id => request.serve(&GIVE, |(times, len): (u32, u32)| async move {
                let (tx, rx) = channel();
                tokio::spawn(talk(events, tx, times, len));
                rx
            }),
            id if id == TAKE.id => request.serve(&TAKE, |()| async {
                let (tx, rx) = channel();
                tokio::spawn(listen(events, rx));
                tx
            }),
            id if id == BOTH.id => request.serve(&BOTH, |(one, other)| async {
                listen(events.clone(), one).await;
                listen(events, other).await;
            }),
            _ => request.unknown_method(),
        }
    }
}

async fn nop(events: mpsc::UnboundedSender<Event>) {
    let metadata = Context::current().expect("a handler has a context").metadata().clone();
    if !metadata.is_empty() {
        let _ = events.send(Event::Metadata(metadata));
    }
}

/// Says when it is dropped.
struct Running(mpsc::UnboundedSender<Event>);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.send(Event::Stopped);
    }
}

async fn hang(events: mpsc::UnboundedSender<Event>) {
    let _ = events.send(Event::Started);
    let _running = Running(events);
    std::future::pending().await
}

async fn gated(events: mpsc::UnboundedSender<Event>, gate: Arc<Semaphore>) {
    let _ = events.send(Event::Started);
    gate.acquire().await.expect("the test keeps the gate").forget();
}

async fn listen(events: mpsc::UnboundedSender<Event>, mut rx: Rx<Vec<u8>>) {
    let end = loop {
        match rx.recv().await {
            Ok(Some(element)) => drop(events.send(Event::Element(element))),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let over = matches!(end, Err(RecvError::Ended(_)));
    let _ = events.send(Event::Ended(end));
    if over {
        std::future::pending().await // whoever reads on a connection that is over is stopped with it
    }
}

async fn talk(events: mpsc::UnboundedSender<Event>, tx: Tx<Vec<u8>>, times: u32, len: u32) {
    for number in 0..times {
        if let Err(error) = tx.send(vec![number as u8; len as usize]).await {
            let _ = events.send(Event::NotSent(error));
            return;
        }
    }
}

/// As a handler's panic, without the word of the panic's hook.
fn panic_in_silence() {
    std::panic::resume_unwind(Box::new("on purpose"));
}
