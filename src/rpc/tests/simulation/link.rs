//! The simulated link: two queues of encoded messages, with limits, delays and a cut.
//!
//! ```text
//!   send ──> outbox ──publish or flush──> flying ──its time comes──> arrived ──drain──> the peer
//! ```
//!
//! A message is held as the library's codec writes it. Order within a direction is kept, as every link promises;
//! all else is left to chance, within what `link/mod.rs` lets a link do. It is strict where it may be: nobody is
//! woken but those who were promised to be, and by nothing else than what they wait for.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, OnceLock, Weak},
    task::{Context, Poll, Waker},
};

use tokio::{sync::Notify, time::Instant};

use super::{
    chance::{millis, one_in, pick},
    notary::Notary,
    table::{Table, TableEnd},
    world::World,
};
use crate::{
    error::LinkEnd,
    link::{
        Body, ChannelRef, CreditTable, Head, Interrupt, Limits, Message, Parts, Publish, Receiver, Role,
        SendFault, Sender, Sink, Watcher,
        codec::{decode_message, encode_head, message_limit},
        message::encode_into,
    },
    rpc::{hub::Hub, waiters::lock},
};

/// One of the two directions, by the side that sends: 0 is the initiator.
type Side = usize;

/// The other side.
pub(super) const fn other(side: Side) -> Side {
    1 - side
}

/// A link of the world.
pub(super) struct Wire {
    world: Arc<World>,
    /// Which of the world's links it is.
    pub(super) index: usize,
    pub(super) limits: Limits,
    /// By how many bytes either side lets windows grow.
    pub(super) growth: u32,
    pipes: [Pipe; 2],
    pub(super) notary: Mutex<Notary>,
    table: Option<Arc<Table>>,
    /// Callers may receive, too.
    shared: bool,
    hubs: OnceLock<[Weak<Hub>; 2]>,
}

/// How one direction behaves.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// Bytes that may wait, unless nothing does.
    capacity: usize,
    /// The longest that a message is on its way, in milliseconds. `None`: it is there at once.
    delay: Option<u64>,
    /// As a socket: what is sent goes out when the driver flushes.
    buffered: bool,
    /// The most that one drain hands out.
    batch: usize,
    /// Says "full" once in so many times though there is room. `0`: never.
    moody: u32,
}

impl Manner {
    fn random() -> Self {
        Manner {
            capacity: pick(&[1, 40, 200, 1000, 20_000]),
            delay: pick(&[None, Some(0), Some(3), Some(40)]),
            buffered: one_in(2),
            batch: pick(&[1, 2, 5, 100]),
            moody: pick(&[0, 0, 5, 30]),
        }
    }
}

/// One direction.
struct Pipe {
    manner: Manner,
    state: Mutex<State>,
    /// Tells the courier that something was published, or that the end has come.
    published: Notify,
}

/// A message as it waits: its bytes, and the channels with their slots, which the codec does not carry.
struct Packet {
    bytes: Vec<u8>,
    channels: Vec<ChannelRef>,
}

#[derive(Default)]
struct State {
    outbox: VecDeque<Packet>,
    flying: VecDeque<(Instant, Packet)>,
    arrived: VecDeque<Packet>,
    /// Who sends has let go: behind what is on its way comes the end.
    closed: bool,
    /// Who receives has let go.
    deaf: bool,
    /// It was cut: who sends learns of it.
    cut: bool,
    /// What was sent has been lost.
    lost: bool,
    /// The receiver's driver, asleep.
    receiver: Option<Waker>,
    /// The sender's driver, which waits for room for so many bytes.
    sender: Option<(usize, Waker)>,
}

impl State {
    /// Bytes that wait for the receiver.
    fn under_way(&self) -> usize {
        let flying = self.flying.iter().map(|(_, packet)| packet);
        flying.chain(&self.arrived).map(|packet| packet.bytes.len()).sum()
    }

    fn in_outbox(&self) -> usize {
        self.outbox.iter().map(|packet| packet.bytes.len()).sum()
    }

    /// Whether nothing more will arrive.
    fn is_over(&self) -> bool {
        (self.closed || self.cut) && self.flying.is_empty() && self.arrived.is_empty()
    }
}

/// Whether `len` bytes may join those that wait: any may that find nothing waiting.
fn fits(waiting: usize, len: usize, capacity: usize) -> bool {
    waiting == 0 || waiting + len <= capacity
}

impl Wire {
    /// A link between two sides, as one of the seed's chances.
    pub(super) fn new(world: Arc<World>, index: usize) -> Arc<Self> {
        let window = pick(&[16, 64, 300, 1500, 9000]);
        let payload = pick(&[300, 2000, 20_000]).max(window);
        let growth = pick(&[0, window, 20 * window]);
        let table = one_in(3).then(|| Table::new(pick(&[2, 4, 16, 200])));
        let pipe = || Pipe { manner: Manner::random(), state: Mutex::default(), published: Notify::new() };
        let wire = Arc::new(Wire {
            index,
            limits: Limits { max_payload_size: payload, initial_channel_credit: window },
            pipes: [pipe(), pipe()],
            notary: Mutex::new(Notary::new(window.into(), growth.into(), table.clone())),
            growth,
            table,
            shared: one_in(2),
            hubs: OnceLock::new(),
            world,
        });
        wire.world.note(|| {
            let table = wire.table.as_ref().map(|table| table.capacity());
            format!(
                "link {index}: {:?}, growth {growth}, table {table:?}, shared {}",
                wire.limits, wire.shared
            )
        });
        for from in [0, 1] {
            let manner = wire.pipes[from].manner;
            wire.world.note(|| format!("link {index} from {from}: {manner:?}"));
            if manner.delay.is_some() {
                drop(tokio::spawn(carry(Arc::clone(&wire), from)));
            }
        }
        wire
    }

    /// What one side gets of it.
    pub(super) fn parts(self: &Arc<Self>, side: Side) -> Parts {
        let role = if side == 0 { Role::Initiator } else { Role::Acceptor };
        let table = self.table.as_ref().map(|table| Arc::new(TableEnd::new(Arc::clone(table), side)));
        Parts {
            role,
            limits: self.limits,
            sender: Box::new(SimSender {
                wire: Arc::clone(self),
                side,
                refused: 0,
                starved: false,
                driver: None,
                head: Vec::new(),
                channels: Vec::new(),
                payload: Vec::new(),
            }),
            receiver: Box::new(SimReceiver {
                wire: Arc::clone(self),
                from: other(side),
                asleep: true,
                driver: None,
                channels: Vec::new(),
            }),
            lending: None,
            watcher: table.clone().map(|table| Box::new(Bell(table)) as Box<dyn Watcher>),
            credit: table.map(|table| table as Arc<dyn CreditTable>),
            interrupt: self.shared.then(|| Arc::new(NobodySleeps) as Arc<dyn Interrupt>),
        }
    }

    /// The hubs that were made of its parts, by side.
    pub(super) fn set_hubs(&self, hubs: [Weak<Hub>; 2]) {
        let _ = self.hubs.set(hubs);
    }

    /// Couriers that this link has on the road while it is open.
    pub(super) fn couriers(&self) -> usize {
        self.pipes.iter().filter(|pipe| pipe.manner.delay.is_some()).count()
    }

    /// Cuts the link: each direction loses what is on its way, or lets it arrive. Nothing more gets through.
    pub(super) fn cut(&self) {
        for (from, pipe) in self.pipes.iter().enumerate() {
            let mut state = lock(&pipe.state);
            state.cut = true;
            let lose = one_in(2);
            self.world.note(|| format!("link {} from {from}: cut, what flies is lost: {lose}", self.index));
            if lose {
                state.flying.clear();
                state.arrived.clear();
            }
            state.lost |= lose || !state.outbox.is_empty();
            state.outbox.clear();
            self.look_again(pipe, state);
        }
    }

    /// Whether it was cut.
    pub(super) fn is_cut(&self) -> bool {
        lock(&self.pipes[0].state).cut
    }

    /// Whether everything that `from` sent gets there, as far as one can tell by now.
    pub(super) fn is_faithful(&self, from: Side) -> bool {
        !lock(&self.pipes[from].state).lost
    }

    /// Nothing is open: no slot may be taken.
    pub(super) fn judge_table(&self) -> Result<(), String> {
        let taken = self.table.as_ref().map_or([0, 0], |table| [0, 1].map(|side| table.taken(side)));
        if taken == [0, 0] { Ok(()) } else { Err(format!("link {}: slots are taken: {taken:?}", self.index)) }
    }

    /// What is on its way, if anything is.
    pub(super) fn under_way(&self) -> Option<String> {
        for (from, pipe) in self.pipes.iter().enumerate() {
            let state = lock(&pipe.state);
            let waiting = (state.outbox.len(), state.flying.len(), state.arrived.len());
            if waiting != (0, 0, 0) {
                let index = self.index;
                return Some(format!("link {index} from {from}: outbox, flying, arrived {waiting:?}"));
            }
        }
        None
    }

    /// Both ends look: it is over.
    fn look_again(&self, pipe: &Pipe, mut state: std::sync::MutexGuard<'_, State>) {
        let wakers = [state.receiver.take(), state.sender.take().map(|(_, waker)| waker)];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
        pipe.published.notify_one();
    }

    /// Whether `side` knows that nobody listens any more. It learns that behind the peer's last words, as on a
    /// socket or in memory: what the peer said before it closed is there to be read.
    fn is_hopeless(&self, side: Side) -> bool {
        let (out, into) = (lock(&self.pipes[side].state), lock(&self.pipes[other(side)].state));
        (out.deaf || out.cut) && (into.cut || into.closed) && into.flying.is_empty()
    }

    /// Takes from the outbox what there is room for under way. Whether all of it went.
    fn push_out(&self, from: Side) -> bool {
        let pipe = &self.pipes[from];
        let mut state = lock(&pipe.state);
        if state.deaf || state.cut {
            state.lost |= !state.outbox.is_empty();
            state.outbox.clear(); // into the void
            return true;
        }
        let mut pushed = false;
        while let Some(packet) = state.outbox.front() {
            let bounded = pipe.manner.buffered && !fits(state.under_way(), packet.bytes.len(), 2000);
            if bounded {
                break;
            }
            let Some(packet) = state.outbox.pop_front() else { break };
            pushed = true;
            match pipe.manner.delay {
                None => state.arrived.push_back(packet),
                Some(most) => {
                    let at = Instant::now() + millis(0..=most);
                    let last = state.flying.back().map_or(at, |(last, _)| at.max(*last));
                    state.flying.push_back((last, packet));
                }
            }
        }
        let all = state.outbox.is_empty();
        let receiver = if state.arrived.is_empty() { None } else { state.receiver.take() };
        drop(state);
        receiver.into_iter().for_each(Waker::wake);
        if pushed {
            pipe.published.notify_one();
        }
        all
    }

    /// One message, decoded, goes to `look`.
    fn decoded(
        &self,
        packet: &Packet,
        room: &mut Vec<ChannelRef>,
        look: impl FnOnce(Message<'_>) -> bool,
    ) -> bool {
        match decode_message(&packet.bytes, room) {
            Ok(message) => look(Message { channels: &packet.channels, ..message }),
            Err(violation) => {
                self.world.fail(format!("link {}: what was sent does not decode: {violation}", self.index));
                false
            }
        }
    }
}

/// Carries what one direction has published, each message at its time.
async fn carry(wire: Arc<Wire>, from: Side) {
    let pipe = &wire.pipes[from];
    loop {
        match pipe.land() {
            Next::At(at) => drop(tokio::time::timeout_at(at, pipe.published.notified()).await),
            Next::Unknown => pipe.published.notified().await,
            Next::Over => return,
        }
    }
}

/// When there is something to be carried.
enum Next {
    At(Instant),
    Unknown,
    Over,
}

impl Pipe {
    /// The first of what flies, if anything does, arrives before its time. Whoever is to be woken is returned.
    fn land_early(&self) -> Option<Waker> {
        let mut state = lock(&self.state);
        if let Some((_, packet)) = state.flying.pop_front() {
            state.arrived.push_back(packet);
        }
        state.receiver.take()
    }

    /// What flies and whose time has come arrives.
    fn land(&self) -> Next {
        let mut state = lock(&self.state);
        let (now, mut landed) = (Instant::now(), false);
        while let Some((at, _)) = state.flying.front()
            && *at <= now
        {
            let Some((_, packet)) = state.flying.pop_front() else { break };
            state.arrived.push_back(packet);
            landed = true;
        }
        let next = match state.flying.front() {
            Some((at, _)) => Next::At(*at),
            None if state.closed || state.cut => Next::Over,
            None => Next::Unknown,
        };
        let tells = landed || matches!(next, Next::Over);
        let receiver = if tells { state.receiver.take() } else { None };
        drop(state);
        receiver.into_iter().for_each(Waker::wake);
        next
    }
}

struct SimSender {
    wire: Arc<Wire>,
    side: Side,
    /// The message, in bytes, that was refused last.
    refused: usize,
    /// It was said that there is no room, and nobody was known to be told when there is.
    starved: bool,
    driver: Option<Waker>,
    head: Vec<u8>,
    channels: Vec<ChannelRef>,
    payload: Vec<u8>,
}

impl SimSender {
    fn pipe(&self) -> &Pipe {
        &self.wire.pipes[self.side]
    }

    /// Whether `len` bytes may be sent.
    fn takes(&self, len: usize) -> bool {
        let (manner, state) = (self.pipe().manner, lock(&self.pipe().state));
        let beyond = if manner.buffered { 0 } else { state.under_way() };
        fits(state.in_outbox() + beyond, len, manner.capacity)
    }
}

impl Sender for SimSender {
    fn send(&mut self, head: &Head<'_>, body: &mut dyn Body) -> Result<usize, SendFault> {
        let world = Arc::clone(&self.wire.world);
        world.step();
        if self.wire.is_hopeless(self.side) {
            return Err(SendFault::Ended(LinkEnd::Gone));
        }
        let len = encode_into(body, &mut self.payload, &mut self.channels).map_err(SendFault::Encode)?;
        self.head.clear();
        encode_head(head, &self.channels, len, &mut self.head);
        let (message, limit) = (self.head.len() + len, message_limit(self.wire.limits.max_payload_size));
        if message > limit {
            return Err(SendFault::TooLarge { len: message, limit, setting: "max_payload_size" });
        }
        let moody = self.pipe().manner.moody;
        if !self.takes(message) || (moody > 0 && one_in(moody)) {
            self.refused = message;
            return Err(SendFault::Full);
        }
        let bytes = [&self.head, &self.payload[..len]].concat();
        let packet = Packet { bytes, channels: self.channels.clone() };
        let (wire, side) = (&self.wire, self.side);
        wire.decoded(&packet, &mut Vec::new(), |message| {
            world.note(|| format!("link {} from {side}: sends {message:?}", wire.index));
            if let Err(wrong) = lock(&wire.notary).sent(side, &message) {
                world.fail(format!("link {} from {side}: {wrong}: {:?}", wire.index, message.head));
            }
            true
        });
        lock(&self.pipe().state).outbox.push_back(packet);
        if !self.pipe().manner.buffered && one_in(8) {
            self.wire.push_out(side); // "at publish or before"
        }
        Ok(len)
    }

    fn publish(&mut self) -> Publish {
        let manner = self.pipe().manner;
        if manner.buffered {
            let state = lock(&self.pipe().state);
            // While it waits for the peer to read, the driver is woken for that.
            let nothing = state.outbox.is_empty() || state.sender.is_some();
            return if nothing { Publish::Done } else { Publish::Flush };
        }
        self.wire.push_out(self.side);
        Publish::Done
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkEnd>> {
        self.wire.world.step();
        if !self.pipe().manner.buffered {
            if !self.driver.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                self.driver = Some(cx.waker().clone());
                if mem::take(&mut self.starved) {
                    cx.waker().wake_by_ref(); // there may be room by now
                }
            }
            return Poll::Ready(Ok(()));
        }
        if self.wire.is_hopeless(self.side) {
            return Poll::Ready(Err(LinkEnd::Gone));
        }
        let all = self.wire.push_out(self.side);
        let mut state = lock(&self.pipe().state);
        if all {
            state.sender = None;
            return Poll::Ready(Ok(()));
        }
        let next = state.outbox.front().map_or(0, |packet| packet.bytes.len());
        state.sender = Some((next, cx.waker().clone()));
        Poll::Pending
    }

    fn has_room(&mut self) -> Result<bool, LinkEnd> {
        self.wire.world.step();
        if self.wire.is_hopeless(self.side) {
            return Err(LinkEnd::Gone);
        }
        let room = self.takes(self.refused);
        if !self.pipe().manner.buffered {
            self.starved = !room;
            let driver = self.driver.clone().filter(|_| !room);
            lock(&self.pipe().state).sender = driver.map(|driver| (self.refused, driver));
        }
        Ok(room)
    }
}

impl Drop for SimSender {
    fn drop(&mut self) {
        if !self.pipe().manner.buffered {
            self.wire.push_out(self.side);
        }
        let mut state = lock(&self.pipe().state);
        state.closed = true;
        state.lost |= !state.outbox.is_empty();
        state.outbox.clear();
        state.sender = None;
        self.wire.look_again(self.pipe(), state);
    }
}

struct SimReceiver {
    wire: Arc<Wire>,
    from: Side,
    asleep: bool,
    /// The task that is woken for what arrives.
    driver: Option<Waker>,
    channels: Vec<ChannelRef>,
}

impl SimReceiver {
    fn pipe(&self) -> &Pipe {
        &self.wire.pipes[self.from]
    }

    /// Takes the next message that has arrived; whoever waits for the room that it took is woken.
    fn next(&self) -> Option<Packet> {
        let manner = self.pipe().manner;
        let mut state = lock(&self.pipe().state);
        let packet = state.arrived.pop_front()?;
        let waiting = if manner.buffered { 0 } else { state.in_outbox() } + state.under_way();
        let capacity = if manner.buffered { 2000 } else { manner.capacity };
        let there_is_room = state.sender.as_ref().is_some_and(|(len, _)| fits(waiting, *len, capacity));
        let sender = if there_is_room { state.sender.take() } else { None };
        drop(state);
        if let Some((_, waker)) = sender {
            waker.wake();
        }
        Some(packet)
    }
}

impl Receiver for SimReceiver {
    fn drain(&mut self, sink: &mut dyn Sink) -> Result<usize, LinkEnd> {
        let world = Arc::clone(&self.wire.world);
        world.step();
        let (most, mut count) = (fastrand::usize(1..=self.pipe().manner.batch), 0);
        while count < most
            && let Some(packet) = self.next()
        {
            count += 1;
            let (wire, from) = (Arc::clone(&self.wire), self.from);
            let goes_on = wire.decoded(&packet, &mut self.channels, |message| {
                world.note(|| format!("link {} from {from}: arrives {:?}", wire.index, message.head));
                if let Err(wrong) = lock(&wire.notary).arrived(from, &message) {
                    world.fail(format!("link {} from {from}: {wrong}: {:?}", wire.index, message.head));
                }
                sink.message(message)
            });
            if !goes_on {
                break;
            }
        }
        if count == 0 && lock(&self.pipe().state).is_over() {
            return Err(LinkEnd::Gone);
        }
        Ok(count)
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, sink: &mut dyn Sink) -> Poll<Result<usize, LinkEnd>> {
        self.asleep = true;
        self.driver = Some(cx.waker().clone());
        if one_in(30) {
            self.asleep = false; // as one that spins
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.drain(sink)? {
            0 => {
                lock(&self.pipe().state).receiver = Some(cx.waker().clone());
                Poll::Pending
            }
            count => Poll::Ready(Ok(count)),
        }
    }

    fn asleep(&self) -> bool {
        self.asleep
    }

    /// A caller has the role, in the middle of a turn: nobody else can send meanwhile.
    fn spin(&mut self) -> bool {
        !lock(&self.pipe().state).arrived.is_empty()
    }

    /// Behind the last look a message may arrive, or the peer may ring for another reason, which wakes the driver
    /// while the role is still taken. It would run on another thread then. Here is what it does there, without the
    /// thread: it looks for the role, and sleeps again. It was woken, so that nothing will wake it for what comes.
    fn hand_back(&mut self) -> bool {
        let arrived = {
            let mut state = lock(&self.pipe().state);
            state.receiver.clone_from(&self.driver);
            !state.arrived.is_empty()
        };
        let hub = self.wire.hubs.get().and_then(|hubs| hubs[other(self.from)].upgrade());
        if let Some(hub) = hub
            && one_in(2)
            && self.pipe().land_early().is_some()
            && hub.take_role().is_some()
        {
            self.wire.world.fail("two have the receive role".into());
        }
        arrived
    }
}

/// No thread sleeps on the link.
struct NobodySleeps;

impl Interrupt for NobodySleeps {
    fn interrupt(&self) {}
}

impl Drop for SimReceiver {
    fn drop(&mut self) {
        let mut state = lock(&self.pipe().state);
        state.deaf = true;
        state.flying.clear();
        state.arrived.clear();
        state.receiver = None;
        self.wire.look_again(self.pipe(), state);
    }
}

/// The driver's watch on the table: the peer granted what somebody waits for.
struct Bell(Arc<TableEnd>);

impl Watcher for Bell {
    fn poll_rung(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkEnd>> {
        self.0.poll_rung(cx).map(Ok)
    }
}
