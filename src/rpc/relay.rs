//! A stream that goes on over another connection: two channels, tied together.
//!
//! The one who relays knows no schema, so nothing tells which way a channel goes until its sender has said the first
//! thing. From then on it is a one-way street like any other, and what comes the other way breaks a rule.
//!
//! Elements are taken out of one channel when the other has credit and its link has room for them, and only then is
//! their credit given back: so what waits here is at most the window of the channel that they came on, and a slow
//! reader at one end holds the sender at the other.
//!
//! Counts, for each element: no thread switch of its own (one wake of the relay for all elements that one drain
//! brought), two copies (into the queue, and into the other link), one lock (the other link's sender), no allocation.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    channel::{Channel, End, Half},
    elements::Reading,
    errors::{Blocked, Obstacle, SendError, sort},
    rx::{REPORT_STEP, report},
    turn::Turn,
    tx::{Wait, send_close, send_now},
    waiters::lock,
};
use crate::link::Encoder;

/// A stream that is relayed. Dropped before its end it breaks the stream off on both sides.
pub(crate) struct Relay {
    sides: [Side; 2],
    /// The side that the elements come from, once that is known.
    from: Option<usize>,
    wait: Wait,
    turn: Turn,
    /// The batch of elements before which all is through that had arrived when [`push_on`](Relay::push_on) began.
    pushed: Option<u64>,
    over: bool,
}

struct Side {
    channel: Arc<Channel>,
    reading: Reading,
    /// Batches that were taken out of the queue.
    batches: u64,
}

/// How far a relay has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There is nothing to relay now.
    Idle,
    /// It is others' turn; the task was woken for its next one.
    Later,
    /// The next element has to wait.
    Blocked(Blocked),
    /// Everything was relayed, and the end of it.
    Closed,
    /// The stream was broken off, by either side or by what happened to its links.
    Broken,
}

impl Relay {
    /// Ties together two channels that both belong to a link.
    pub(crate) fn new(one: Arc<Channel>, other: Arc<Channel>) -> Self {
        let sides = [one, other].map(|channel| {
            lock(&channel.state).keep_to_window();
            Side { channel, reading: Reading::default(), batches: 0 }
        });
        let (wait, turn) = (Wait::default(), Turn::default());
        Relay { sides, from: None, wait, turn, pushed: None, over: false }
    }

    /// Relays what had come from the second side when this was called first, as far as the reader lets it. `Pending`:
    /// its link is full, or others have their turn.
    ///
    /// Leaves no waker behind: what it finds in the way is waited for by the poll that comes next, or that found it
    /// before.
    pub(crate) fn push_on(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.from.or_else(|| self.direction()) != Some(SECOND) {
            return Poll::Ready(());
        }
        // Behind what is left of the batch at hand comes one with all that has arrived.
        let batches = self.sides[SECOND].batches;
        if batches >= *self.pushed.get_or_insert(batches + 2) {
            return Poll::Ready(());
        }
        match self.step(cx) {
            Step::Later | Step::Blocked(Blocked::Room) => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }

    /// Goes as far as it can, for one turn.
    fn step(&mut self, cx: &Context<'_>) -> Step {
        if self.over {
            return Step::Closed;
        }
        let Some(from) = self.from.or_else(|| self.direction()) else {
            return if self.sides.iter().any(Side::is_broken) { Step::Broken } else { Step::Idle };
        };
        self.from = Some(from);
        let [one, other] = &mut self.sides;
        let (from, to) = if from == 0 { (one, other) } else { (other, one) };
        loop {
            // The reader has gone, or its link.
            if to.channel.is_over() {
                return Step::Broken;
            }
            if self.turn.is_over(cx) {
                return Step::Later;
            }
            if let Some(step) = from.carry(&to.channel) {
                return step;
            }
        }
    }

    /// Finds out which side sends. `None`: neither has sent anything yet, or they contradict each other.
    fn direction(&mut self) -> Option<usize> {
        let from = self.sides.iter().position(|side| side.has_spoken())?;
        let [one, other] = &self.sides;
        let (from_channel, to_channel) =
            if from == 0 { (&one.channel, &other.channel) } else { (&other.channel, &one.channel) };
        if to_channel.claimed_as(Half::Tx) {
            from_channel.claimed_as(Half::Rx);
            Some(from)
        } else {
            // Both have sent: one of them breaks a rule, and only the schema would tell which.
            self.sides.iter().for_each(|side| side.channel.end(End::Reset));
            None
        }
    }

    /// Leaves the task's waker wherever something may happen.
    fn register(&mut self, step: Step, cx: &Context<'_>) {
        for side in &self.sides {
            let mut state = lock(&side.channel.state);
            match &mut state.reader {
                Some(waker) => waker.clone_from(cx.waker()),
                reader => *reader = Some(cx.waker().clone()),
            }
        }
        let (Step::Blocked(blocked), Some(from)) = (step, self.from) else { return };
        let to = &self.sides[1 - from].channel;
        let Some(remote) = to.remote() else { return };
        match blocked {
            // An element carries no descriptors.
            Blocked::Room | Blocked::Slot | Blocked::Crowded => {
                remote.hub.wait_for_room(&mut self.wait.room, cx.waker())
            }
            Blocked::Credit { .. } => {
                self.wait.on(to, cx.waker());
                remote.hub.wait_for_credit(to, remote);
            }
        }
    }

    /// All is through: the one channel is forgotten, and the other closed.
    fn close(&mut self) {
        self.over = true;
        let Some(from) = self.from else { return };
        let (from, to) = (&self.sides[from].channel, &self.sides[1 - from].channel);
        send_close(to);
        if let Some(remote) = from.remote() {
            remote.hub.forget_channel(remote);
        }
        [from, to].into_iter().for_each(|channel| channel.let_go());
    }

    /// Breaks the stream off, on whichever side it is still open.
    fn break_off(&mut self) {
        self.over = true;
        for Side { channel, .. } in &self.sides {
            channel.end(End::Reset);
            if let Some(remote) = channel.remote() {
                remote.hub.reset_channel(remote);
            }
            channel.let_go();
        }
    }
}

impl Side {
    /// Whether its peer has sent an element, or the end.
    fn has_spoken(&self) -> bool {
        let state = lock(&self.channel.state);
        !state.queue.is_empty() || matches!(state.end, Some(End::Closed))
    }

    /// Whether it ended in any other way than by being closed.
    fn is_broken(&self) -> bool {
        self.channel.is_over() && !matches!(lock(&self.channel.state).end, Some(End::Closed))
    }

    /// Moves one element on, or takes the next ones out of the queue. `None`: there may be more to do.
    fn carry(&mut self, to: &Arc<Channel>) -> Option<Step> {
        let Some(element) = self.reading.next() else { return self.refill() };
        let Some(remote) = to.remote() else { return Some(Step::Broken) };
        let mut encode = |out: &mut Encoder<'_>| {
            out.extend(element);
            Ok(())
        };
        match send_now(to, remote, &mut encode).map_err(sort::<SendError>) {
            Ok(()) => {
                if self.reading.taken() >= REPORT_STEP {
                    report(&self.channel, self.reading.take_taken());
                }
                None
            }
            Err(Obstacle::Blocked(blocked)) => {
                let len = element.len();
                self.reading.put_back(len);
                Some(Step::Blocked(blocked))
            }
            Err(Obstacle::Final(error)) => {
                tracing::debug!(%error, "an element could not be relayed; the stream was broken off");
                Some(Step::Broken)
            }
        }
    }

    fn refill(&mut self) -> Option<Step> {
        let taken = self.reading.take_taken();
        if taken > 0 {
            report(&self.channel, taken);
        }
        let mut state = lock(&self.channel.state);
        if self.reading.refill(&mut state.queue) {
            self.batches += 1;
            return None;
        }
        match &state.end {
            None => Some(Step::Idle),
            Some(End::Closed) => Some(Step::Closed),
            Some(End::Reset | End::Refused(_) | End::Link(_)) => Some(Step::Broken),
        }
    }
}

impl Future for Relay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut registered = None;
        loop {
            let step = this.step(cx);
            match step {
                Step::Closed => this.close(),
                Step::Broken => this.break_off(),
                Step::Later => return Poll::Pending,
                Step::Idle | Step::Blocked(_) if registered == Some(step) => return Poll::Pending,
                Step::Idle | Step::Blocked(_) => {
                    this.register(step, cx);
                    registered = Some(step);
                    continue;
                }
            }
            return Poll::Ready(());
        }
    }
}

/// The second of the two channels, as [`Relay::new`] has them.
const SECOND: usize = 1;

impl Drop for Relay {
    fn drop(&mut self) {
        if !self.over {
            self.break_off();
        }
    }
}
