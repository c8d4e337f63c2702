//! One channel: what a `Tx` and an `Rx` share in a process, and what ties them to a link.
//!
//! ```text
//!              ┌── Rx passed ──> Sending     (our Tx feeds the peer)
//!   Local ─────┤
//!              └── Tx passed ──> Receiving   (the peer feeds our Rx)
//!
//!              ┌── read as Rx ─> Receiving
//!   Open ──────┤
//!              └── read as Tx ─> Sending
//! ```
//!
//! Until its handle is decoded, a channel that arrived does not know its direction; elements that come for
//! it are kept, since Data may follow its Request or Response at once. One that is relayed begins in the same
//! way, on both of its connections: nobody decodes its handle.
//!
//! Elements are kept encoded, see `elements`.
//!
//! Order of locks: session, then outgoing, then `state`.

mod grants;
mod queue;

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

pub(crate) use self::queue::Full;
use super::{
    connection::Connection,
    elements::Elements,
    errors::Refusal,
    growth::Growth,
    hub::Hub,
    waiters::{Queue, lock, wake_all},
};
use crate::{
    error::{LinkEnd, Violation},
    link::{ChannelRef, descriptors::Descriptors},
    session::{
        connections::ConnKey,
        credit::{ReceiveWindow, SendWindow},
    },
};

/// What both ends of a channel share. See the module's documentation.
pub(crate) struct Channel {
    remote: OnceLock<Remote>,
    /// Elements go straight to the link. Set once; before, they go to `state.queue`.
    direct: AtomicBool,
    /// `state.end` is set: a hint that saves senders the lock.
    over: AtomicBool,
    pub(crate) state: Mutex<State>,
}

/// The link that a channel belongs to.
pub(crate) struct Remote {
    pub(crate) hub: Arc<Hub>,
    pub(crate) conn: ConnKey,
    pub(crate) reference: ChannelRef,
    /// The negotiated initial credit, which is also the most that can be on its way.
    pub(crate) window: u32,
    /// This side allocated the id, and the slot of credit with it.
    pub(crate) own: bool,
    /// What our sender may send.
    pub(crate) credit: SendWindow,
    /// By how many bytes the window of our reader is wider than `window`.
    pub(crate) growth: Growth,
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.hub.growth.give_back(&self.growth);
        if !self.own {
            self.hub.theirs_gone();
        }
    }
}

/// A half of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Tx,
    Rx,
    /// Of a channel that is relayed: which one it is only its two ends know.
    Unknown,
}

/// Which way a channel goes, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Both halves are in this process, and no link is involved.
    Local,
    /// It belongs to a link, and which way it goes is not known yet: it arrived in a message, and its handle has not
    /// been read, or it is relayed.
    Open,
    /// Our `Tx` feeds the peer.
    Sending,
    /// The peer feeds our `Rx`.
    Receiving,
}

/// How a channel ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// The sender closed it, and everything arrived.
    Closed,
    /// Either side broke it off, or its call failed.
    Reset,
    /// What was sent while the channel was in this process exceeds a limit of its link.
    Refused(Refusal),
    /// The link is gone.
    Link(LinkEnd),
}

pub(crate) struct State {
    pub(crate) way: Way,
    pub(crate) queue: Elements,
    pub(crate) end: Option<End>,
    pub(crate) reader: Option<Waker>,
    pub(crate) writers: Queue,
    /// What was granted to whoever fills `queue`, and taken out.
    window: ReceiveWindow,
    /// Bytes of room in `queue` that permits hold.
    set_aside: u64,
    /// Bytes at the front of the queue that came before the channel was remote: no credit is due for them.
    uncredited: u64,
    /// The `Tx` is gone while the queue was not sent yet: Close follows it.
    pub(crate) close_after_queue: bool,
    /// One of the halves is being passed: the other one cannot be, too.
    passing: bool,
    /// Keeps the link open for the handle that is in this process, until that is dropped.
    keeps: Option<Connection>,
}

/// The window of a channel within one process, in bytes.
const LOCAL_WINDOW: u32 = 64 << 10;

impl Channel {
    /// A channel within this process.
    pub(crate) fn local() -> Arc<Self> {
        Arc::new(Self::new(Way::Local, LOCAL_WINDOW))
    }

    /// A channel that a message named.
    pub(crate) fn arrived(
        connection: Connection,
        conn: ConnKey,
        reference: ChannelRef,
        window: u32,
    ) -> Arc<Self> {
        let channel = Self::new(Way::Open, window);
        let credit = SendWindow::new(window);
        let hub = Arc::clone(connection.hub());
        hub.theirs_opened(); // and gone with the `Remote`
        let growth = Growth::default();
        let _ = channel.remote.set(Remote { hub, conn, reference, window, own: false, credit, growth });
        lock(&channel.state).keeps = Some(connection);
        Arc::new(channel)
    }

    fn new(way: Way, window: u32) -> Self {
        Channel {
            remote: OnceLock::new(),
            direct: AtomicBool::new(false),
            over: AtomicBool::new(false),
            state: Mutex::new(State {
                way,
                queue: Elements::default(),
                end: None,
                reader: None,
                writers: Queue::default(),
                set_aside: 0,
                window: ReceiveWindow::new(window),
                uncredited: 0,
                close_after_queue: false,
                passing: false,
                keeps: None,
            }),
        }
    }

    /// The link, once the channel belongs to one.
    pub(crate) fn remote(&self) -> Option<&Remote> {
        self.remote.get()
    }

    /// The link, if elements go straight to it.
    pub(crate) fn direct(&self) -> Option<&Remote> {
        // Acquire: pairs with the Release in `set_direct`; what was queued has been sent before.
        if self.direct.load(Ordering::Acquire) { self.remote.get() } else { None }
    }

    /// Nothing is queued any more: from now on elements go straight to the link.
    pub(crate) fn set_direct(&self) {
        // Release: pairs with the Acquire in `direct`.
        self.direct.store(true, Ordering::Release);
    }

    /// Whether the channel is over; if not, it may be by the time of the answer.
    pub(crate) fn is_over(&self) -> bool {
        // Relaxed: a hint, the end itself is read under the lock.
        self.over.load(Ordering::Relaxed)
    }

    /// Takes the right to pass one of its halves in a call: both are in this process, and nobody else is about
    /// to pass one.
    pub(crate) fn start_pass(self: &Arc<Self>) -> Option<Pass> {
        let mut state = lock(&self.state);
        if state.way != Way::Local || mem::replace(&mut state.passing, true) {
            return None;
        }
        drop(state);
        Some(Pass { channel: Some(Arc::clone(self)) })
    }

    /// The handle in this process is gone: the channel does not keep its link open any more.
    pub(crate) fn let_go(&self) {
        let keeps = lock(&self.state).keeps.take();
        drop(keeps); // outside of the lock
    }

    /// Its handle was read from a message. `false`: it cannot be that half.
    pub(crate) fn claimed_as(&self, half: Half) -> bool {
        let mut state = lock(&self.state);
        match half {
            Half::Unknown => {}
            Half::Rx => state.way = Way::Receiving,
            // Elements came for what is now ours to send, or its end.
            Half::Tx if !state.queue.is_empty() || matches!(state.end, Some(End::Closed)) => return false,
            Half::Tx => {
                state.way = Way::Sending;
                self.set_direct();
            }
        }
        true
    }

    /// One of its halves went out in a message: the other one is remote from now on. `unread` is what the
    /// reader had taken out of the queue and not looked at.
    pub(crate) fn passed(&self, half: Half, remote: Remote, keeps: Connection, unread: Elements) -> Passed {
        let mut state = lock(&self.state);
        // A half that is gone keeps nothing: its drop has been.
        state.keeps = state.end.is_none().then_some(keeps);
        let window = remote.window;
        let _ = self.remote.set(remote);
        match half {
            Half::Unknown => {
                state.way = Way::Open;
                state.window = ReceiveWindow::new(window);
                if state.end.is_some() { Passed::Reset } else { Passed::Done }
            }
            Half::Tx => {
                state.way = Way::Receiving;
                state.uncredited = state.window.outstanding();
                state.window = ReceiveWindow::new(window);
                if state.end.is_some() { Passed::Reset } else { Passed::Done }
            }
            Half::Rx => {
                state.way = Way::Sending;
                if matches!(state.end, Some(End::Closed)) {
                    // Its sender is done: what it left goes out, and then Close.
                    state.end = None;
                    state.close_after_queue = true;
                    self.over.store(false, Ordering::Relaxed); // see `is_over`
                }
                if state.end.is_some() {
                    return Passed::Reset; // broken off before
                }
                let parts = [unread, mem::take(&mut state.queue)];
                let queued: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
                // Whoever waits for room in the queue is woken by the pump.
                if queued.is_empty() && !state.close_after_queue && state.writers.is_empty() {
                    self.set_direct();
                    return Passed::Done;
                }
                Passed::Pump(queued)
            }
        }
    }

    /// What waits in the queue of a channel on its way to being direct. `None`: nothing, and it is direct now.
    pub(crate) fn take_queue(self: &Arc<Self>) -> Option<Elements> {
        let mut state = lock(&self.state);
        if !state.queue.is_empty() {
            return Some(mem::take(&mut state.queue));
        }
        self.set_direct();
        let mut wakers = state.writers.take();
        wakers.extend(state.reader.take());
        let close = mem::take(&mut state.close_after_queue);
        drop(state);
        wake_all(wakers);
        if close {
            super::tx::send_close(self);
        }
        None
    }

    /// Elements arrived from the peer: `elements`, of `len` bytes of payload in all.
    /// Returns the reader to wake. `elements` comes back empty, with room to be used again.
    pub(crate) fn push(
        &self,
        channel_id: u64,
        elements: &mut Elements,
        len: usize,
    ) -> Result<Option<Waker>, Violation> {
        let mut state = lock(&self.state);
        if !matches!(state.way, Way::Receiving | Way::Open) {
            return Err(Violation::UnknownChannel { channel_id });
        }
        if state.end.is_some() {
            elements.clear();
            return Ok(None); // its reader is gone
        }
        // `flow.channel.credit-overrun`.
        state.window.received(len).map_err(|(sent, granted)| Violation::CreditOverrun {
            channel_id,
            sent,
            granted,
        })?;
        state.queue.append(elements);
        Ok(state.reader.take())
    }

    /// Ends the channel, once: later ends change nothing. Wakes both sides.
    pub(crate) fn end(&self, end: End) {
        wake_all(self.set_end(end));
    }

    /// As [`end`](Channel::end); both sides are to be woken outside of locks.
    #[must_use]
    pub(crate) fn set_end(&self, end: End) -> Vec<Waker> {
        let mut state = lock(&self.state);
        if state.end.is_some() {
            return Vec::new();
        }
        state.end = Some(end);
        // Relaxed: see `is_over`.
        self.over.store(true, Ordering::Relaxed);
        let mut wakers = state.writers.take();
        wakers.extend(state.reader.take());
        wakers
    }

    /// The receiver granted credit to our sender: wakes it.
    pub(crate) fn wake_writers(&self) {
        let wakers = lock(&self.state).writers.take();
        wake_all(wakers);
    }
}

/// What is left to do after a half was passed.
#[must_use]
pub(crate) enum Passed {
    Done,
    /// What was sent before, or the end of it, has to go out by a task of its own.
    Pump(Vec<Elements>),
    /// The half that stayed is gone already: the peer has to be told.
    Reset,
}

/// Channels and descriptors of a message whose handles have not been read. Those that never are, are reset, or closed. One
/// word, since nearly all messages have none, and it goes along with each.
#[derive(Default)]
pub(crate) struct Unclaimed(Option<Box<Left>>);

#[derive(Default)]
struct Left {
    channels: VecDeque<Arc<Channel>>,
    descriptors: Descriptors,
}

impl Unclaimed {
    pub(crate) fn new(channels: VecDeque<Arc<Channel>>) -> Self {
        if channels.is_empty() {
            return Unclaimed(None);
        }
        Unclaimed(Some(Box::new(Left { channels, descriptors: Descriptors::default() })))
    }

    /// Adds the descriptors of the message.
    pub(crate) fn with_descriptors(mut self, descriptors: Descriptors) -> Self {
        if !descriptors.is_empty() {
            self.0.get_or_insert_default().descriptors = descriptors;
        }
        self
    }

    pub(crate) fn claim(&mut self) -> Option<Arc<Channel>> {
        self.0.as_mut()?.channels.pop_front()
    }

    #[cfg(unix)]
    pub(crate) fn claim_descriptor(&mut self) -> Option<crate::link::descriptors::Apart> {
        self.0.as_mut()?.descriptors.pop()
    }

    /// Takes all descriptors.
    pub(crate) fn take_descriptors(&mut self) -> Descriptors {
        self.0.as_mut().map(|left| mem::take(&mut left.descriptors)).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|left| left.channels.is_empty() && left.descriptors.is_empty())
    }

    /// The channels that are left.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Channel>> {
        self.0.iter().flat_map(|left| &left.channels)
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        for channel in self.channels.drain(..) {
            channel.end(End::Reset);
            channel.let_go();
            if let Some(remote) = channel.remote() {
                remote.hub.reset_channel(remote);
            }
        }
    }
}

/// The right to pass a half of a channel; given back when it is dropped unused.
pub(crate) struct Pass {
    channel: Option<Arc<Channel>>,
}

impl Pass {
    /// The channel whose half is being passed.
    pub(crate) fn channel(&self) -> Option<&Arc<Channel>> {
        self.channel.as_ref()
    }

    /// The half is passed: uses the right up.
    pub(crate) fn used(mut self) -> Option<Arc<Channel>> {
        self.channel.take()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(channel) = &self.channel {
            lock(&channel.state).passing = false;
        }
    }
}
