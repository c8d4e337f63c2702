//! A notary on the wire: sees each message as it is sent and as it is handed out, and knows the rules.
//!
//! It is written from the protocol, not from the library, and shares none of its code but the message's form: what
//! both sides of the library would agree on although it is wrong, it objects to.

use std::{collections::BTreeMap, sync::Arc};

use super::{link::other, table::Table};
use crate::{
    link::{ChannelRef, Head, Message},
    session::answer::Verdict,
};

/// What has happened on one link.
pub(super) struct Notary {
    /// Bytes that a fresh channel may carry.
    window: u64,
    /// By how many bytes either side may widen windows, all together.
    growth: u64,
    table: Option<Arc<Table>>,
    connections: BTreeMap<u64, Connection>,
    /// Connects, by the side that asks, and whether they were answered.
    connects: [BTreeMap<u64, bool>; 2],
}

/// One connection. What is by side is by the side that sends.
#[derive(Default)]
struct Connection {
    /// Sides that know that it is open.
    known: [bool; 2],
    /// Sides that said goodbye.
    over: [bool; 2],
    requests: [BTreeMap<u64, Request>; 2],
    channels: BTreeMap<u64, Channel>,
    last_channel: [u64; 2],
}

/// One request.
#[derive(Default)]
struct Request {
    /// What the call is known by in the ledger.
    token: u64,
    arrived: bool,
    cancelled: bool,
    answer: Option<Verdict>,
    /// Its caller's side was handed the answer, and had not said goodbye.
    answer_arrived: bool,
}

/// One channel.
struct Channel {
    reference: ChannelRef,
    opener: usize,
    /// The other side knows of it.
    arrived: bool,
    /// Which side sends, once that is known.
    feeder: Option<usize>,
    sent: u64,
    delivered: u64,
    /// Credit that was given, and credit that came back to the feeder.
    granted: u64,
    credited: u64,
    /// Sides that closed or reset it.
    ended: [bool; 2],
}

type Checked = Result<(), String>;

/// Objects, unless it holds.
fn rule(holds: bool, what: &str) -> Checked {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

impl Notary {
    pub(super) fn new(window: u64, growth: u64, table: Option<Arc<Table>>) -> Self {
        let root = Connection { known: [true; 2], ..Connection::default() };
        Notary { window, growth, table, connections: [(0, root)].into(), connects: Default::default() }
    }

    /// The calls whose answers were handed out, by the ledger's numbers, and how they went.
    pub(super) fn answered(&self) -> impl Iterator<Item = (u64, Verdict)> {
        let requests = self.connections.values().flat_map(|open| open.requests.iter().flatten());
        requests.filter(|(_, request)| request.answer_arrived).filter_map(|(_, request)| {
            let verdict = request.answer?;
            Some((request.token, verdict))
        })
    }

    /// The request of one of the ledger's calls, if it was sent, and its connection.
    fn request(&self, token: u64) -> Option<(&Connection, &Request)> {
        let open = self.connections.values();
        let mut requests =
            open.flat_map(|open| open.requests.iter().flatten().map(move |(_, it)| (open, it)));
        requests.find(|(_, request)| request.token == token)
    }

    /// Whether a call's request was sent, and its answer has not arrived.
    pub(super) fn is_in_flight(&self, token: u64) -> bool {
        self.request(token).is_some_and(|(_, request)| !request.answer_arrived)
    }

    /// Whether a call was not cancelled, on a connection that both sides still have.
    pub(super) fn lacks_cancel(&self, token: u64) -> bool {
        self.request(token).is_some_and(|(open, request)| !request.cancelled && open.over == [false; 2])
            && self.connections[&0].over == [false; 2]
    }

    /// A request that was never answered, on a connection that both sides still have.
    pub(super) fn unanswered(&self) -> Option<String> {
        for (id, open) in self.connections.iter().filter(|(_, open)| open.over == [false; 2]) {
            for (side, requests) in open.requests.iter().enumerate() {
                if let Some((request, _)) = requests.iter().find(|(_, request)| request.answer.is_none()) {
                    return Some(format!("request {request} of side {side} on connection {id}"));
                }
            }
        }
        let connects = self.connects.iter().flatten();
        let left = connects.into_iter().find(|(_, answered)| !**answered);
        left.map(|(request, _)| format!("connect {request}"))
    }

    /// A side sent a message.
    pub(super) fn sent(&mut self, from: usize, message: &Message<'_>) -> Checked {
        rule(!self.connections[&0].over[from], "it said goodbye to the link before")?;
        match message.head {
            Head::Hello { .. } => return Err("a Hello after the handshake".into()),
            Head::Connect { request_id, .. } => {
                let new = self.connects[from].insert(request_id, false).is_none();
                return rule(new, "the Connect's id was used before");
            }
            Head::Accept { request_id, conn_id, .. } => {
                self.answer_connect(from, request_id)?;
                rule(
                    conn_id != 0 && conn_id % 2 == (from as u64 + 1) % 2,
                    "an id of the other side's parity",
                )?;
                let mut open = Connection::default();
                open.known[from] = true;
                return rule(self.connections.insert(conn_id, open).is_none(), "the id was given before");
            }
            Head::Reject { request_id, .. } => return self.answer_connect(from, request_id),
            _ => {}
        }
        let conn_id = message.head.conn_id().unwrap_or(0);
        let Some(open) = self.connections.get_mut(&conn_id) else { return Err("no such connection".into()) };
        rule(open.known[from], "it does not know of the connection yet")?;
        rule(!open.over[from], "it said goodbye to the connection before")?;
        open.sent(from, message, self.window, self.table.as_deref())?;
        if let Head::Credit { channel_id, .. } = message.head {
            let growth = self.growth / 4;
            rule(
                open.channel(channel_id)?.ahead() <= growth + (self.window + growth) / 4,
                "more credit than was taken, and than one window may grow by",
            )?;
        }
        self.check_growth(from)
    }

    /// What a side has granted ahead of what it was sent, on all channels together.
    fn check_growth(&self, from: usize) -> Checked {
        let all = self.connections.values().flat_map(|open| open.channels.values());
        let open = all.filter(|channel| channel.feeder == Some(other(from)) && channel.ended == [false; 2]);
        let (mut ahead, mut most) = (0, self.growth + self.growth / 4);
        for channel in open {
            ahead += channel.ahead();
            most += self.window / 4;
        }
        rule(ahead <= most, "more credit than was taken, and than all windows may grow by")
    }

    fn answer_connect(&mut self, from: usize, request_id: u64) -> Checked {
        match self.connects[other(from)].insert(request_id, true) {
            Some(false) => Ok(()),
            Some(true) => Err("the Connect was answered before".into()),
            None => Err("nobody asked for it".into()),
        }
    }

    /// The other side was handed what `from` sent.
    pub(super) fn arrived(&mut self, from: usize, message: &Message<'_>) -> Checked {
        let to = other(from);
        let conn_id = match message.head {
            Head::Accept { conn_id, .. } => conn_id,
            head => head.conn_id().unwrap_or(0),
        };
        let deaf = self.connections[&0].over[to];
        let Some(open) = self.connections.get_mut(&conn_id) else { return Err("no such connection".into()) };
        for channel in message.channels {
            open.channels.get_mut(&channel.id).ok_or("the channel was not opened")?.arrived = true;
        }
        match message.head {
            Head::Accept { .. } => open.known[to] = true,
            Head::Request { request_id, .. } => {
                open.requests[from].get_mut(&request_id).ok_or("nobody sent it")?.arrived = true;
            }
            Head::Response { request_id, .. } => {
                let request = open.requests[to].get_mut(&request_id).ok_or("nobody asked")?;
                request.answer_arrived = !open.over[to] && !deaf;
            }
            Head::Data { channel_id, .. } => {
                open.channel(channel_id)?.delivered += message.payload.len() as u64;
            }
            Head::Credit { channel_id, bytes, .. } => open.channel(channel_id)?.credited += u64::from(bytes),
            _ => {}
        }
        Ok(())
    }
}

impl Connection {
    fn channel(&mut self, id: u64) -> Result<&mut Channel, String> {
        self.channels.get_mut(&id).ok_or_else(|| "the channel was never opened".to_owned())
    }

    fn sent(&mut self, from: usize, message: &Message<'_>, window: u64, table: Option<&Table>) -> Checked {
        match message.head {
            Head::Goodbye { reason, .. } => {
                self.over[from] = true;
                rule(reason.is_empty(), "a goodbye with a reason: nobody here breaks a rule")
            }
            Head::Request { request_id, .. } => {
                let last = self.requests[from].last_key_value().map_or(0, |(id, _)| *id);
                rule(request_id == last + 1, "request ids start at 1 and grow")?;
                let (token, _) =
                    postcard::take_from_bytes(&message.payload.to_vec()).map_err(|_| "no token")?;
                self.requests[from].insert(request_id, Request { token, ..Request::default() });
                self.open_channels(from, message.channels)
            }
            Head::Response { request_id, .. } => {
                let Some(request) = self.requests[other(from)].get_mut(&request_id) else {
                    return Err("an answer to nobody's request".into());
                };
                rule(request.arrived, "an answer before the request arrived")?;
                rule(request.answer.is_none(), "the second answer to one request")?;
                request.answer = Verdict::split(&message.payload.to_vec()).map(|(verdict, _)| verdict);
                rule(request.answer.is_some(), "an answer without a verdict")?;
                self.open_channels(from, message.channels)
            }
            Head::Cancel { request_id, .. } => {
                let Some(request) = self.requests[from].get_mut(&request_id) else {
                    return Err("a cancel of no request".into());
                };
                // It may have been parked, and its call have been answered since.
                rule(!std::mem::replace(&mut request.cancelled, true), "a second cancel")
            }
            Head::Data { channel_id, .. } => {
                let channel = self.channel(channel_id)?;
                channel.fed_by(from)?;
                channel.sent += message.payload.len() as u64;
                let granted = match table {
                    // The window is the channel's own, also before its receiver knows of it.
                    Some(table) => table.total(other(from), channel.reference).max(window),
                    None => window + channel.credited,
                };
                rule(channel.sent <= granted, "more was sent than the receiver has granted")
            }
            Head::Close { channel_id, .. } => {
                let channel = self.channel(channel_id)?;
                channel.fed_by(from)?;
                channel.ended[from] = true;
                Ok(())
            }
            Head::Reset { channel_id, .. } => {
                let channel = self.channel(channel_id)?;
                channel.used_by(from)?;
                channel.ended[from] = true;
                Ok(())
            }
            Head::Credit { channel_id, bytes, .. } => {
                rule(table.is_none(), "a message of credit where there is a table")?;
                let channel = self.channel(channel_id)?;
                channel.fed_by_other(from)?;
                channel.granted += u64::from(bytes);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn open_channels(&mut self, from: usize, channels: &[ChannelRef]) -> Checked {
        for reference in channels {
            let next = match self.last_channel[from] {
                0 => from as u64 + 1,
                last => last + 2,
            };
            rule(reference.id == next, "channel ids are odd or even by side, and grow")?;
            self.last_channel[from] = next;
            let channel = Channel {
                reference: *reference,
                opener: from,
                arrived: false,
                feeder: None,
                sent: 0,
                delivered: 0,
                granted: 0,
                credited: 0,
                ended: [false; 2],
            };
            self.channels.insert(reference.id, channel);
        }
        Ok(())
    }
}

impl Channel {
    /// Bytes that were granted beyond those that arrived.
    fn ahead(&self) -> u64 {
        self.granted.saturating_sub(self.delivered)
    }

    fn used_by(&self, side: usize) -> Checked {
        rule(self.arrived || self.opener == side, "it does not know of the channel yet")?;
        rule(!self.ended[side], "it ended the channel before")
    }

    fn fed_by(&mut self, side: usize) -> Checked {
        self.used_by(side)?;
        rule(*self.feeder.get_or_insert(side) == side, "the channel is the other side's to send")
    }

    fn fed_by_other(&mut self, side: usize) -> Checked {
        self.used_by(side)?;
        rule(*self.feeder.get_or_insert(other(side)) != side, "the channel is this side's to send")
    }
}
