//! The receiving half: reads what there is, and hands it out message by message.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    task::unconstrained,
};

use super::{
    apart::{self, Apart},
    carried::{self, Inbox},
    end_of,
    retire::Retired,
};
use crate::{
    error::{LinkEnd, Violation},
    link::{
        ChannelRef, Limits, Receiver, Sink,
        codec::{decode_message, message_limit, oversize},
        descriptors::Pause,
        frame::{Deframer, FrameFault},
    },
    settings::{Settings, Waiting},
};

/// The messages that one call hands out at most, so that the driver comes to do other things.
pub(in crate::link) const BATCH: usize = 256;

/// Cuts what a reader brings into messages.
pub(super) struct StreamReceiver<R: 'static> {
    reader: R,
    deframer: Deframer,
    /// The message that is arriving, if it is taken apart.
    apart: Option<Apart>,
    /// The bytes that were read.
    read: u64,
    /// The descriptors that arrived.
    carried: Inbox,
    /// Nothing is to be read now: more of the peer's descriptors wait to be closed than may.
    held_up: bool,
    pause: Pause,
    /// Who closes those that nobody takes, and the socket. Dropped after the reader.
    retired: Arc<Retired>,
    /// Scratch of one message.
    channels: Vec<ChannelRef>,
    max_payload_size: u32,
    /// The handshake is over.
    greeted: bool,
    /// Never sleeps: see [`Waiting::Spin`].
    spins: bool,
    /// Somebody else than the driver has had the receive role.
    lent: bool,
    ended: Option<LinkEnd>,
}

impl<R: 'static> StreamReceiver<R> {
    pub(super) fn new(reader: R, settings: &Settings, retired: Arc<Retired>) -> Self {
        carried::adopt(&reader);
        StreamReceiver {
            reader,
            deframer: Deframer::new(message_limit(settings.max_payload_size)),
            apart: None,
            read: 0,
            carried: Inbox::default(),
            held_up: false,
            pause: Pause::default(),
            retired,
            channels: Vec::new(),
            max_payload_size: settings.max_payload_size,
            greeted: false,
            spins: settings.waiting == Waiting::Spin,
            lent: false,
            ended: None,
        }
    }

    /// Goes over from the handshake to the session. What arrived behind the peer's Hello is kept.
    pub(super) fn begin(&mut self, limits: Limits) {
        self.max_payload_size = limits.max_payload_size;
        self.deframer.set_max_message(message_limit(limits.max_payload_size));
        self.greeted = true;
    }

    /// Hands out what has been read. An end that follows messages is told by the next call.
    fn hand_out(&mut self, sink: &mut dyn Sink) -> Result<usize, LinkEnd> {
        let mut count = 0;
        while count < BATCH && self.ended.is_none() {
            match self.hand_out_one(sink) {
                Ok(Some(more)) => {
                    count += 1;
                    if !more {
                        break;
                    }
                }
                Ok(None) => break,
                Err(end) => self.ended = Some(end),
            }
        }
        match &self.ended {
            Some(end) if count == 0 => Err(end.clone()),
            _ => Ok(count),
        }
    }

    /// Hands out the next message and returns whether `sink` takes more; `None` if none is complete.
    fn hand_out_one(&mut self, sink: &mut dyn Sink) -> Result<Option<bool>, LinkEnd> {
        if self.apart.is_none() {
            if !self.carried.is_empty() {
                self.carried.check(self.read - self.deframer.left() as u64)?;
            }
            let (piece, _) = self.deframer.peek();
            if piece.len() >= apart::MIN_FRAME && self.greeted {
                self.apart = Apart::begin(piece, self.max_payload_size);
            }
        }
        if self.apart.is_some() {
            return self.hand_out_apart(sink);
        }
        let frame = match self.deframer.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(None),
            Err(FrameFault::Malformed { len }) => return Err(Violation::Decode { len }.into()),
            Err(FrameFault::TooLong { prefix }) => {
                return Err(in_place(oversize(prefix, self.max_payload_size), self.greeted).into());
            }
        };
        match decode_message(frame, &mut self.channels) {
            Ok(message) => {
                if !self.carried.is_empty()
                    && let Some(descriptors) = self.carried.take(&message)?
                {
                    sink.descriptors(descriptors);
                }
                Ok(Some(sink.message(message)))
            }
            Err(violation) => Err(in_place(violation, self.greeted).into()),
        }
    }
}

impl<R: 'static> StreamReceiver<R> {
    /// As [`hand_out_one`](StreamReceiver::hand_out_one), of a message that is taken apart.
    fn hand_out_apart(&mut self, sink: &mut dyn Sink) -> Result<Option<bool>, LinkEnd> {
        let Some(apart) = &mut self.apart else { return Ok(None) };
        sink.about_to_copy();
        let (piece, complete) = self.deframer.peek();
        let begun = apart.begun();
        apart.push(&piece[begun..])?;
        self.deframer.skip();
        let Some(apart) = self.apart.take_if(|_| complete) else {
            self.deframer.widen();
            return Ok(None);
        };
        let more = apart.finish(|message| {
            if !self.carried.is_empty()
                && let Some(descriptors) = self.carried.take(message)?
            {
                sink.descriptors(descriptors);
            }
            Ok::<_, LinkEnd>(sink.message(*message))
        });
        more?.map(Some)
    }
}

/// What a violation is called where it stands: until the peer greeted, whatever is no Hello is out of order
/// first of all, and afterwards every Hello is (`message.hello.ordering`).
fn in_place(violation: Violation, greeted: bool) -> Violation {
    match violation {
        Violation::UnknownVersion if greeted => Violation::HelloOrdering,
        Violation::UnknownVersion | Violation::Decode { .. } => violation,
        _ if greeted => violation,
        _ => Violation::HelloOrdering,
    }
}

impl<R: AsyncRead + Unpin + 'static> StreamReceiver<R> {
    /// Hands out what has been read, and if that is nothing, reads.
    fn receive(&mut self, cx: &mut Context<'_>, sink: &mut dyn Sink) -> Poll<Result<usize, LinkEnd>> {
        loop {
            let count = self.hand_out(sink)?;
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            match ready!(self.poll_read(cx)) {
                Ok(Ok(0)) => self.ended = Some(LinkEnd::Gone),
                Ok(Ok(len)) => {
                    self.deframer.arrived(len);
                    self.read += len as u64;
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => self.ended = Some(end_of(error)),
                Err(end) => self.ended = Some(end),
            }
        }
    }

    /// Reads what is there, with its descriptors where the stream carries some.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<io::Result<usize>, LinkEnd>> {
        if carried::carries(&self.reader) {
            // Which bytes have descriptors is not known before they are read.
            self.held_up = self.retired.closer().holds_up()?;
            if self.held_up {
                self.pause.begin(cx);
                return Poll::Pending;
            }
        }
        let room = self.deframer.room();
        let into = (&mut *room, self.read);
        if let Some(read) = carried::poll_read(&self.reader, cx, into, &mut self.carried, &self.retired) {
            return read;
        }
        let mut room = ReadBuf::new(room);
        let read = ready!(Pin::new(&mut self.reader).poll_read(cx, &mut room));
        Poll::Ready(Ok(read.map(|()| room.filled().len())))
    }
}

impl<R: 'static> Drop for StreamReceiver<R> {
    fn drop(&mut self) {
        self.retired.retire(&self.reader);
    }
}

impl<R: AsyncRead + Unpin + Send + 'static> Receiver for StreamReceiver<R> {
    /// Reads without leaving a waker behind, and thereby takes away the driver's: see `hand_back`.
    fn drain(&mut self, sink: &mut dyn Sink) -> Result<usize, LinkEnd> {
        self.lent = true;
        // Unconstrained: a task whose budget is spent would be told that nothing is there.
        let receive = pin!(unconstrained(poll_fn(|cx| self.receive(cx, sink))));
        match receive.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(received) => received,
            Poll::Pending => Ok(0),
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, sink: &mut dyn Sink) -> Poll<Result<usize, LinkEnd>> {
        let received = self.receive(cx, sink);
        if received.is_pending() && self.spins {
            cx.waker().wake_by_ref();
        }
        received
    }

    fn asleep(&self) -> bool {
        !self.spins
    }

    fn held_up(&self) -> bool {
        self.held_up
    }

    /// The driver's waker was taken away while the role was lent.
    fn hand_back(&mut self) -> bool {
        std::mem::take(&mut self.lent)
    }
}
