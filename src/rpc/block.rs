//! Waiting on a plain thread, with no runtime of its own.
//!
//! A thread that waits for its own answer takes the link's receive role if it is free, reads the answer
//! itself, and sleeps on the link: no other thread is involved. Otherwise it parks, and whoever has the role
//! wakes it.

use std::{
    cell::Cell,
    future::Future,
    pin::pin,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use tokio::runtime::Handle;

use super::{context, deliver::Deliver, hub::Hub, waiters::try_lock};
use crate::link::{Interrupt, Receiver};

/// Runs a future on this thread, which parks while it waits.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    run(future, None)
}

/// Runs a future on this thread, in a runtime that is not needed for it: code of others that is part of it may set
/// timers and start tasks.
pub(crate) fn block_on_in<F: Future>(runtime: &Handle, future: F) -> F::Output {
    let _inside = runtime.enter();
    run(future, None)
}

/// Runs a future that waits for something on a link, and receives on the link meanwhile.
pub(crate) fn block_on_link<F: Future>(hub: &Arc<Hub>, future: F) -> F::Output {
    // Handlers that this thread happens to run in place may set timers and start tasks.
    let _inside = hub.runtime.enter();
    run(future, Some(hub))
}

thread_local! {
    static BLOCKING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread runs a future by blocking on it, outside of a runtime.
pub(crate) fn is_blocking() -> bool {
    BLOCKING.get()
}

/// Marks the thread, also until a panic.
struct Blocking {
    outer: bool,
}

impl Drop for Blocking {
    fn drop(&mut self) {
        BLOCKING.set(self.outer);
    }
}

fn run<F: Future>(future: F, hub: Option<&Arc<Hub>>) -> F::Output {
    let _blocking = Blocking { outer: BLOCKING.replace(true) };
    let interrupt = hub.and_then(|hub| hub.interrupt.clone());
    let blocked = Arc::new(Blocked { thread: thread::current(), state: AtomicU8::new(RUNNING), interrupt });
    let waker = Waker::from(Arc::clone(&blocked));
    let mut future = pin!(future);
    loop {
        blocked.set(RUNNING);
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        while !blocked.is_woken() {
            match hub.filter(|hub| hub.can_share_receiving()).map(|hub| (hub, try_lock(&hub.receive))) {
                Some((hub, Some(receiver))) => receive_until_woken(hub, receiver, &blocked),
                Some((_, None)) | None => blocked.park(),
            }
        }
    }
}

/// Receives until this thread's own wait is over, or the link is. Has the receive role, and lets it go before
/// it parks: the driver may be waiting for it.
fn receive_until_woken(hub: &Arc<Hub>, mut receiver: MutexGuard<'_, Box<dyn Receiver>>, blocked: &Blocked) {
    let driver = hub.driver_waker();
    let _outside = context::Context::step_out(); // what is dispatched meanwhile is not this caller's doing
    let mut may_sleep = true;
    while may_sleep {
        let mut sink = Deliver::new(hub);
        let drained = receiver.drain(&mut sink);
        let waiting = hub.wake_waiting(&mut Context::from_waker(&driver));
        if let Some(end) = sink.finish().or(drained.err()).or(waiting.err()) {
            hub.request_end(end);
        }
        if blocked.is_woken() || hub.ending().is_some() {
            break;
        }
        if receiver.spin() {
            continue;
        }
        if blocked.change(RUNNING, SLEEPING) {
            match receiver.sleep(None) {
                Ok(slept) => may_sleep = slept,
                Err(end) => hub.request_end(end),
            }
            blocked.change(SLEEPING, RUNNING);
        }
    }
    hub.return_role(receiver);
    if !blocked.is_woken() {
        blocked.park();
    }
}

/// A thread that waits.
///
/// ```text
///   RUNNING ──park──> PARKED     ──wake──> WOKEN (unpark)
///      │ └───sleep──> SLEEPING   ──wake──> WOKEN (interrupt)
///      └──wake──> WOKEN
/// ```
struct Blocked {
    thread: Thread,
    state: AtomicU8,
    /// Ends its sleep on a link.
    interrupt: Option<Arc<dyn Interrupt>>,
}

const RUNNING: u8 = 0;
const WOKEN: u8 = 1;
const PARKED: u8 = 2;
const SLEEPING: u8 = 3;

impl Blocked {
    fn set(&self, state: u8) {
        // Release: pairs with the AcqRel in `wake`.
        self.state.store(state, Ordering::Release);
    }

    fn is_woken(&self) -> bool {
        // Acquire: pairs with the AcqRel in `wake`.
        self.state.load(Ordering::Acquire) == WOKEN
    }

    /// `false`: it has been woken.
    fn change(&self, from: u8, to: u8) -> bool {
        // AcqRel: pairs with the swap in `wake`.
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn park(&self) {
        if self.change(RUNNING, PARKED) {
            thread::park();
            self.change(PARKED, RUNNING); // a spurious return: look again
        }
    }
}

impl Wake for Blocked {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // AcqRel: what was done before the wake is seen by the thread that finds WOKEN.
        match self.state.swap(WOKEN, Ordering::AcqRel) {
            PARKED => self.thread.unpark(),
            SLEEPING => {
                if let Some(interrupt) = &self.interrupt {
                    interrupt.interrupt();
                }
            }
            _ => {}
        }
    }
}
