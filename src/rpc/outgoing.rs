//! The way out of a link: its sender, and what waits in private memory for room.
//!
//! Callers, handlers with a result and streams wait for room themselves. What nobody waits to send (answers
//! without a handler, Cancel, Close, Reset, Credit, and elements with a permit) is parked here when the link is full.
//! All but the last are small, and
//! a peer that reads takes them at once; one that only ever writes is let go when too many are parked. While
//! anything is parked, everything else finds the link full, so that order is kept. What finds no memory in the system
//! stays parked, and is tried again.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::clock::now;
use crate::{
    error::LinkEnd,
    link::{Body, EncodeFault, Head, Publish, SendFault, Sender, message::Parked},
};

/// The sender of a link and the messages parked in front of it. Held under one short lock.
pub(crate) struct Outgoing {
    /// `None` after the link's end.
    sender: Option<Box<dyn Sender>>,
    parked: VecDeque<Parked>,
    /// What they count for, see [`weight`].
    parked_weight: usize,
    /// The most that may be parked.
    max_parked: usize,
    /// The first of them found no memory in the system.
    short: Option<Short>,
    /// Somebody waits for room.
    wanted: bool,
    /// The sender has been told that room is waited for, and has not found all of it since.
    asked: bool,
    /// Messages sent since the last one was made visible, while the driver is about to make them so.
    /// `None`: it is not, and the next one is made visible at once.
    deferred: Option<u32>,
}

/// A parked message waits for memory of the system. Nobody tells when there is some.
struct Short {
    /// When it is tried again, at the earliest.
    again: Instant,
    /// The driver knows that it has to look then.
    told: bool,
}

/// How long a parked message that found no memory waits.
pub(crate) const RETRY: Duration = Duration::from_millis(10);

/// Messages that may be sent one behind the other before they are made visible.
const BATCH: u32 = 8;

impl Outgoing {
    #[inline]
    pub(crate) fn new(sender: Box<dyn Sender>, max_parked: u32) -> Self {
        Outgoing {
            sender: Some(sender),
            parked: VecDeque::new(),
            parked_weight: 0,
            max_parked: max_parked as usize,
            short: None,
            wanted: false,
            asked: false,
            deferred: None,
        }
    }

    /// Sends a message, or says that there is no room.
    #[inline]
    pub(crate) fn send(&mut self, head: &Head<'_>, body: &mut dyn Body) -> Result<usize, SendFault> {
        if !self.parked.is_empty() {
            return Err(SendFault::Full);
        }
        self.sender()?.send(head, body)
    }

    /// The sender, while there is one.
    #[inline]
    fn sender(&mut self) -> Result<&mut Box<dyn Sender>, LinkEnd> {
        match &mut self.sender {
            Some(sender) => Ok(sender),
            None => Err(LinkEnd::Closed),
        }
    }

    /// Gives the sender away, after the link's end.
    #[inline]
    pub(crate) fn release(&mut self) -> Option<Box<dyn Sender>> {
        self.parked = VecDeque::new();
        self.parked_weight = 0;
        self.sender.take()
    }

    /// Sends a message, or parks it while there is no room.
    ///
    /// # Errors
    ///
    /// Everything but "full"; [`LinkEnd::Unread`] when too much is parked.
    #[inline]
    pub(crate) fn send_or_park(&mut self, head: &Head<'_>, body: &mut dyn Body) -> Result<(), SendFault> {
        match self.send(head, body) {
            Ok(_) => Ok(()),
            Err(SendFault::Full) => {
                if self.parked_weight >= self.max_parked {
                    let messages = self.parked.len();
                    return Err(SendFault::Ended(LinkEnd::Unread { messages }));
                }
                let message = Parked::new(head, body).map_err(SendFault::Encode)?;
                Ok(self.park(message)?)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Keeps a message until there is room.
    pub(crate) fn park(&mut self, message: Parked) -> Result<(), LinkEnd> {
        self.parked_weight += weight(&message);
        self.parked.push_back(message);
        // Once there is none, the driver watches for room.
        while !self.parked.is_empty() && self.short.is_none() && self.has_room()? {
            self.flush_parked()?;
        }
        Ok(())
    }

    /// Whether an element of so many bytes could be sent or, for want of room, be parked: nothing is yet.
    pub(crate) fn check_element(&mut self, len: usize) -> Result<(), SendFault> {
        if !self.parked.is_empty() {
            return Err(SendFault::Full);
        }
        self.sender()?.check_element(len)
    }

    /// Makes what was sent visible to the peer.
    #[inline]
    pub(crate) fn publish(&mut self) -> Publish {
        let published = self.sender.as_mut().map_or(Publish::Done, |sender| sender.publish());
        if self.is_news_short() { Publish::Flush } else { published }
    }

    /// Makes what was sent visible to the peer, in batches: the first message at once, those that follow
    /// before the driver has run when there are [`BATCH`] of them, or when it runs. The caller wakes it on
    /// [`Publish::Flush`].
    ///
    /// Each publication is a store to a line that the peer watches, and a fence: a hundred nanoseconds while
    /// it does.
    #[inline]
    pub(crate) fn publish_soon(&mut self) -> Publish {
        match &mut self.deferred {
            Some(sent) if *sent + 1 < BATCH => *sent += 1,
            deferred => {
                *deferred = Some(0);
                // Byte streams are flushed by the driver in any case.
                let _ = self.publish();
            }
        }
        Publish::Flush
    }

    /// Somebody found the link full. `true`: there is room again, and the driver has to be woken so that it
    /// says so to all who wait, since the one who asks may find it taken by another. `false`: the driver's
    /// task, of `cx`, is woken when there is.
    #[inline]
    pub(crate) fn want_room(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkEnd> {
        self.wanted = true;
        let room = self.poll_room(cx);
        self.wanted = true;
        room.map(|room| room || self.is_news_short())
    }

    /// Whether the driver has to be woken after [`RETRY`], since what is parked found no memory. Once each time.
    #[inline]
    pub(crate) fn take_retry(&mut self) -> bool {
        self.short.as_mut().is_some_and(|short| !std::mem::replace(&mut short.told, true))
    }

    /// Whether the driver has yet to hear of it.
    #[inline]
    fn is_news_short(&self) -> bool {
        self.short.as_ref().is_some_and(|short| !short.told)
    }

    /// Sends what was parked and pushes it out. `true` when somebody wanted room and may try again.
    #[inline]
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkEnd> {
        loop {
            self.deferred = None;
            self.flush_parked()?;
            // Byte streams publish by flushing, which follows.
            let sender = self.sender()?;
            let _ = sender.publish();
            if let Poll::Ready(flushed) = sender.poll_flush(cx) {
                flushed?;
            }
            if !self.wanted && !self.asked && self.parked.is_empty() || self.short.is_some() {
                return Ok(false);
            }
            if !self.has_room()? {
                return Ok(false);
            }
            if self.parked.is_empty() {
                return Ok(std::mem::take(&mut self.wanted));
            }
        }
    }

    /// Whether there is room. Asked until the answer is yes, so that the sender need not watch any longer.
    #[inline]
    fn has_room(&mut self) -> Result<bool, LinkEnd> {
        let sender = self.sender()?;
        let room = sender.has_room()?;
        self.asked = !room || sender.still_waits();
        Ok(room)
    }

    /// Pushes out what was sent. `Ready` when nothing is left on this side.
    #[inline]
    pub(crate) fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkEnd>> {
        self.poll_room(cx)?;
        match self.sender()?.poll_flush(cx) {
            Poll::Ready(Ok(())) if !self.parked.is_empty() => Poll::Pending,
            flushed => flushed,
        }
    }

    /// The messages for which there is room to be parked without an allocation.
    #[cfg(test)]
    pub(crate) fn parked_capacity(&self) -> usize {
        self.parked.capacity()
    }

    #[inline]
    fn flush_parked(&mut self) -> Result<(), LinkEnd> {
        if self.short.as_ref().is_some_and(|short| now() < short.again) {
            return Ok(());
        }
        self.short = None;
        while let (Some(message), Some(sender)) = (self.parked.front(), &mut self.sender) {
            match sender.send(&message.head(), &mut &*message) {
                Err(SendFault::Full) => break,
                Err(SendFault::Ended(end)) => return Err(end),
                // It has its place, in a stream or as an answer: what is behind it waits with it.
                Err(SendFault::NoMemory { .. }) => {
                    self.short = Some(Short { again: now() + RETRY, told: false });
                    break;
                }
                Ok(_) => {}
                // It was encoded once and within its limits, so this is a message that can never fit.
                Err(fault) => tracing::error!(?fault, head = ?message.head(), "a message cannot be sent"),
            }
            self.parked_weight -= weight(message);
            self.parked.pop_front();
        }
        if self.parked.is_empty() && self.parked.capacity() > KEPT {
            self.parked = VecDeque::new();
        }
        Ok(())
    }
}

/// What a message counts for among the parked ones: one if it is small, as nearly all are. An Accept or a Reject that
/// the application has given metadata is not, and a peer can ask for any number of them. An element counts for nothing:
/// it is the application's, which had a permit for it, and there are no permits while anything is parked.
fn weight(message: &Parked) -> usize {
    match message.head() {
        Head::Data { .. } => 0,
        _ => 1 + message.len() / SMALL,
    }
}

/// Bytes of what the application has given a message that still is a small one.
const SMALL: usize = 128;

/// The room for parked messages that is kept when none are.
const KEPT: usize = 1024;

/// A payload that is there already.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl Body for Bytes<'_> {
    #[inline]
    fn encode(&mut self, out: &mut crate::link::Encoder<'_>) -> Result<(), EncodeFault> {
        out.extend(self.0);
        Ok(())
    }
}
