//! The receiving end: frames copied out of the ring, checked, and handed on; and how to wait for them.
//!
//! # Waiting
//!
//! Three ways, each for another kind of caller, and one of them at a time, since whoever waits holds the
//! receiver:
//!
//! - the driver's task in [`poll_receive`](Receiver::poll_receive): spins in slices, then sleeps on the bell;
//! - a thread in [`spin`](Receiver::spin) and [`sleep`](Receiver::sleep): spins, then sleeps on the futex;
//! - nobody, after [`hand_back`](Receiver::hand_back): the driver's task is asleep on the bell again.
//!
//! Before each sleep comes the last look of `adjoin_shm_layout`'s park protocol, behind the announcement. The
//! ring in is looked at here. Room in the ring out and credit are not this object's to look at: while anybody
//! waits for those, an announcement is followed by an early return with nothing, once, so that the caller
//! looks.
//!
//! The peer rings the bell once for an announcement, so one behind which a ring was heard is over: nothing
//! rings for it any more. Each time that the driver's task is polled, or is handed the wake-ups back, it goes
//! to sleep behind a new one. There is one exception, or the look for room and credit would be asked for
//! again and again: the announcement behind which it was asked for stands for as long as the task, which
//! alone listens to the bell, has heard no ring since. What is published then was seen by that look, or
//! rings.

use std::{
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::Instant,
};

use adjoin_shm_layout::{Corrupt, Mode, Parked, RingReader};

use super::{
    blocks::{Blocks, Taken},
    frame, futex,
    link::{Mapped, Shared},
    spin::{Spin, Spun},
};
use crate::{
    error::LinkEnd,
    link::{
        ChannelRef, Receiver, Sink,
        descriptors::{PAUSE, Pause},
        vector::MIN_VECTOR,
    },
};

/// The consumer of the ring in.
#[derive(Debug)]
pub(super) struct ShmReceiver {
    reader: RingReader<Mapped>,
    shared: Arc<Shared>,
    blocks: Blocks,
    spin: Spin,
    /// The sleep that is announced.
    announced: Option<Announced>,
    /// The local word when it was last looked at: an interrupt since then ends the next sleep at once.
    local_seen: u32,
    /// The body of the frame at hand, and its channels: memory that is used again.
    body: Vec<u8>,
    channels: Vec<ChannelRef>,
    /// The message at hand has descriptors, and none are to be received now: it stays where it is.
    held_up: bool,
    pause: Pause,
    /// What ended the link; everything behind it is not to be trusted.
    ended: Option<LinkEnd>,
}

/// A sleep that is announced.
#[derive(Debug)]
struct Announced {
    mode: Mode,
    parked: Parked,
    /// The rings heard before it.
    heard: u32,
    /// Whether the caller was asked, behind it, to look for room and credit.
    asked: bool,
}

impl ShmReceiver {
    pub(super) fn new(reader: RingReader<Mapped>, blocks: Blocks, shared: Arc<Shared>, spin: Spin) -> Self {
        ShmReceiver {
            reader,
            blocks,
            local_seen: shared.local.seen(),
            shared,
            spin,
            announced: None,
            body: Vec::new(),
            channels: Vec::new(),
            held_up: false,
            pause: Pause::default(),
            ended: None,
        }
    }

    /// Takes one frame out of the ring and hands it on. `None`: there is none, or it is held up. Else whether `sink` wants
    /// more.
    ///
    /// One copy; no allocation, once the memory has grown to the longest frame, but for a long payload that is one byte
    /// vector: that is copied into memory that the application gets. A payload in a block costs what [`Blocks`] says.
    fn take(&mut self, sink: &mut dyn Sink) -> Result<Option<bool>, LinkEnd> {
        let Some(frame) = self.reader.next_frame().map_err(frame::corrupt)? else {
            return Ok(None);
        };
        let (tag, len) = (frame.tag(), frame.len());
        let vector = if len < MIN_VECTOR {
            None
        } else {
            frame::take_vector(&frame, &mut self.body, self.blocks.pool())
        };
        let kept = if vector.is_some() { self.body.len() } else { len };
        if self.body.len() < kept {
            self.body.resize(kept.next_power_of_two(), 0);
        }
        let body = self.body.get_mut(..kept).unwrap_or_default();
        if vector.is_none() {
            frame.copy_to(0, body);
        }
        let announced = frame::descriptors(tag, body)?;
        if announced > 0 && self.shared.passage.holds_up()? {
            self.held_up = true;
            return Ok(None);
        }
        frame.release();
        // A batch may be longer than the ring: the peer gets its room back while it is handed on.
        if self.reader.should_publish() {
            self.shared.wake(self.reader.publish_consumed());
        }
        let taken = match (vector, frame::block(tag, body)?) {
            (Some(vector), _) => Some(Taken::Vector(vector.into())),
            (None, Some(block)) => {
                if block.len as usize >= LONG {
                    sink.about_to_copy();
                }
                Some(self.blocks.take(block, frame::payload_of(tag))?)
            }
            (None, None) => None,
        };
        let outside = taken.as_ref().map(Taken::brought);
        let message = frame::parse(tag, body, &mut self.channels, outside)?;
        if announced > 0 {
            sink.descriptors(self.shared.passage.receive(announced)?);
        }
        let more = sink.message(message);
        if let Some(taken) = taken {
            self.blocks.done(taken);
        }
        Ok(Some(more))
    }

    /// Whether messages are there.
    fn arrived(&mut self) -> Result<bool, LinkEnd> {
        self.reader.is_empty().map(|empty| !empty).map_err(frame::corrupt)
    }

    /// Gives all room back to the peer. When nothing is left to read: a peer that waits for it must not wait
    /// for our sleep.
    fn give_back(&mut self) {
        self.shared.wake(self.reader.publish_consumed());
    }

    /// Announces a sleep, anew if one is announced: look at everything once more.
    fn announce(&mut self, mode: Mode) {
        self.withdraw();
        let heard = self.shared.bell.heard();
        self.announced =
            Some(Announced { mode, parked: self.shared.park.prepare(mode), heard, asked: false });
        self.spin.sleeps();
    }

    /// Whether the caller has to look for room and credit behind the announcement: once for each.
    fn ask(&mut self) -> bool {
        let asks = self.shared.waiters.any();
        if let Some(announced) = &mut self.announced {
            announced.asked = asks;
        }
        asks
    }

    /// Whether an announcement on the bell is as good as a new one: room and credit were looked for behind
    /// it, and no ring was heard since. For the task that listens.
    fn stands(&self) -> bool {
        let heard = self.shared.bell.heard();
        self.announced.as_ref().is_some_and(|it| it.mode == Mode::Bell && it.asked && it.heard == heard)
    }

    /// Takes the announcement back: this side is awake, the peer need not make system calls for it.
    fn withdraw(&mut self) {
        if let Some(announced) = self.announced.take() {
            self.shared.park.unpark(announced.parked);
        }
    }

    /// Remembers what ended the link.
    fn end(&mut self, end: LinkEnd) -> LinkEnd {
        self.ended.insert(end).clone()
    }

    /// Spins in place, with no sleep announced.
    fn spin_with(
        &mut self,
        spin: impl FnOnce(&mut Spin, &mut RingReader<Mapped>) -> Result<Spun, Corrupt>,
    ) -> Result<Spun, LinkEnd> {
        if self.shared.take_expectation() {
            self.spin.expect();
        }
        if self.spin.pays() {
            self.withdraw();
        }
        spin(&mut self.spin, &mut self.reader).map_err(|corrupt| self.end(frame::corrupt(corrupt)))
    }

    /// Nothing had arrived: spins a little, or goes to sleep. `None`: something is there now.
    fn wait(&mut self, cx: &mut Context<'_>) -> Result<Option<Poll<usize>>, LinkEnd> {
        match self.spin_with(|spin, reader| spin.slice(|| reader.is_empty().map(|empty| !empty)))? {
            Spun::Arrived => return Ok(None),
            Spun::Again => {
                cx.waker().wake_by_ref();
                return Ok(Some(Poll::Pending));
            }
            Spun::Exhausted => {}
        }
        if self.stands() {
            return Ok(Some(Poll::Pending));
        }
        self.announce(Mode::Bell);
        if self.arrived()? {
            return Ok(None);
        }
        Ok(Some(if self.ask() { Poll::Ready(0) } else { Poll::Pending }))
    }
}

impl Receiver for ShmReceiver {
    /// No system call but to wake a peer that waits for room.
    fn drain(&mut self, sink: &mut dyn Sink) -> Result<usize, LinkEnd> {
        if let Some(end) = &self.ended {
            return Err(end.clone());
        }
        self.held_up = false;
        let mut taken = 0;
        while taken < BATCH {
            match self.take(sink) {
                Ok(None) => break,
                Ok(Some(more)) => {
                    taken += 1;
                    if !more {
                        break;
                    }
                }
                Err(end) => {
                    let end = self.end(end);
                    // What came before was handed out: that is said first.
                    return if taken == 0 { Err(end) } else { Ok(taken) };
                }
            }
        }
        if taken > 0 {
            self.withdraw();
            self.spin.busy();
        }
        Ok(taken)
    }

    /// As [`drain`](Receiver::drain). `Ready(Ok(0))` means that somebody waits for room or credit, and has to
    /// look once more now that this side is about to sleep.
    fn poll_receive(&mut self, cx: &mut Context<'_>, sink: &mut dyn Sink) -> Poll<Result<usize, LinkEnd>> {
        let taken = self.drain(sink)?;
        if taken > 0 {
            return Poll::Ready(Ok(taken));
        }
        self.give_back();
        if self.held_up {
            self.pause.begin(cx);
            return Poll::Pending;
        }
        match self.wait(cx)? {
            Some(waits) => waits.map(Ok),
            None => Poll::Ready(self.drain(sink)),
        }
    }

    fn asleep(&self) -> bool {
        self.announced.is_some() || self.held_up
    }

    fn held_up(&self) -> bool {
        self.held_up
    }

    fn spin(&mut self) -> bool {
        self.give_back();
        if self.held_up {
            return false;
        }
        let spun = self.spin_with(|spin, reader| spin.long(|| reader.is_empty().map(|empty| !empty)));
        // What is wrong with the ring is told by the drain that follows.
        !matches!(spun, Ok(Spun::Again | Spun::Exhausted))
    }

    /// One system call, or two with a deadline.
    fn sleep(&mut self, deadline: Option<Instant>) -> Result<bool, LinkEnd> {
        self.give_back();
        if self.held_up {
            thread::sleep(PAUSE);
            return Ok(true);
        }
        if self.spin.forever() {
            return Ok(true);
        }
        // An announcement on the futex stands until the sleep: the word that it has seen ends that.
        let asked = self.announced.as_ref().is_some_and(|it| it.mode == Mode::Futex && it.asked);
        if !asked {
            self.announce(Mode::Futex);
        }
        if self.arrived()? {
            self.withdraw();
            return Ok(true);
        }
        if !asked && self.ask() {
            return Ok(true);
        }
        if let Some(Announced { parked, .. }) = &self.announced {
            let peer = (self.shared.park.peer_wake_word(), parked.seen());
            futex::wait_both(peer, (&self.shared.local, self.local_seen), deadline)
                .map_err(std::io::Error::from)?;
        }
        self.local_seen = self.shared.local.seen();
        self.withdraw();
        Ok(true)
    }

    fn hand_back(&mut self) -> bool {
        self.give_back();
        if !self.spin.forever() {
            self.announce(Mode::Bell);
        }
        // A driver that never sleeps found the role taken, and stopped. What is wrong with the ring is for it
        // to find.
        self.spin.forever() || self.arrived().unwrap_or(true) || self.shared.waiters.any()
    }
}

/// Bytes of a payload whose copy takes its time.
const LONG: usize = 64 << 10;

/// Messages that one drain hands out at most, so that others of the runtime get their turn.
const BATCH: usize = 256;
