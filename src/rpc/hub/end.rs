//! Deadlines, and the end of a link.

use std::{
    mem,
    sync::PoisonError,
    task::{Context, Poll, Waker},
    time::Instant,
};

use super::{Hub, Local};
use crate::{
    error::LinkEnd,
    link::{Head, Receiver, Sink},
    rpc::{
        channel::End,
        handler::Handler,
        slot::{ConnectOutcome, Outcome},
        waiters::{lock, wake_all},
    },
    session::{LeftOpen, deadlines::Due},
};

impl Hub {
    /// Carries out the deadlines that are over, and returns the next one.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        loop {
            let mut session = lock(&self.session);
            let Some(due) = session.deadlines.pop(now) else { return session.deadlines.next() };
            match due {
                Due::Call { conn, request_id } => {
                    let call = session.connection(conn).and_then(|open| open.calls.abandon(request_id));
                    drop(session);
                    if let Some((slot, _)) = call {
                        self.send_on(conn, &Head::Cancel { conn_id: conn.id, request_id });
                        slot.complete(Outcome::TimedOut).into_iter().for_each(Waker::wake);
                    }
                }
                Due::Request { conn, request_id } => {
                    let handler =
                        session.connection(conn).and_then(|open| open.serving.take_handler(request_id));
                    drop(session);
                    if let Some(handler) = handler {
                        handler.stop();
                    }
                }
            }
        }
    }

    /// Asks the driver to end the link.
    pub(crate) fn request_end(&self, end: LinkEnd) {
        let _ = self.ending.set(end);
        self.wake_driver();
        if let Some(interrupt) = &self.interrupt {
            interrupt.interrupt();
        }
    }

    /// What the link is to be ended with.
    pub(crate) fn ending(&self) -> Option<&LinkEnd> {
        self.ending.get()
    }

    /// How the link ended, if it has.
    pub(crate) fn ended(&self) -> Option<&LinkEnd> {
        self.root.ended()
    }

    /// Ends the link, once: everything that is open on it fails, every wait is over.
    pub(crate) fn end(&self, end: LinkEnd) {
        let mut session = lock(&self.session);
        {
            // Under both locks: nothing is registered or sent from here on.
            let _out = lock(&self.out);
            if !self.root.set_ended(end.clone()) {
                return;
            }
        }
        let open = session.end();
        for connection in &open.connections {
            connection.local.set_ended(end.clone());
        }
        drop(session);
        for connect in open.connects {
            connect.slot.complete(ConnectOutcome::Ended(end.clone())).into_iter().for_each(Waker::wake);
        }
        // The root last: who is told of its end finds that everything has failed.
        for connection in open.connections.into_iter().rev() {
            fail(connection, &end);
        }
        lock(&self.starving).clear();
        self.quieter.notify_waiters();
        let mut wakers = lock(&self.room).take();
        wakers.extend(lock(&self.slots).take());
        wakers.extend(lock(&self.loans).take());
        wake_all(wakers);
        if let Some(interrupt) = &self.interrupt {
            interrupt.interrupt();
        }
    }

    /// Lets go of the link itself, after its end: whoever still holds a handle holds no segment, socket or
    /// buffer with it.
    pub(crate) fn release(&self) {
        let sender = lock(&self.out).release();
        let table = self.credit.write().unwrap_or_else(PoisonError::into_inner).take();
        let lending = self.lending.write().unwrap_or_else(PoisonError::into_inner).take();
        let receiver = mem::replace(&mut *lock(&self.receive), Box::new(Released));
        drop((sender, table, lending, receiver)); // outside of the locks
    }
}

/// Fails all that was open on a connection, and tells those who wait for its end. Under no lock.
pub(super) fn fail(open: LeftOpen<Local>, end: &LinkEnd) {
    open.handlers.iter().for_each(Handler::link_ended);
    for call in open.calls {
        call.complete(Outcome::Ended(end.clone())).into_iter().for_each(Waker::wake);
    }
    for channel in open.channels {
        channel.end(End::Link(end.clone()));
    }
    open.local.tell();
}

/// The receiver of a link that is over.
struct Released;

impl Receiver for Released {
    fn drain(&mut self, _: &mut dyn Sink) -> Result<usize, LinkEnd> {
        Ok(0)
    }

    fn poll_receive(&mut self, _: &mut Context<'_>, _: &mut dyn Sink) -> Poll<Result<usize, LinkEnd>> {
        Poll::Pending
    }
}
