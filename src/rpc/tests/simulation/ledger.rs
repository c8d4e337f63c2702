//! What the world's tasks did and saw: connections, calls and streams, and which endings of them are legal.
//!
//! Some of it can be judged on the spot. What depends on things that the other side may yet have to do is judged at
//! the end, when nothing happens any more.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::link::other;
use crate::{
    error::{ConnectionEnd, LinkEnd},
    rpc::{
        errors::{CallError, RecvError, Refusal, SendError},
        raw_call::TICK,
    },
};

/// A connection, root or virtual. What is by side is 0 for the link's initiator.
#[derive(Debug)]
pub(super) struct ConnRecord {
    pub(super) link: usize,
    pub(super) root: bool,
    /// Sides that have told it to close, or to drain.
    pub(super) closed: [bool; 2],
    /// Sides that have let go of their own handle, or closed.
    pub(super) left: [bool; 2],
    /// Its link was cut. For the root.
    pub(super) cut: bool,
    /// Sides that refuse requests.
    pub(super) draining: [bool; 2],
    /// Sides that serve on it.
    pub(super) serves: [bool; 2],
    /// How many requests may run at each side, on all connections of the link. For the root.
    pub(super) most: [u32; 2],
    /// What the side that was asked has decided.
    pub(super) decision: Option<Decision>,
}

/// What was decided about a connection that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Accepted,
    Rejected(&'static str),
}

/// What is called. See `service`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Echo,
    Slow,
    Fail,
    Panic,
    Stall,
    Take,
    Units,
    Many,
    Give,
    Stream,
    Open,
    Both,
    Back,
    On,
    Through,
    Again,
    Unknown,
    Invalid,
    TooLong,
    LongAnswer,
    Twice,
    /// Made again and again, and run once.
    Marked,
    /// No call: a stream within one process.
    Within,
}

impl Kind {
    /// Whether a call of it can return what it is to return.
    fn may_succeed(self) -> bool {
        use Kind::*;
        !matches!(self, Fail | Panic | Stall | Again | Unknown | Invalid | TooLong | LongAnswer | Twice)
    }

    /// Whether its handler may refuse.
    fn may_say_no(self) -> bool {
        matches!(self, Kind::Fail | Kind::Back | Kind::On | Kind::Through)
    }

    /// Whether its handler may be the reason for an answer of `Cancelled`.
    fn may_break(self) -> bool {
        matches!(self, Kind::Panic | Kind::LongAnswer)
    }

    /// Whether its refusal is this one.
    fn may_be_refused(self, refusal: &Refusal) -> bool {
        match self {
            Kind::TooLong => matches!(refusal, Refusal::PayloadTooLarge { .. }),
            Kind::Twice | Kind::Again => matches!(refusal, Refusal::HandleInUse),
            Kind::Many => matches!(refusal, Refusal::TooManyStreams { .. }),
            Kind::Both | Kind::Open => matches!(refusal, Refusal::TooManyStreams { .. }),
            _ => false,
        }
    }

    /// Whether its answer opens streams.
    fn returns_streams(self) -> bool {
        matches!(self, Kind::Stream | Kind::Open)
    }

    /// Whether its handler is never to see the request.
    fn never_runs(self) -> bool {
        matches!(self, Kind::Again | Kind::Unknown | Kind::Invalid | Kind::TooLong | Kind::Twice)
    }
}

/// A call.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) kind: Kind,
    pub(super) conn: usize,
    /// The side that calls.
    pub(super) side: usize,
    pub(super) timeout: Option<Duration>,
    /// The call's own, or that of the handler that makes it.
    pub(super) deadline: Option<Instant>,
    /// The request that it repeats: the first call of it. For marked ones.
    pub(super) repeats: Option<usize>,
    /// It was made: what comes before it may have been dropped.
    pub(super) made: bool,
    pub(super) starts: u32,
    pub(super) returns: u32,
    pub(super) running: u32,
    pub(super) outcome: Option<Outcome>,
    /// Its caller gave it up before there was an answer: the callee is to be told.
    pub(super) owes_cancel: bool,
}

/// How a call went, for its caller.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Ok,
    User,
    UnknownMethod,
    InvalidPayload,
    Cancelled,
    TimedOut,
    InvalidResponse,
    Ended(LinkEnd),
    Refused(Refusal),
    /// Its caller dropped it.
    Dropped,
}

impl Outcome {
    pub(super) fn of<T, E>(result: &Result<T, CallError<E>>) -> Self {
        match result {
            Ok(_) => Outcome::Ok,
            Err(CallError::User(_)) => Outcome::User,
            Err(CallError::UnknownMethod) => Outcome::UnknownMethod,
            Err(CallError::InvalidPayload) => Outcome::InvalidPayload,
            Err(CallError::Cancelled) => Outcome::Cancelled,
            Err(CallError::TimedOut { .. }) => Outcome::TimedOut,
            Err(CallError::InvalidResponse(_)) => Outcome::InvalidResponse,
            Err(CallError::Ended(end)) => Outcome::Ended(end.clone()),
            Err(CallError::Refused(refusal)) => Outcome::Refused(refusal.clone()),
            // Nobody here rejects a call, hands one on, or makes one again.
            Err(
                CallError::Rejected { reason }
                | CallError::UpstreamEnded { reason }
                | CallError::Unanswered { reason },
            ) => panic!("{reason}"),
            Err(CallError::OutcomeUnknown { end }) => panic!("{end}"),
            Err(CallError::Unconnected { why, .. }) => panic!("{why}"),
            Err(CallError::CellEnded { cell, .. }) => panic!("no cell is called {cell}"),
        }
    }

    /// Whether the call's streams may be broken off for it.
    fn breaks_streams(&self) -> bool {
        !matches!(self, Outcome::Ok)
    }
}

/// A stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// The call that opened it.
    pub(super) op: usize,
    /// Elements that were sent for certain.
    pub(super) sent: u32,
    /// So many more may have been sent: the sink has one, or two are being sent at once.
    pub(super) maybe: u32,
    /// An element was tried that exceeds the window.
    pub(super) oversized: bool,
    /// Its sender was dropped.
    pub(super) tx_gone: bool,
    /// Its reader was dropped.
    pub(super) rx_gone: bool,
    pub(super) received: u32,
    pub(super) seen: Option<Seen>,
    /// Its sender was told that the receiver is gone.
    pub(super) turned_away: bool,
    /// Its sender or its reader was told that the connection is over.
    pub(super) cut_off: bool,
    /// Places at which two elements were sent at once: they may come the other way round.
    pub(super) pairs: BTreeSet<u32>,
    /// The second of such a pair came first.
    pub(super) swapped: bool,
}

impl Stream {
    /// Both of its handles are held, and nothing has broken it off.
    pub(super) fn is_open(&self) -> bool {
        !self.oversized && !self.tx_gone && !self.rx_gone && self.seen.is_none() && !self.turned_away
    }

    /// An element came: the places that it may have.
    pub(super) fn receive(&mut self) -> Places {
        let place = self.received;
        self.received += 1;
        if place > 0 && self.pairs.contains(&(place - 1)) {
            return if self.swapped { Places::One(place - 1) } else { Places::One(place) };
        }
        if self.pairs.contains(&place) { Places::Pair(place) } else { Places::One(place) }
    }
}

/// Where an element belongs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Places {
    One(u32),
    /// Here, or in the next place.
    Pair(u32),
}

/// How a stream ended for its reader.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    Closed,
    Reset,
    Ended(LinkEnd),
}

/// All of it.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) conns: Vec<ConnRecord>,
    pub(super) ops: Vec<Op>,
    pub(super) streams: Vec<Stream>,
    /// Requests beyond a low limit are refused in this world.
    pub(super) crowded: bool,
    /// No two Connects may be open in this world.
    pub(super) few_connections: bool,
    /// Streams beyond a low limit are refused in this world.
    pub(super) few_channels: bool,
}

type Judged = Result<(), String>;

fn judge(holds: bool, what: impl FnOnce() -> String) -> Judged {
    if holds { Ok(()) } else { Err(what()) }
}

/// What a deadline may be late: the timer counts milliseconds.
const LATE: Duration = Duration::from_millis(2);

impl Ledger {
    /// A connection is about to be opened.
    pub(super) fn connection(&mut self, link: usize, root: bool, serves: [bool; 2]) -> usize {
        let [closed, left, draining] = [[false; 2]; 3];
        let most = [u32::MAX; 2];
        self.conns.push(ConnRecord {
            link,
            root,
            cut: false,
            closed,
            left,
            draining,
            serves,
            most,
            decision: None,
        });
        self.conns.len() - 1
    }

    /// A call is about to be made.
    pub(super) fn call(&mut self, kind: Kind, conn: usize, side: usize) -> usize {
        self.ops.push(Op {
            kind,
            conn,
            side,
            timeout: None,
            deadline: None,
            repeats: None,
            made: false,
            starts: 0,
            returns: 0,
            running: 0,
            outcome: None,
            owes_cancel: false,
        });
        self.ops.len() - 1
    }

    /// A call is about to open a stream.
    pub(super) fn stream(&mut self, op: usize) -> usize {
        self.streams.push(Stream {
            op,
            sent: 0,
            maybe: 0,
            oversized: false,
            tx_gone: false,
            rx_gone: false,
            received: 0,
            seen: None,
            turned_away: false,
            cut_off: false,
            pairs: BTreeSet::new(),
            swapped: false,
        });
        self.streams.len() - 1
    }

    /// The root of a connection's link.
    fn root(&self, conn: usize) -> &ConnRecord {
        let link = self.conns[conn].link;
        self.conns.iter().find(|record| record.root && record.link == link).unwrap_or(&self.conns[conn])
    }

    /// Whether `side` has closed a connection, or its link.
    pub(super) fn is_closed(&self, conn: usize, side: usize) -> bool {
        self.conns[conn].closed[side] || self.root(conn).closed[side]
    }

    /// Whether `side` may see a connection end like this. `gone`: the link may end without a goodbye for it.
    pub(super) fn judge_end(&self, conn: usize, side: usize, end: &LinkEnd, gone: bool) -> Judged {
        let (record, root) = (&self.conns[conn], self.root(conn));
        let legal = match end {
            LinkEnd::Closed => root.closed[side],
            LinkEnd::Goodbye { reason } => reason.is_empty() && root.left[other(side)],
            LinkEnd::Gone => gone,
            LinkEnd::Connection(ConnectionEnd::Closed) => !record.root && record.closed[side],
            LinkEnd::Connection(ConnectionEnd::Goodbye { reason }) => {
                !record.root && reason.is_empty() && record.left[other(side)]
            }
            _ => false,
        };
        judge(legal, || format!("side {side} saw its end as {end:?}: {record:?}, its link's root {root:?}"))
    }

    /// Whether a call may go like this, now.
    pub(super) fn judge_outcome(&self, token: usize, outcome: &Outcome) -> Judged {
        let (op, now) = (&self.ops[token], Instant::now());
        let (kind, conn) = (op.kind, &self.conns[op.conn]);
        judge(op.outcome.is_none(), || format!("a second outcome, {outcome:?}, of {op:?}"))?;
        let over = op.deadline.is_some_and(|deadline| now >= deadline);
        let late = op.deadline.is_some_and(|deadline| now > deadline + LATE);
        judge(!late, || format!("{outcome:?} later than its deadline: {op:?}"))?;
        let served = conn.serves[other(op.side)];
        let root = self.root(op.conn);
        let draining = conn.draining[other(op.side)] || root.draining[other(op.side)];
        let (starts, returns) = self.runs(token);
        let legal = match outcome {
            Outcome::Ok if kind == Kind::Marked => starts == 1 && returns == 1,
            Outcome::Ok => kind.may_succeed() && op.starts == 1 && op.returns == 1,
            Outcome::User => kind.may_say_no() && op.starts == 1 && op.returns == 1,
            Outcome::UnknownMethod => (kind == Kind::Unknown || !served) && op.starts == 0,
            Outcome::InvalidPayload => kind == Kind::Invalid && op.starts == 0,
            Outcome::Cancelled => {
                (kind.may_break() && op.starts == 1)
                    // What became of the one run is not known: it was stopped.
                    || (kind == Kind::Marked && starts == 1 && returns == 0)
                    || over
                    || ((self.crowded || self.few_channels || draining) && op.starts == 0)
            }
            // Cancelled by the peer within a tick of the deadline is timed out, too: the peer has one of its own.
            Outcome::TimedOut => op.deadline.is_some_and(|deadline| now + TICK >= deadline),
            Outcome::Refused(refusal) => kind.may_be_refused(refusal) && op.starts == 0,
            Outcome::Ended(_) | Outcome::Dropped => true,
            Outcome::InvalidResponse => self.few_channels && kind.returns_streams() && op.starts == 1,
        };
        judge(legal, || format!("{outcome:?} of {op:?} on {conn:?}"))
    }

    /// Whether the handler of a call may start now.
    pub(super) fn judge_start(&self, token: usize) -> Judged {
        let op = &self.ops[token];
        let callee = other(op.side);
        let (conn, root) = (&self.conns[op.conn], self.root(op.conn));
        let drained = conn.draining[callee] || root.draining[callee];
        judge(!drained, || format!("a drained connection serves call {token}: {op:?}"))?;
        let (starts, _) = self.runs(token);
        judge(starts == 0, || format!("call {token} runs what has run before: {op:?}"))?;
        judge(conn.serves[callee], || format!("call {token} is served where nobody serves: {op:?}"))?;
        let at_once = self
            .ops
            .iter()
            .filter(|op| op.running > 0 && other(op.side) == callee && self.conns[op.conn].link == conn.link);
        let running = at_once.count() as u32;
        judge(running < root.most[callee], || {
            format!("{running} handlers run, and call {token} starts: {root:?}")
        })
    }

    /// How often the request of a call was started, and has returned, whichever of its calls did that.
    fn runs(&self, token: usize) -> (u32, u32) {
        let request = self.ops[token].repeats.unwrap_or(token);
        let calls = self.ops.iter().enumerate();
        let same = calls.filter(|(call, op)| op.repeats.unwrap_or(*call) == request);
        same.fold((0, 0), |(starts, returns), (_, op)| (starts + op.starts, returns + op.returns))
    }

    /// Whether a connection, or, for the root, one of its link, is meant by another one.
    pub(super) fn is_meant(&self, conn: usize, by: usize) -> bool {
        conn == by || (self.conns[by].root && self.conns[conn].link == self.conns[by].link)
    }

    /// The streams that are open on a connection, or, for the root, on its link.
    pub(super) fn open_streams(&self, conn: usize) -> Vec<usize> {
        let streams = self.streams.iter().enumerate();
        let open = streams.filter(|(_, stream)| {
            let op = &self.ops[stream.op];
            let remote = op.kind != Kind::Within && matches!(op.outcome, Some(Outcome::Ok));
            stream.is_open() && remote && self.is_meant(op.conn, conn)
        });
        open.map(|(id, _)| id).collect()
    }

    /// Whether a connection is drained for one of its sides: no handler of that side runs, and the streams that
    /// were open have come to their end.
    pub(super) fn judge_drained(&self, conn: usize, side: usize, streams: &[usize]) -> Judged {
        let runs = self
            .ops
            .iter()
            // One that may be asked for again outlives the connection that it came on.
            .filter(|op| op.kind != Kind::Marked || self.conns[op.conn].left == [false; 2])
            .find(|op| op.running > 0 && other(op.side) == side && self.is_meant(op.conn, conn));
        judge(runs.is_none(), || format!("connection {conn} is drained, and this runs: {runs:?}"))?;
        let open = streams.iter().find(|id| {
            let stream = &self.streams[**id];
            let on = self.ops[stream.op].conn;
            let left = |record: &ConnRecord| record.left != [false; 2];
            let (root, drained) = (self.root(conn), &self.conns[conn]);
            let other_reason = (on != conn && left(&self.conns[on]))
                || (!drained.root && left(root))
                || drained.left[other(side)]
                || root.cut;
            !other_reason && (stream.is_open() || stream.cut_off)
        });
        judge(open.is_none(), || format!("connection {conn} is drained, and stream {open:?} had not ended"))
    }

    /// Whether all that happened is legal, now that nothing happens any more.
    pub(super) fn judge_all(&self) -> Judged {
        for (token, op) in self.ops.iter().enumerate() {
            let outcome = match &op.outcome {
                Some(outcome) => outcome,
                None if op.made => return Err(format!("call {token} has no outcome: {op:?}")),
                None => &Outcome::Dropped,
            };
            judge(op.starts <= 1, || format!("call {token} ran more than once: {op:?}"))?;
            judge(op.running == 0, || format!("call {token} still runs: {op:?}"))?;
            let ran = op.starts > 0;
            let never = op.kind.never_runs() || matches!(outcome, Outcome::Refused(_));
            judge(!(never && ran), || format!("call {token} was refused, and ran: {op:?}"))?;
        }
        self.streams.iter().enumerate().try_for_each(|(id, stream)| {
            self.judge_stream(stream).map_err(|why| format!("stream {id} {why}: {stream:?}"))
        })
    }

    /// What has happened: calls that returned, by their kinds; other outcomes, ends of streams, and decisions, by
    /// their names.
    pub(super) fn happened(&self) -> impl Iterator<Item = String> {
        let outcomes = self.ops.iter().filter_map(|op| match op.outcome.as_ref()? {
            Outcome::Ok => Some(format!("{:?}", op.kind)),
            other => Some(name(other)),
        });
        let seen =
            self.streams.iter().filter_map(|stream| Some(format!("stream {}", name(stream.seen.as_ref()?))));
        outcomes.chain(seen).chain(self.conns.iter().filter_map(|conn| Some(name(conn.decision.as_ref()?))))
    }

    fn judge_stream(&self, stream: &Stream) -> Judged {
        let op = &self.ops[stream.op];
        let broken = op.outcome.as_ref().is_none_or(Outcome::breaks_streams);
        let most = stream.sent + stream.maybe;
        let text = |what: &str| format!("{what}, of {op:?}");
        judge(stream.received <= most, || text("brought more than was sent"))?;
        judge(!stream.turned_away || stream.rx_gone || broken, || {
            text("turned its sender away for nothing")
        })?;
        match &stream.seen {
            Some(Seen::Closed) => {
                judge(stream.received >= stream.sent, || text("ended before all of it was there"))?;
                judge(stream.tx_gone || broken, || text("ended before its sender did"))
            }
            Some(Seen::Reset) => judge(broken || stream.oversized, || text("was broken off for nothing")),
            Some(Seen::Ended(_)) | None => Ok(()),
        }
    }
}

/// The name of a variant.
fn name(variant: &impl std::fmt::Debug) -> String {
    let text = format!("{variant:?}");
    text.split(['(', ' ']).next().unwrap_or_default().to_owned()
}

/// What a send that failed says of its stream. `Ok`: it was the link's end.
pub(super) fn refused_send(stream: &mut Stream, error: SendError) -> Result<Option<LinkEnd>, String> {
    match error {
        SendError::Closed => {
            stream.turned_away = true;
            Ok(None)
        }
        SendError::Ended(end) => {
            stream.cut_off = true;
            Ok(Some(end))
        }
        SendError::Refused(Refusal::ElementTooLarge { .. } | Refusal::PayloadTooLarge { .. })
            if stream.oversized =>
        {
            Ok(None)
        }
        SendError::Refused(refusal) => Err(format!("a send was refused: {refusal:?}")),
    }
}

/// What the end of a stream is for its reader.
pub(super) fn seen(error: RecvError) -> Result<Seen, String> {
    match error {
        RecvError::Reset => Ok(Seen::Reset),
        RecvError::Ended(end) => Ok(Seen::Ended(end)),
        RecvError::InvalidElement(_) => Err("an element could not be read".to_owned()),
    }
}
