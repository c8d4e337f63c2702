//! Credit of a channel, in its entry of the channel table. No message and no lock: the receiver counts up,
//! the sender compares with what it has sent.
//!
//! # Who writes what
//!
//! A channel has one receiver and one sender, each with an entry in its own half, at the same index.
//!
//! | field           | entry of the | written when                                     |
//! |-----------------|--------------|--------------------------------------------------|
//! | `generation`    | receiver     | `open`: to none, and then to the slot's          |
//! | `granted_total` | receiver     | `open`, between those two; every `grant` after   |
//! | `waiting`       | sender       | 1 by `await_credit`, 0 by `stop_waiting`         |
//!
//! # The races that look possible
//!
//! *The sender reads the credit of another incarnation.* A receiver may be done with a channel, and its slot
//! in use again, before the old sender has heard of it. So `granted` looks at the generation before and after
//! the total. A total of a newer incarnation was stored after the generation went to none; whoever reads it
//! (Acquire) sees that in the second look.
//!
//! *The sender falls asleep while the grant is made.* Both sides store, fence, and load what the other
//! stores: the sender `waiting` and then the credit, the receiver the credit and then `waiting`. The fences
//! are in one order; whichever comes second sees what was stored before the first. So the sender sees the
//! credit, or the receiver sees `waiting` and wakes.

use alloc::sync::Arc;

use super::channels::Slot;
use super::park::{self, Wake};
use crate::error::{Corrupt, Rule};
use crate::halves::Halves;
use crate::layout::channel::ChannelEntry;
use crate::sync::{Ordering, ReadOnly, fence};

/// What the receiver of a channel has granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// The receiver has not opened this incarnation yet, or not any more: what holds is the initial credit of
    /// the link.
    NotOpened,
    /// So many bytes may be sent on the channel in all, what was sent already included.
    Total(u64),
}

/// Both channel tables: the credit that this side grants as a receiver, and the credit that it has as a
/// sender.
///
/// # Panics
///
/// Every method panics on a slot of another link that has a larger table.
#[derive(Debug)]
pub struct Credit<H> {
    halves: Arc<H>,
}

impl<H> Clone for Credit<H> {
    fn clone(&self) -> Self {
        Self { halves: self.halves.clone() }
    }
}

impl<H: Halves> Credit<H> {
    pub(crate) fn new(halves: Arc<H>) -> Self {
        Self { halves }
    }

    /// Opens a channel that this side receives on: `initial` bytes may be sent on it. Only its receiver calls
    /// this.
    pub fn open(&self, slot: Slot, initial: u64) -> Wake {
        let entry = self.own(slot);
        // Relaxed: published by the store of `granted_total` below.
        entry.generation.store(ChannelEntry::NO_GENERATION, Ordering::Relaxed);
        // Release: pairs with the Acquire load of `granted_total` in `granted`; publishes that the generation
        // is none.
        entry.granted_total.store(initial, Ordering::Release);
        // Release: pairs with the Acquire load of `generation` in `granted`; publishes the total.
        entry.generation.store(slot.generation(), Ordering::Release);
        self.wake_if_waiting(slot)
    }

    /// Raises what may be sent on an open channel to `total` bytes in all. Only its receiver calls this, with
    /// totals that grow.
    pub fn grant(&self, slot: Slot, total: u64) -> Wake {
        // Release: pairs with the Acquire load of `granted_total` in `granted`; publishes, like the store in
        // `open`, that the generation has left the one before.
        self.own(slot).granted_total.store(total, Ordering::Release);
        self.wake_if_waiting(slot)
    }

    /// Reads what may be sent on a channel. `known` is what this sender was granted before, 0 at first.
    ///
    /// # Errors
    ///
    /// When the total is less than what was granted before.
    pub fn granted(&self, slot: Slot, known: u64) -> Result<Granted, Corrupt> {
        let entry = self.peer(slot);
        // Acquire: pairs with the Release store of `generation` in `open`; the total is this incarnation's or
        // a newer's.
        if entry.generation().acquire() != slot.generation() {
            return Ok(Granted::NotOpened);
        }
        // Acquire: pairs with the Release stores of `granted_total` in `open` and `grant`; if it is of a
        // newer incarnation, the generation below is not ours any more.
        let total = entry.granted_total().acquire();
        // Relaxed: ordered behind the load of the total, see there.
        if entry.generation().relaxed() != slot.generation() {
            return Ok(Granted::NotOpened);
        }
        if total < known {
            let rule = Rule::Within(known, u64::MAX);
            return Err(Corrupt { field: "channel.granted_total", found: total, rule });
        }
        Ok(Granted::Total(total))
    }

    /// Asks to be woken by the next grant, and reads once more what may be sent. Only the channel's sender
    /// calls this.
    ///
    /// Until [`stop_waiting`](Self::stop_waiting), every grant wakes this side.
    ///
    /// # Errors
    ///
    /// As [`granted`](Self::granted).
    pub fn await_credit(&self, slot: Slot, known: u64) -> Result<Granted, Corrupt> {
        // Relaxed: only the sender writes it; the fence orders it.
        self.own(slot).waiting.store(1, Ordering::Relaxed);
        // SeqCst fence: store-load, pairs with the fence in `wake_if_waiting`; either that sees `waiting`, or
        // we the grant.
        fence(Ordering::SeqCst);
        self.granted(slot, known)
    }

    /// Stops asking to be woken: with enough credit, or without, when the channel ends. Only the channel's
    /// sender calls this.
    pub fn stop_waiting(&self, slot: Slot) {
        // Relaxed: only the sender writes it; read late, it costs one wake too many.
        self.own(slot).waiting.store(0, Ordering::Relaxed);
    }

    fn wake_if_waiting(&self, slot: Slot) -> Wake {
        // SeqCst fence: store-load, pairs with the fence in `await_credit`, and with the one in
        // `Park::prepare`.
        fence(Ordering::SeqCst);
        // Relaxed: ordered by the fence.
        if self.peer(slot).waiting().relaxed() == 0 {
            return Wake::Nobody;
        }
        park::wake_sleepers(&*self.halves)
    }

    fn own(&self, slot: Slot) -> &ChannelEntry {
        &self.halves.own().channels[slot.index() as usize]
    }

    fn peer(&self, slot: Slot) -> ReadOnly<'_, ChannelEntry> {
        self.halves.peer().channels.part(|channels| &channels[slot.index() as usize])
    }
}
