//! A raw peer that has the other end of a link as the library makes it. On shared memory it takes slots of the
//! credit table for the channels that it names, opens them on its side as a receiver would, and grants there.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    task::{Context, Poll},
};

use super::Heard;
use crate::{
    conformance::note::Note,
    error::LinkEnd,
    link::{Body, ChannelRef, CreditSlot, EncodeFault, Encoder, Message, Parts, SendFault, Sink},
};

pub(in crate::conformance) struct EndPeer {
    parts: Parts,
    arrived: Arrived,
    /// The places of the channels that were named, and what was granted in them.
    slots: HashMap<(u64, u64), (CreditSlot, u64)>,
}

/// Messages that were taken from the link and not told yet.
#[derive(Default)]
struct Arrived {
    notes: VecDeque<Note>,
    /// The channels that they name.
    named: Vec<(u64, ChannelRef)>,
}

impl EndPeer {
    pub(in crate::conformance) fn new(parts: Parts) -> Self {
        EndPeer { parts, arrived: Arrived::default(), slots: HashMap::new() }
    }

    pub(super) fn has_table(&self) -> bool {
        self.parts.credit.is_some()
    }

    /// Writes messages, and publishes them together. What finds the link closed is lost.
    pub(super) fn say_together(&mut self, notes: &[Note]) {
        for note in notes {
            self.write(note);
        }
        let _ = self.parts.sender.publish();
    }

    /// Writes a message, and publishes nothing.
    pub(super) fn write(&mut self, note: &Note) {
        let conn_id = conn_id(note);
        note.parts(|head, ids, payload| {
            let channels: Vec<_> =
                ids.iter().map(|id| ChannelRef { id: *id, slot: self.allot(conn_id, *id) }).collect();
            match self.parts.sender.send(head, &mut Opening(payload, &channels)) {
                Ok(_) | Err(SendFault::Ended(_)) => {}
                Err(fault) => panic!("{note:?}: {fault:?}"),
            }
        });
    }

    /// The place of a channel that was named.
    pub(super) fn slot(&self, conn_id: u64, channel_id: u64) -> CreditSlot {
        self.slots[&(conn_id, channel_id)].0
    }

    /// Makes what was written visible.
    pub(super) fn publish(&mut self) {
        let _ = self.parts.sender.publish();
    }

    pub(super) async fn hear(&mut self) -> Heard {
        loop {
            if let Some(note) = self.arrived.notes.pop_front() {
                return Heard::Note(note);
            }
            if self.wait().await.is_err() {
                return self.arrived.notes.pop_front().map_or(Heard::End, Heard::Note);
            }
        }
    }

    pub(super) fn grant(&mut self, conn_id: u64, channel_id: u64, more: u32) {
        let Some(table) = self.parts.credit.clone() else {
            return self.say_together(&[Note::Credit { conn_id, channel_id, bytes: more }]);
        };
        let (slot, granted) = self.slots.get_mut(&(conn_id, channel_id)).expect("the channel was named");
        *granted += u64::from(more);
        table.grant(*slot, *granted);
    }

    /// Waits until our side has granted more than `known` bytes in the table.
    pub(super) async fn more_credit(&mut self, conn_id: u64, channel_id: u64, known: u64) -> u64 {
        let table = self.parts.credit.clone().expect("only shared memory has no messages for it");
        let slot = self.slot(conn_id, channel_id);
        table.await_credit(slot);
        let total = loop {
            let granted = table.granted(slot, 0).expect("our side counts upwards");
            if let Some(total) = granted.filter(|total| *total > known) {
                break total;
            }
            self.wait().await.expect("the link lives");
        };
        table.stop_waiting(slot);
        total
    }

    /// Waits until something happened on the link, and takes what arrived.
    async fn wait(&mut self) -> Result<(), LinkEnd> {
        let waited = poll_fn(|cx| self.poll_link(cx)).await;
        let window = u64::from(self.parts.limits.initial_channel_credit);
        for (conn_id, channel) in self.arrived.named.drain(..) {
            self.slots.insert((conn_id, channel.id), (channel.slot, window));
            if let Some(table) = &self.parts.credit {
                table.check(channel.slot).expect("our side names slots of its own");
                table.open(channel.slot, window);
            }
        }
        waited
    }

    fn poll_link(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkEnd>> {
        let _ = self.parts.sender.poll_flush(cx)?;
        if let Poll::Ready(received) = self.parts.receiver.poll_receive(cx, &mut self.arrived) {
            return Poll::Ready(received.map(drop));
        }
        match &mut self.parts.watcher {
            Some(watcher) => watcher.poll_rung(cx),
            None => Poll::Pending,
        }
    }

    /// A place for a channel that this peer names.
    fn allot(&mut self, conn_id: u64, channel_id: u64) -> CreditSlot {
        let Some(table) = &self.parts.credit else { return CreditSlot::NONE };
        let window = u64::from(self.parts.limits.initial_channel_credit);
        let slot = table.allot().expect("there are more slots than a case takes");
        table.open(slot, window);
        self.slots.insert((conn_id, channel_id), (slot, window));
        slot
    }
}

impl Sink for Arrived {
    fn message(&mut self, message: Message<'_>) -> bool {
        let note = Note::from(&message);
        let conn_id = conn_id(&note);
        self.named.extend(message.channels.iter().map(|channel| (conn_id, *channel)));
        self.notes.push_back(note);
        true
    }
}

/// The connection of a message that may name channels.
fn conn_id(note: &Note) -> u64 {
    match note {
        Note::Request { conn_id, .. } | Note::Response { conn_id, .. } => *conn_id,
        _ => 0,
    }
}

/// A payload and the channels that it names.
struct Opening<'a>(&'a [u8], &'a [ChannelRef]);

impl Body for Opening<'_> {
    fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        out.extend(self.0);
        self.1.iter().for_each(|channel| out.channel(*channel));
        Ok(())
    }
}
