//! The link within one process: two queues of encoded messages in private memory.
//!
//! | per message | sending | receiving |
//! |---|---|---|
//! | copies | 2: encoded into scratch, copied into the queue | none: handed out where it lies |
//! | locks | 1, for as long as the copy takes | 1 for all that has arrived |
//! | system calls | those of the runtime, if the receiver's task sleeps | none |
//! | allocations | none in steady state | none |
//!
//! The messages are encoded as on a byte stream, without frames. The receiver swaps the whole queue for its
//! own empty one, so a queue is one buffer that both sides use in turn; a direction takes twice the bound
//! at most, and twice the longest message beyond it. User code (a body, a sink, a waker) never runs under
//! the lock. Credit is granted by messages.

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{
    Body, ChannelRef, Head, Limits, Parts, Publish, Receiver, Role, SendFault, Sender, Sink,
    codec::{encode_head, message_limit, take_message},
    descriptors::{Closer, Descriptors, MOST_DESCRIPTORS},
    message::encode_carrying,
    stream::BATCH,
};
use crate::{
    error::LinkEnd,
    settings::{Settings, Waiting},
};

/// Two ends of a new link: the initiator's, with the settings `a`, and the acceptor's, with `b`. Each takes
/// the lower of both limits.
pub(crate) fn pair(a: &Settings, b: &Settings) -> (Parts, Parts) {
    let limits = Limits {
        max_payload_size: a.max_payload_size.min(b.max_payload_size),
        initial_channel_credit: a.initial_channel_credit.min(b.initial_channel_credit),
    };
    let (forth, back) = (Arc::new(Pipe::default()), Arc::new(Pipe::default()));
    let initiator = parts(Role::Initiator, limits, a, forth.clone(), back.clone());
    (initiator, parts(Role::Acceptor, limits, b, back, forth))
}

fn parts(role: Role, limits: Limits, settings: &Settings, out: Arc<Pipe>, into: Arc<Pipe>) -> Parts {
    let sender = MemorySender {
        pipe: out,
        capacity: usize::try_from(settings.send_buffer).unwrap_or(usize::MAX),
        most_carried: (settings.max_descriptors as usize).min(MOST_DESCRIPTORS),
        max_message: message_limit(limits.max_payload_size),
        refused: 0,
        starved: false,
        driver: None,
        bell: None,
        head: Vec::new(),
        channels: Vec::new(),
        payload: Vec::new(),
    };
    let receiver = MemoryReceiver {
        pipe: into,
        batch: Vec::new(),
        carried: Carried::default(),
        taken: 0,
        closer: Closer::new(settings.max_held_descriptors as usize),
        channels: Vec::new(),
        driver: None,
        spins: settings.waiting == Waiting::Spin,
    };
    Parts {
        role,
        limits,
        sender: Box::new(sender),
        receiver: Box::new(receiver),
        credit: None,
        lending: None,
        watcher: None,
        interrupt: None,
    }
}

/// One direction.
#[derive(Default)]
struct Pipe {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whole messages, one behind the other.
    queue: Vec<u8>,
    carried: Carried,
    /// One of the two ends was dropped.
    closed: bool,
    /// The receiver found nothing and sleeps.
    receiver: Option<Waker>,
    /// The sender found no room and waits.
    sender: Option<Waker>,
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked did so between two whole messages: nothing under the lock can fail halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let wakers = [state.receiver.take(), state.sender.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl State {
    /// Whether a message of `len` bytes may be queued: any one that finds nothing waiting may.
    fn takes(&self, len: usize, capacity: usize) -> bool {
        self.queue.is_empty() || self.queue.len().saturating_add(len) <= capacity
    }

    /// Whether, with so many descriptors more, more than `most` would wait, and some do already.
    fn carries(&self, count: usize, most: usize) -> bool {
        let waiting: usize = self.carried.iter().map(|(_, descriptors)| descriptors.len()).sum();
        waiting > 0 && waiting + count > most
    }
}

/// The descriptors that messages carry, by where in the queue their message begins.
type Carried = VecDeque<(usize, Descriptors)>;

struct MemorySender {
    pipe: Arc<Pipe>,
    /// The bytes that may wait in the queue.
    capacity: usize,
    /// The descriptors that may wait there, but for a single message.
    most_carried: usize,
    max_message: usize,
    /// The message, in bytes, that was refused last.
    refused: usize,
    /// It was said that there is no room, and the driver has to learn when there is.
    starved: bool,
    driver: Option<Waker>,
    /// The receiver slept when something was sent: to be woken by `publish`.
    bell: Option<Waker>,
    /// Scratch of one message.
    head: Vec<u8>,
    channels: Vec<ChannelRef>,
    payload: Vec<u8>,
}

impl Sender for MemorySender {
    fn send(&mut self, head: &Head<'_>, body: &mut dyn Body) -> Result<usize, SendFault> {
        let (len, descriptors) =
            encode_carrying(body, &mut self.payload, &mut self.channels).map_err(SendFault::Encode)?;
        self.head.clear();
        encode_head(head, &self.channels, len, &mut self.head);
        let message = self.head.len().saturating_add(len);
        if message > self.max_message {
            let limit = self.max_message;
            return Err(SendFault::TooLarge { len: message, limit, setting: "max_payload_size" });
        }
        let mut state = self.pipe.lock();
        if state.closed {
            return Err(SendFault::Ended(LinkEnd::Gone));
        }
        if !state.takes(message, self.capacity) {
            self.refused = message;
            return Err(SendFault::Full);
        }
        if !descriptors.is_empty() {
            if state.carries(descriptors.len(), self.most_carried) {
                self.refused = usize::MAX; // until all that waits is gone
                return Err(SendFault::Full);
            }
            let at = state.queue.len();
            state.carried.push_back((at, descriptors));
        }
        state.queue.reserve(message);
        state.queue.extend_from_slice(&self.head);
        state.queue.extend_from_slice(&self.payload[..len]);
        let sleeper = state.receiver.take();
        drop(state);
        if let Some(sleeper) = sleeper
            && let Some(earlier) = self.bell.replace(sleeper)
        {
            earlier.wake();
        }
        Ok(len)
    }

    fn carries_descriptors(&self) -> bool {
        true
    }

    fn publish(&mut self) -> Publish {
        if let Some(sleeper) = self.bell.take() {
            sleeper.wake();
        }
        Publish::Done
    }

    /// Nothing to push: learns whom to wake when there is room.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkEnd>> {
        if !self.driver.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            self.driver = Some(cx.waker().clone());
            if mem::take(&mut self.starved) {
                // Room may have come since, with nobody to be told: the driver asks again.
                cx.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn has_room(&mut self) -> Result<bool, LinkEnd> {
        let mut state = self.pipe.lock();
        if state.closed {
            return Err(LinkEnd::Gone);
        }
        let room = state.takes(self.refused, self.capacity);
        self.starved = !room;
        state.sender = if room { None } else { self.driver.clone() };
        Ok(room)
    }
}

impl Drop for MemorySender {
    fn drop(&mut self) {
        let _ = self.publish();
        self.pipe.close();
    }
}

struct MemoryReceiver {
    pipe: Arc<Pipe>,
    /// What was taken from the queue; of that, `taken` bytes have been handed out.
    batch: Vec<u8>,
    carried: Carried,
    taken: usize,
    /// Who closes descriptors that nobody takes.
    closer: Arc<Closer>,
    /// Scratch of one message.
    channels: Vec<ChannelRef>,
    driver: Option<Waker>,
    /// Never sleeps: see [`Waiting::Spin`].
    spins: bool,
}

impl MemoryReceiver {
    /// Hands out what is in the batch.
    fn hand_out(&mut self, sink: &mut dyn Sink) -> Result<usize, LinkEnd> {
        let mut count = 0;
        while count < BATCH && self.taken < self.batch.len() {
            let mut rest = &self.batch[self.taken..];
            let message = take_message(&mut rest, &mut self.channels)?;
            if self.carried.front().is_some_and(|(at, _)| *at == self.taken)
                && let Some((_, descriptors)) = self.carried.pop_front()
            {
                sink.descriptors(Some(descriptors.passed(&self.closer)));
            }
            self.taken = self.batch.len() - rest.len();
            count += 1;
            if !sink.message(message) {
                break;
            }
        }
        Ok(count)
    }

    /// Takes all that is queued, in exchange for the batch, which has been handed out. `false` if that is
    /// nothing; then `sleeper` will be woken.
    fn fetch(&mut self, sleeper: Option<&Waker>) -> Result<bool, LinkEnd> {
        self.batch.clear();
        self.taken = 0;
        let mut state = self.pipe.lock();
        mem::swap(&mut state.queue, &mut self.batch);
        mem::swap(&mut state.carried, &mut self.carried);
        if !self.batch.is_empty() {
            let starved = state.sender.take();
            drop(state);
            starved.into_iter().for_each(Waker::wake);
            return Ok(true);
        }
        if state.closed {
            return Err(LinkEnd::Gone);
        }
        if sleeper.is_some() {
            state.receiver = sleeper.cloned();
        }
        Ok(false)
    }
}

impl Receiver for MemoryReceiver {
    fn drain(&mut self, sink: &mut dyn Sink) -> Result<usize, LinkEnd> {
        loop {
            let count = self.hand_out(sink)?;
            if count > 0 || !self.fetch(None)? {
                return Ok(count);
            }
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, sink: &mut dyn Sink) -> Poll<Result<usize, LinkEnd>> {
        if !self.driver.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            self.driver = Some(cx.waker().clone());
        }
        loop {
            let count = self.hand_out(sink)?;
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            if !self.fetch(Some(cx.waker()))? {
                if self.spins {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
        }
    }

    fn asleep(&self) -> bool {
        !self.spins
    }

    /// The driver's waker may have been spent on what the borrower of the role has taken since.
    fn hand_back(&mut self) -> bool {
        let mut state = self.pipe.lock();
        if self.taken < self.batch.len() || !state.queue.is_empty() || state.closed || self.driver.is_none() {
            return true;
        }
        state.receiver.clone_from(&self.driver);
        false
    }
}

impl Drop for MemoryReceiver {
    fn drop(&mut self) {
        self.pipe.close();
        // Nobody receives them, and the sender may be kept. Under no lock: see `Closer`.
        let mut carried = mem::take(&mut self.carried);
        carried.append(&mut self.pipe.lock().carried);
        carried.into_iter().for_each(|(_, descriptors)| drop(descriptors.passed(&self.closer)));
    }
}
