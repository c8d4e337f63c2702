//! The sending half: frames wait in one buffer until the driver writes them.
//!
//! A peer that hangs up may have said why, or answered, before it did. The writer finds out first: the reader
//! knows nothing of what arrived until the runtime has looked. So a write that fails because the peer is gone
//! ends the link a little later, and normally the reader is faster.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::AsyncWrite,
    time::{Instant, Sleep, sleep},
};

use super::{
    carried::{self, Passage, Waits},
    end_of,
    outbox::{MIN_LONG, Outbox},
    retire::Retired,
};
use crate::{
    error::LinkEnd,
    link::{
        Body, ChannelRef, Head, Limits, Publish, SendFault, Sender,
        codec::{encode_head, message_limit},
        descriptors::{Descriptors, MOST_DESCRIPTORS},
        frame::max_frame_len,
        message::encode_carrying,
    },
    settings::Settings,
};

/// Buffers frames for a writer.
pub(super) struct StreamSender<W: 'static> {
    writer: W,
    /// Dropped after the writer.
    retired: Arc<Retired>,
    outbox: Outbox,
    /// The way out for descriptors, and what a message with some waits for: nothing else is sent then.
    passage: Passage,
    waits: Option<Waits>,
    /// The bytes that may wait to be written. A message that finds none waiting may exceed it.
    capacity: usize,
    /// The frame, in bytes, that was refused last.
    refused: usize,
    max_message: usize,
    /// Bytes were written that the writer may have kept.
    unflushed: bool,
    /// The driver's waker is with the writer, which takes no more at the moment.
    blocked: bool,
    /// The peer does not read any more: the link ends when `respite` is over.
    hung_up: bool,
    respite: Pin<Box<Sleep>>,
    /// A message with descriptors could not be written. The driver finds it here.
    failed: Option<LinkEnd>,
    ended: Option<LinkEnd>,
    /// Scratch of one message.
    head: Vec<u8>,
    channels: Vec<ChannelRef>,
    payload: Vec<u8>,
    metadata: Vec<u8>,
}

/// What the reader has, from the moment when a write failed, to bring what arrived before. The runtime looks
/// for that at the latest when it looks whether this is over.
const RESPITE: Duration = Duration::from_millis(20);

impl<W: 'static> StreamSender<W> {
    /// To be created inside of a runtime.
    pub(super) fn new(writer: W, settings: &Settings, retired: &Arc<Retired>) -> Self {
        StreamSender {
            writer,
            retired: Arc::clone(retired),
            outbox: Outbox::new(settings.send_buffer as usize),
            passage: Passage::new((settings.max_descriptors as usize).min(MOST_DESCRIPTORS)),
            waits: None,
            capacity: usize::try_from(settings.send_buffer).unwrap_or(usize::MAX),
            refused: 0,
            max_message: message_limit(settings.max_payload_size),
            unflushed: false,
            blocked: false,
            hung_up: false,
            respite: Box::pin(sleep(RESPITE)),
            failed: None,
            ended: None,
            head: Vec::new(),
            channels: Vec::new(),
            payload: Vec::new(),
            metadata: Vec::new(),
        }
    }

    /// Goes over from the handshake to the session.
    pub(super) fn begin(&mut self, limits: Limits) {
        self.max_message = message_limit(limits.max_payload_size);
    }

    /// Sends a message of the handshake, which has no payload, whether there is room or not.
    pub(super) fn say(&mut self, head: &Head<'_>) {
        self.head.clear();
        encode_head(head, &[], 0, &mut self.head);
        self.outbox.push(&self.head, &[]);
    }

    /// Whether a frame of `len` bytes may be buffered.
    fn takes(&self, len: usize) -> bool {
        let waiting = self.outbox.waiting();
        waiting == 0 || waiting.saturating_add(len) <= self.capacity
    }

    /// Refuses a frame of `len` bytes until there is room.
    fn full(&mut self, len: usize) -> SendFault {
        self.refused = len;
        SendFault::Full
    }

    /// The writer failed. The end of the link, for those who ask later, too.
    fn poll_failed(&mut self, end: LinkEnd, cx: &mut Context<'_>) -> Poll<LinkEnd> {
        if matches!(end, LinkEnd::Gone) {
            if !self.hung_up {
                self.hung_up = true;
                self.respite.as_mut().reset(Instant::now() + RESPITE);
            }
            ready!(self.respite.as_mut().poll(cx));
        }
        Poll::Ready(self.ended.insert(end).clone())
    }
}

impl<W: AsyncWrite + Unpin + 'static> StreamSender<W> {
    /// Writes all that waits.
    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkEnd>> {
        loop {
            let bytes = self.outbox.unwritten();
            if bytes.is_empty() {
                break;
            }
            match ready!(Pin::new(&mut self.writer).poll_write(cx, bytes)) {
                Ok(0) => return Poll::Ready(Err(LinkEnd::Gone)),
                Ok(len) => {
                    self.outbox.wrote(len);
                    self.unflushed = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(end_of(error))),
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.writer).poll_flush(cx)).map_err(end_of)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<W: 'static> StreamSender<W> {
    /// Refuses a message, whose head is encoded, that is longer than both sides agreed on. Returns its length.
    fn check_message(&self, payload: usize) -> Result<usize, SendFault> {
        let (len, limit) = (self.head.len().saturating_add(payload), self.max_message);
        if len > limit {
            return Err(SendFault::TooLarge { len, limit, setting: "max_payload_size" });
        }
        Ok(len)
    }

    /// Sends a message that carries descriptors, whose payload is encoded and has `len` bytes: at once, behind all that
    /// waits. What the system refuses has not happened.
    ///
    /// One system call, one more if something waits, and one each time that as many are under way as may be.
    fn send_with(
        &mut self,
        head: &Head<'_>,
        len: usize,
        descriptors: &Descriptors,
    ) -> Result<usize, SendFault> {
        let count = descriptors.len();
        let head = carried::announce(head, count, &mut self.metadata).map_err(SendFault::Encode)?;
        self.head.clear();
        encode_head(&head, &self.channels, len, &mut self.head);
        self.check_message(len)?;
        if !self.push_out() {
            return Err(self.wait(Waits::Room));
        }
        if !self.passage.takes(&self.writer, count) {
            return Err(self.wait(Waits::Reading));
        }
        self.outbox.push(&self.head, &self.payload[..len]);
        match carried::try_write(&self.writer, self.outbox.unwritten(), descriptors) {
            Ok(written @ 1..) => self.outbox.wrote(written),
            refused => {
                self.outbox.clear();
                return Err(self.not_written(refused.err()));
            }
        }
        self.passage.sent(count);
        Ok(len)
    }

    /// Writes what waits, if the socket takes it at once.
    fn push_out(&mut self) -> bool {
        loop {
            let bytes = self.outbox.unwritten();
            if bytes.is_empty() {
                return true;
            }
            match carried::try_write(&self.writer, bytes, &Descriptors::NONE) {
                Ok(len @ 1..) => self.outbox.wrote(len),
                // What fails here, fails for the driver, too, who ends the link with it.
                _ => return false,
            }
        }
    }

    /// Why a message with descriptors was not written: `None`, if the socket takes nothing at the moment.
    fn not_written(&mut self, error: Option<io::Error>) -> SendFault {
        let Some(error) = error.filter(|error| error.kind() != io::ErrorKind::WouldBlock) else {
            return self.wait(Waits::Room);
        };
        match end_of(error) {
            LinkEnd::Io(error) => SendFault::Encode(carried::refused(&error)),
            end => {
                self.failed = Some(end);
                self.full(usize::MAX)
            }
        }
    }

    /// Nothing is sent until what a message with descriptors waits for has come.
    fn wait(&mut self, waits: Waits) -> SendFault {
        self.waits = Some(waits);
        self.full(usize::MAX)
    }
}

impl<W: 'static> Drop for StreamSender<W> {
    fn drop(&mut self) {
        self.retired.retire(&self.writer);
    }
}

impl<W: AsyncWrite + Unpin + Send + 'static> Sender for StreamSender<W> {
    fn send(&mut self, head: &Head<'_>, body: &mut dyn Body) -> Result<usize, SendFault> {
        if let Some(end) = &self.ended {
            return Err(SendFault::Ended(end.clone()));
        }
        if self.waits.is_some() || !self.takes(1) {
            return Err(self.full(1)); // before `body` was troubled
        }
        let (len, descriptors) =
            encode_carrying(body, &mut self.payload, &mut self.channels).map_err(SendFault::Encode)?;
        if !descriptors.is_empty() {
            return self.send_with(head, len, &descriptors);
        }
        self.head.clear();
        encode_head(head, &self.channels, len, &mut self.head);
        let frame = max_frame_len(self.check_message(len)?).saturating_add(1);
        if !self.takes(frame) {
            return Err(self.full(frame));
        }
        if len >= MIN_LONG {
            self.outbox.push_long(&self.head, &mut self.payload, len);
        } else {
            self.outbox.push(&self.head, &self.payload[..len]);
        }
        Ok(len)
    }

    fn carries_descriptors(&self) -> bool {
        carried::carries(&self.writer)
    }

    fn publish(&mut self) -> Publish {
        // A writer that is blocked wakes the driver by itself, which then writes this, too.
        if self.blocked || (self.outbox.waiting() == 0 && !self.unflushed) {
            Publish::Done
        } else {
            Publish::Flush
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkEnd>> {
        if let Some(end) = &self.ended {
            return Poll::Ready(Err(end.clone()));
        }
        self.blocked = true; // wherever this returns `Pending`
        let written = match self.failed.take() {
            Some(end) => Err(end),
            None if self.hung_up => Err(LinkEnd::Gone),
            None => ready!(self.poll_write_all(cx)),
        };
        if let Err(end) = written {
            return self.poll_failed(end, cx).map(Err);
        }
        self.blocked = false;
        if self.waits.is_some_and(|waits| carried::poll_room(&self.writer, waits, cx).is_ready()) {
            self.waits = None;
        }
        Poll::Ready(Ok(()))
    }

    fn has_room(&mut self) -> Result<bool, LinkEnd> {
        if let Some(end) = &self.ended {
            return Err(end.clone());
        }
        // Below half, so that those who wait are not woken for each few bytes. While it says no, bytes wait,
        // and so the driver is in `poll_flush`, or was told to flush.
        // A message with descriptors waits for more than that, and the driver's waker is with the socket.
        Ok(self.waits.is_none() && self.takes(self.refused.max(self.capacity / 2)))
    }
}
