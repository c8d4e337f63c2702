//! The task of a link: it receives when nobody else does, flushes, keeps the deadlines, and sees the end.
//!
//! One task a link, on the runtime where the link was made. After each drain that brought something it lets
//! the other tasks of its runtime run first, since they are what the messages were for.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::time::Sleep;

use super::{clock::now, deliver::Deliver, hub::Hub, waiters::lock};
use crate::{
    error::LinkEnd,
    link::{Head, Watcher, descriptors::PAUSE, message::NoBody},
    session::ROOT,
};

/// Drives one link until its end. See the module's documentation.
pub(crate) struct Driver {
    hub: Arc<Hub>,
    watcher: Option<Box<dyn Watcher>>,
    timer: Pin<Box<Sleep>>,
    timer_at: Option<Instant>,
    polls: u32,
    /// The peer is gone; what it sent before is held up, and waited for until this time.
    leaving: Option<(LinkEnd, Instant)>,
    /// The link is over; what is left is to tell the peer, until this deadline.
    farewell: Option<LinkEnd>,
}

/// How long the last messages of a link may take to get out, or to be taken in.
const FAREWELL: Duration = Duration::from_secs(1);
/// While the receiver spins, the peer's life is looked at every so many polls.
const WATCH_EVERY: u32 = 256;
/// Batches that are still taken from a peer that is gone: more than a ring or a socket holds.
const LAST_BATCHES: u32 = 1024;
/// How long, or how far ahead, a timer without a deadline is set.
const FAR: Duration = Duration::from_secs(3600);

/// A round has found an end.
enum Over {
    /// Nothing that the peer sent counts any more.
    Now(LinkEnd),
    /// The peer is gone: what it sent before still counts, and may say more than its end.
    Gone(LinkEnd),
}

impl From<LinkEnd> for Over {
    fn from(end: LinkEnd) -> Self {
        Over::Now(end)
    }
}

impl Driver {
    /// To be created inside of the link's runtime.
    pub(crate) fn new(hub: Arc<Hub>, watcher: Option<Box<dyn Watcher>>) -> Self {
        let timer = Box::pin(tokio::time::sleep(FAR));
        Driver { hub, watcher, timer, timer_at: None, polls: 0, leaving: None, farewell: None }
    }

    /// One round. `Ready` with the end of the link.
    fn poll_link(&mut self, cx: &mut Context<'_>) -> Poll<LinkEnd> {
        self.hub.set_driver(cx.waker());
        if let Some((end, until)) = self.leaving.take() {
            return self.poll_drained(cx, end, until);
        }
        if let Some(end) = self.hub.ending().cloned() {
            // Somebody who sent has found it first.
            let gone = matches!(end, LinkEnd::Gone | LinkEnd::Io(_));
            return if gone { self.poll_drained(cx, end, now() + FAREWELL) } else { Poll::Ready(end) };
        }
        self.polls = self.polls.wrapping_add(1);
        self.hub.close_left();
        match self.poll_round(cx) {
            Ok(true) => cx.waker().wake_by_ref(),
            Ok(false) => {}
            Err(Over::Now(end)) => return Poll::Ready(end),
            Err(Over::Gone(end)) => return self.poll_drained(cx, end, now() + FAREWELL),
        }
        self.poll_deadlines(cx);
        Poll::Pending
    }

    /// Receives, wakes those whose wait is over, looks at the peer's life. `true`: there may be more to do.
    fn poll_round(&mut self, cx: &mut Context<'_>) -> Result<bool, Over> {
        let (received, asleep) = self.poll_receive(cx)?;
        // After the receiver has armed its wake-up: what comes later rings.
        self.hub.wake_waiting(cx).map_err(Over::Gone)?; // the peer may have said goodbye before it closed its end
        if (asleep || self.polls.is_multiple_of(WATCH_EVERY))
            && let Some(watcher) = &mut self.watcher
        {
            match watcher.poll_rung(cx) {
                Poll::Ready(Ok(())) => return Ok(true),
                Poll::Ready(Err(end)) => return Err(Over::Gone(end)),
                Poll::Pending => {}
            }
        }
        Ok(received)
    }

    /// Drains what has arrived, unless another thread has the receive role. Whether that was anything, and
    /// whether the watcher is to wake the task.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Result<(bool, bool), LinkEnd> {
        let Some(mut receiver) = self.hub.take_role() else {
            return Ok((false, true)); // whoever has the role hands it back
        };
        let mut sink = Deliver::new(&self.hub);
        let received = receiver.poll_receive(cx, &mut sink);
        let asleep = received.is_pending() && receiver.asleep();
        drop(receiver);
        if let Some(end) = sink.finish() {
            return Err(end);
        }
        match received {
            Poll::Ready(received) => received.map(|_| (true, false)),
            Poll::Pending => Ok((false, asleep)),
        }
    }

    /// The peer is gone: takes what it sent before, and waits until then for what is held up. `Ready` with what the end is
    /// after all.
    fn poll_drained(&mut self, cx: &mut Context<'_>, end: LinkEnd, until: Instant) -> Poll<LinkEnd> {
        if self.hub.ending().is_none() {
            self.hub.request_end(end.clone()); // a thread that sleeps in the receive role lets it go
        }
        if let Some(end) = self.drained(&end) {
            return Poll::Ready(end);
        }
        let now = now();
        if now >= until {
            return Poll::Ready(end);
        }
        self.leaving = Some((end, until));
        self.timer.as_mut().reset((now + PAUSE).into());
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Takes what a peer that is gone has sent before. `None`: some of it is held up.
    fn drained(&self, end: &LinkEnd) -> Option<LinkEnd> {
        let mut receiver = lock(&self.hub.receive);
        // A peer that hung up may go on writing.
        for _ in 0..LAST_BATCHES {
            let mut sink = Deliver::new(&self.hub);
            let received = receiver.drain(&mut sink);
            if let Some(said) = sink.finish() {
                return Some(said);
            }
            match received {
                Ok(0) if receiver.held_up() => return None,
                Ok(0) | Err(LinkEnd::Gone | LinkEnd::Unclosed { .. }) => return Some(end.clone()),
                Ok(_) => {}
                Err(found) => return Some(found),
            }
        }
        Some(end.clone())
    }

    fn poll_deadlines(&mut self, cx: &mut Context<'_>) {
        let known = lock(&self.hub.session).deadlines.next();
        let Some(mut next) = known else { return };
        loop {
            if self.timer_at != Some(next) {
                self.timer_at = Some(next);
                self.timer.as_mut().reset(next.into());
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.timer_at = None;
            match self.hub.expire(now()) {
                Some(later) => next = later,
                None => return,
            }
        }
    }

    /// Fails everything that is open, and tells the peer unless it told us.
    fn end(&mut self, end: LinkEnd) {
        let reason = match &end {
            LinkEnd::Closed => Some(""),
            LinkEnd::Violation(violation) => Some(violation.rule()),
            _ => None,
        };
        if let Some(reason) = reason {
            let mut out = lock(&self.hub.out);
            let goodbye = Head::Goodbye { conn_id: ROOT, reason };
            if let Err(fault) = out.send_or_park(&goodbye, &mut NoBody) {
                tracing::debug!(?fault, "no goodbye could be said");
            }
            self.hub.published(out.publish());
            self.timer.as_mut().reset((now() + FAREWELL).into());
        }
        self.hub.end(end.clone());
        self.farewell = reason.is_some().then_some(end);
    }

    /// Flushes the goodbye.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (flushed, again) = {
            let mut out = lock(&self.hub.out);
            (out.poll_flushed(cx), out.take_retry())
        };
        if again {
            self.hub.retry_later();
        }
        if flushed.is_ready() { Poll::Ready(()) } else { self.timer.as_mut().poll(cx) }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.farewell.is_none() {
            let Poll::Ready(end) = self.poll_link(cx) else { return Poll::Pending };
            tracing::debug!(%end, "a link ended");
            self.end(end);
        }
        if self.farewell.is_some() {
            ready!(self.poll_farewell(cx));
        }
        self.hub.release();
        Poll::Ready(())
    }
}

impl Drop for Driver {
    /// The runtime went away under the link.
    fn drop(&mut self) {
        let _ = lock(&self.hub.out).publish(); // what was sent is the peer's to see
        self.hub.end(LinkEnd::Closed);
        self.hub.release();
    }
}
