//! What the world's tasks do: calls and streams of all kinds, virtual connections, and the ways in which things end.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{
    chance::{Apart, Patience, dawdle, endure, millis, one_in, pick},
    ledger::{Decision, Kind, Outcome},
    service::{self, MANY_ELEMENTS, tag, tagged},
    streams::{At, Feeder, Item, Reader},
    world::{Conn, World},
};
use crate::rpc::{
    connect::ConnectOptions,
    connection::Drained,
    context::Context,
    dedup::Nonce,
    errors::{CallError, ConnectError, Never, Refusal},
    method::Method,
    rx::Rx,
    tx::{Tx, channel},
    waiters::lock,
    wire::Arguments,
};

/// A timeout that is never over.
const NEVER: Duration = Duration::from_secs(1_000_000);

/// Starts everything that happens in a world of so many links.
pub(super) fn start(world: &Arc<World>, links: usize) {
    for link in 0..links {
        for side in [0, 1] {
            for task in 0..fastrand::u32(0..4) {
                if let Some(conn) = world.root(link, side) {
                    let caller = Caller { world: Arc::clone(world), conn };
                    let name = format!("caller {task} of link {link}, side {side}");
                    world.spawn(name, caller.many(6));
                }
            }
        }
    }
    let (link, side) = (fastrand::usize(..links), fastrand::usize(..2));
    let fate =
        pick(&[Fate::Peace, Fate::Peace, Fate::Peace, Fate::Cut, Fate::Close, Fate::Drain, Fate::Leave]);
    world.note(|| format!("link {link}, side {side}: {fate:?}"));
    let fated = Arc::clone(world);
    world.spawn("fate".into(), async move {
        tokio::time::sleep(millis(0..=400)).await;
        fate.strike(&fated, link, side).await;
    });
}

/// What becomes of a link.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Peace,
    Cut,
    Close,
    Drain,
    /// Its root's handles go with the last task that has one.
    Leave,
}

impl Fate {
    async fn strike(self, world: &Arc<World>, link: usize, side: usize) {
        let Some(conn) = world.root(link, side) else { return };
        let caller = Caller { world: Arc::clone(world), conn };
        match self {
            Fate::Peace => {}
            Fate::Cut => world.cut(link),
            Fate::Close => caller.close().await,
            Fate::Drain => caller.drain().await,
            Fate::Leave => {
                drop(caller);
                world.release(link, side);
            }
        }
    }
}

/// Somebody who has a connection and makes use of it.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) world: Arc<World>,
    pub(super) conn: Conn,
}

/// A call whose caller has not seen its outcome.
struct Pending<'a> {
    world: &'a World,
    token: usize,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let known = lock(&self.world.ledger).ops[self.token].outcome.is_some();
        if !known {
            self.world.outcome(self.token, Outcome::Dropped);
        }
    }
}

impl Caller {
    /// Makes up to so many uses of the connection.
    async fn many(self, most: u32) {
        for _ in 0..=fastrand::u32(..most) {
            dawdle().await;
            self.something().await;
        }
    }

    async fn something(&self) {
        match fastrand::u32(..27) {
            0..3 => drop(self.plain().await),
            3 => self.fail().await,
            4 => self.unit(Kind::Panic, &service::PANIC).await,
            5 => self.unit(Kind::Stall, &service::STALL).await,
            6 => self.unit(Kind::Unknown, &service::UNKNOWN).await,
            7 => self.unreadable().await,
            8 => self.too_long().await,
            9 => self.twice().await,
            10 | 11 => self.take().await,
            12 => self.units().await,
            13 => self.take_many().await,
            14 => self.give().await,
            15 => self.stream().await,
            16 => self.open().await,
            17 => self.both().await,
            18 => self.calling(Kind::Back, &service::BACK).await,
            19 => self.on().await,
            20 => self.through().await,
            21 => {
                // Two at once; the one that is slower is dropped.
                let _ = endure(Patience::Polls(40), async {
                    tokio::join!(Apart::new(self.plain()), Apart::new(self.take()))
                })
                .await;
            }
            22 => self.within().await,
            23 => self.marked().await,
            24 => self.chat().await,
            _ => self.visit().await,
        }
    }

    /// A call is about to be made.
    fn begin(&self, kind: Kind) -> usize {
        let token = lock(&self.world.ledger).call(kind, self.conn.record, self.conn.side);
        let Conn { record, side, .. } = self.conn;
        self.world.note(|| format!("call {token}: {kind:?} on connection {record} by side {side}"));
        token
    }

    fn at(&self, token: usize) -> At {
        let stream = lock(&self.world.ledger).stream(token);
        At::new(&self.world, &self.conn, stream)
    }

    /// Makes a call, with or without a timeout, and stays to see its end, or not.
    async fn call<A, T, E>(
        &self,
        token: usize,
        method: &'static Method,
        arguments: A,
    ) -> Option<Result<T, CallError<E>>>
    where
        A: Arguments,
        T: DeserializeOwned + 'static,
        E: DeserializeOwned + 'static,
    {
        let world = &self.world;
        let stalls = lock(&world.ledger).ops[token].kind == Kind::Stall;
        let (mut timeout, mut patience) = (one_in(5).then(|| millis(0..=200)), Patience::random());
        if !stalls && one_in(10) {
            timeout = Some(NEVER);
        }
        if stalls && timeout.is_none() && !matches!(patience, Patience::Time(_)) {
            if one_in(2) {
                timeout = Some(millis(0..=200))
            } else {
                patience = Patience::Time(millis(0..=90))
            }
        }
        let mut call = self.conn.connection.call::<A, T, E>(method, arguments);
        if let Some(request) = lock(&world.ledger).ops[token].repeats {
            call = call.with_nonce(Nonce::from_bytes((request as u128).to_le_bytes()));
        }
        if let Some(timeout) = timeout {
            call = call.with_timeout(timeout);
        }
        {
            let inherited = Context::current().and_then(|context| context.deadline()).map(Instant::from_std);
            let own = timeout.map(|timeout| Instant::now() + timeout);
            let op = &mut lock(&world.ledger).ops[token];
            op.made = true;
            op.deadline = own.into_iter().chain(inherited).min();
            op.timeout = op.deadline.map(|deadline| deadline - Instant::now());
        }
        world.note(|| format!("call {token}: timeout {timeout:?}, patience {patience:?}"));
        let _waiting = world.wait(format!("the caller of call {token} ({})", method.name));
        let _pending = Pending { world, token };
        let result = endure(patience, call).await?;
        world.outcome(token, Outcome::of(&result));
        Some(result)
    }

    /// A call without streams. Whether it succeeded.
    pub(super) async fn plain(&self) -> Option<()> {
        let bytes = vec![7; pick(&[0, 1, 30, 250])];
        let (kind, method) =
            if one_in(2) { (Kind::Echo, &service::ECHO) } else { (Kind::Slow, &service::SLOW) };
        let token = self.begin(kind);
        let call = self.call::<_, Vec<u8>, Never>(token, method, (token as u64, bytes.clone()));
        let echoed = call.await?.ok()?;
        if echoed != bytes {
            self.world.fail(format!("call {token} returned something else"));
        }
        Some(())
    }

    /// A request that is made again, also while it runs, and also on another connection of the link.
    async fn marked(&self) {
        let first = self.begin(Kind::Marked);
        lock(&self.world.ledger).ops[first].repeats = Some(first);
        let link = self.world.link_of(self.conn.record);
        let root = self.world.root(link, self.conn.side).unwrap_or_else(|| self.conn.clone());
        let others = [self.clone(), Caller { world: Arc::clone(&self.world), conn: root }];
        let again = async {
            for caller in others {
                dawdle().await;
                let token = caller.begin(Kind::Marked);
                lock(&self.world.ledger).ops[token].repeats = Some(first);
                caller.mark(token, first).await;
            }
        };
        tokio::join!(Apart::new(self.mark(first, first)), Apart::new(again));
    }

    /// One call of a request that is marked.
    async fn mark(&self, token: usize, first: usize) {
        let called = self.call::<_, u64, Never>(token, &service::MARKED, (token as u64,)).await;
        let Some(Ok(ran)) = called else { return };
        let ran = lock(&self.world.ledger).ops.get(ran as usize).map(|op| (op.repeats, op.starts));
        if ran != Some((Some(first), 1)) {
            self.world.fail(format!("call {token} has the answer to another request, of {ran:?}"));
        }
    }

    /// Whether a call still goes through.
    pub(super) async fn probe(&self) -> bool {
        let token = self.begin(Kind::Echo);
        let call = self.conn.connection.call::<_, Vec<u8>, Never>(&service::ECHO, (token as u64, vec![1_u8]));
        let result = call.await;
        self.world.outcome(token, Outcome::of(&result));
        result.is_ok_and(|echoed| echoed == [1])
    }

    /// A call of a method that takes nothing and returns nothing, if it returns.
    async fn unit(&self, kind: Kind, method: &'static Method) {
        let token = self.begin(kind);
        self.call::<_, (), Never>(token, method, (token as u64,)).await;
    }

    async fn fail(&self) {
        let token = self.begin(Kind::Fail);
        if let Some(Err(CallError::User(said))) =
            self.call::<_, (), u64>(token, &service::FAIL, (token as u64,)).await
            && said != token as u64
        {
            self.world.fail(format!("call {token} was told something else"));
        }
    }

    /// Calls one behind the other. The only caller of a link looks for its answer itself.
    async fn chat(&self) {
        for _ in 0..fastrand::u32(..20) {
            self.plain().await;
        }
    }

    /// With arguments that its method does not take, a stream among them.
    async fn unreadable(&self) {
        let token = self.begin(Kind::Invalid);
        let (tx, rx) = channel::<Item>();
        let feeder = Feeder::new(self.at(token), tx);
        let call = self.call::<_, (), Never>(token, &service::FAIL, (token as u64, rx, 5_u8));
        tokio::join!(Apart::new(call), Apart::new(feeder.run(MANY_ELEMENTS)));
    }

    async fn too_long(&self) {
        let (_, longest) = self.world.limits(self.world.link_of(self.conn.record));
        if one_in(2) {
            let token = self.begin(Kind::TooLong);
            let bytes = vec![0; longest];
            self.call::<_, Vec<u8>, Never>(token, &service::ECHO, (token as u64, bytes)).await;
        } else {
            let token = self.begin(Kind::LongAnswer);
            let arguments = (token as u64, longest as u64);
            self.call::<_, Vec<u8>, Never>(token, &service::LONG_ANSWER, arguments).await;
        }
    }

    /// Both halves of one stream.
    async fn twice(&self) {
        let token = self.begin(Kind::Twice);
        let (tx, rx) = channel::<Item>();
        self.call::<_, (), Never>(token, &service::TWICE, (token as u64, rx, tx)).await;
    }

    /// A stream of which some may have been sent, and read, before its reader is passed on.
    async fn begun(&self, token: usize) -> (At, Feeder<Item>, Option<Rx<Item>>) {
        let at = self.at(token);
        let (tx, rx) = channel::<Item>();
        let mut feeder = Feeder::new(at.clone(), tx);
        let mut reader = Reader::new(at.clone(), rx);
        while one_in(3) && feeder.one().await {
            if one_in(3) && at.waits() {
                reader.one().await;
            }
        }
        (at, feeder, reader.into_rx())
    }

    async fn take(&self) {
        let token = self.begin(Kind::Take);
        let (at, feeder, rx) = self.begun(token).await;
        let Some(rx) = rx else { return };
        let arguments = (token as u64, at.stream as u64, rx);
        let call = self.call::<_, u32, Never>(token, &service::TAKE, arguments);
        let called = if one_in(5) {
            drop(feeder);
            call.await
        } else {
            tokio::join!(Apart::new(call), Apart::new(feeder.run(MANY_ELEMENTS))).0
        };
        self.counted(&at, called);
    }

    /// What the reader over there says that it got must be what it got.
    fn counted(&self, at: &At, called: Option<Result<u32, CallError>>) {
        let received = lock(&self.world.ledger).streams[at.stream].received;
        if let Some(Ok(count)) = called
            && count != received
        {
            self.world.fail(format!("stream {}: {count} were counted of {received}", at.stream));
        }
    }

    /// Elements of zero bytes.
    async fn units(&self) {
        let token = self.begin(Kind::Units);
        let at = self.at(token);
        let (tx, rx) = channel::<()>();
        let feeder = Feeder::new(at.clone(), tx);
        let arguments = (token as u64, at.stream as u64, rx);
        let call = self.call::<_, u32, Never>(token, &service::UNITS, arguments);
        let (called, ()) = tokio::join!(Apart::new(call), Apart::new(feeder.run(4 * MANY_ELEMENTS)));
        self.counted(&at, called);
    }

    async fn take_many(&self) {
        let token = self.begin(Kind::Many);
        let mut streams = Vec::new();
        for _ in 0..fastrand::u32(..5) {
            let at = self.at(token);
            let (tx, rx) = channel::<Item>();
            let feeder = Feeder::new(at.clone(), tx);
            self.world.spawn(format!("a feeder of call {token}"), feeder.run(MANY_ELEMENTS));
            streams.push((at.stream as u64, rx));
        }
        self.call::<_, (), Never>(token, &service::MANY, (token as u64, streams)).await;
    }

    async fn give(&self) {
        let token = self.begin(Kind::Give);
        let at = self.at(token);
        let (tx, rx) = channel::<Item>();
        let mut feeder = Feeder::new(at.clone(), tx);
        let reader = Reader::new(at.clone(), rx);
        while one_in(3) && feeder.one().await {}
        let Some(tx) = feeder.into_tx() else { return };
        let call = self.call::<_, (), Never>(token, &service::GIVE, (token as u64, at.stream as u64, tx));
        if one_in(6) {
            drop(reader);
            call.await;
        } else {
            tokio::join!(Apart::new(call), Apart::new(reader.run()));
        }
    }

    async fn stream(&self) {
        let token = self.begin(Kind::Stream);
        let at = self.at(token);
        let call = self.call::<_, Rx<Item>, Never>(token, &service::STREAM, (token as u64, at.stream as u64));
        let Some(Ok(rx)) = call.await else { return };
        if one_in(6) {
            return self.again(&at, rx).await;
        }
        Reader::new(at, rx).run().await;
    }

    /// A reader that came from the peer cannot be passed on.
    async fn again(&self, at: &At, rx: Rx<Item>) {
        let token = self.begin(Kind::Again);
        at.reader_is_gone();
        self.call::<_, u32, Never>(token, &service::TAKE, (token as u64, at.stream as u64, rx)).await;
    }

    async fn open(&self) {
        let token = self.begin(Kind::Open);
        let (out, back) = (self.at(token), self.at(token));
        let arguments = (token as u64, out.stream as u64, back.stream as u64);
        let call = self.call::<_, (Rx<Item>, Tx<Item>), Never>(token, &service::OPEN, arguments);
        if let Some(Ok((rx, tx))) = call.await {
            let (reader, feeder) = (Reader::new(out, rx), Feeder::new(back, tx));
            tokio::join!(Apart::new(reader.run()), Apart::new(feeder.run(MANY_ELEMENTS)));
        }
    }

    async fn both(&self) {
        let token = self.begin(Kind::Both);
        let (into, back) = (self.at(token), self.at(token));
        let ((tx, theirs), (back_tx, rx)) = (channel::<Item>(), channel::<Item>());
        let arguments = (token as u64, into.stream as u64, theirs, back.stream as u64, back_tx);
        let call = self.call::<_, (), Never>(token, &service::BOTH, arguments);
        let (feeder, reader) = (Feeder::new(into, tx), Reader::new(back, rx));
        tokio::join!(Apart::new(call), Apart::new(feeder.run(MANY_ELEMENTS)), Apart::new(reader.run()));
    }

    /// A stream whose halves both stay here, and take more than its window.
    async fn within(&self) {
        let token = self.begin(Kind::Within);
        lock(&self.world.ledger).ops[token].outcome = Some(Outcome::Ok);
        let at = self.at(token);
        let (tx, rx) = channel::<Item>();
        let (feeder, reader) = (Feeder::new(at.clone(), tx), Reader::new(at, rx));
        tokio::join!(Apart::new(feeder.run(8 * MANY_ELEMENTS)), Apart::new(reader.run()));
    }

    async fn calling(&self, kind: Kind, method: &'static Method) {
        let token = self.begin(kind);
        self.call::<_, (), u64>(token, method, (token as u64,)).await;
    }

    /// A call whose handler calls the next session.
    async fn on(&self) {
        let token = self.begin(Kind::On);
        let link = self.world.link_of(self.conn.record) as u64;
        self.call::<_, (), u64>(token, &service::ON, (token as u64, link)).await;
    }

    /// A stream that the handler passes on to the next session. Only downwards: two that meet would wait for each
    /// other where a table has few slots.
    async fn through(&self) {
        let token = self.begin(Kind::Through);
        let at = self.at(token);
        let (tx, rx) = channel::<Item>();
        let arguments = (token as u64, at.stream as u64, rx);
        let call = self.call::<_, (), u64>(token, &service::THROUGH, arguments);
        let feeder = Feeder::new(at, tx);
        tokio::join!(Apart::new(call), Apart::new(feeder.run(MANY_ELEMENTS)));
    }

    /// Takes what comes and passes it on. Whether that went well.
    pub(super) async fn pass_on(&self, mut reader: Reader<Item>) -> Option<()> {
        let token = self.begin(Kind::Take);
        let at = self.at(token);
        let (tx, rx) = channel::<Item>();
        let arguments = (token as u64, at.stream as u64, rx);
        let mut feeder = Feeder::new(at, tx);
        let call = self.call::<_, u32, Never>(token, &service::TAKE, arguments);
        let pass = async move { while reader.one().await && feeder.one().await {} };
        tokio::join!(Apart::new(call), Apart::new(pass)).0?.ok().map(drop)
    }

    /// Opens a virtual connection, makes use of it, and ends it.
    fn visit(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.visit_now()) // which visits in turn
    }

    async fn visit_now(&self) {
        let (world, side) = (&self.world, self.conn.side);
        let mut serves = [false; 2];
        serves[side] = !one_in(8);
        let link = world.link_of(self.conn.record);
        let record = lock(&world.ledger).connection(link, false, serves);
        world.note(|| format!("connection {record}: asked for by side {side} of link {link}"));
        let mut options = ConnectOptions::new().metadata(tagged(record));
        if serves[side] {
            options = options.serve(world.service(link, side));
        }
        let waiting = world.wait(format!("who asks for connection {record}"));
        let connected = endure(Patience::random(), self.conn.connection.connect(options)).await;
        drop(waiting);
        let connection = match connected {
            Some(Ok(connection)) => connection,
            Some(Err(error)) => return self.not_connected(record, &error),
            None => return lock(&world.ledger).conns[record].left[side] = true,
        };
        let accepted = lock(&world.ledger).conns[record].decision == Some(Decision::Accepted);
        if !accepted || tag(connection.metadata()) != Some(record) {
            world.fail(format!("connection {record} is open: accepted {accepted}, {connection:?}"));
        }
        let caller = Caller { world: Arc::clone(world), conn: Conn { connection, record, side } };
        if one_in(3) {
            world.spawn(format!("a second caller on connection {record}"), caller.clone().many(3));
        }
        caller.clone().many(4).await;
        caller.leave().await;
    }

    /// What the connection's other side does with it.
    pub(super) async fn host(self) {
        if one_in(3) {
            self.clone().many(3).await;
        }
        if one_in(3) {
            return self.leave().await;
        }
        let end = self.conn.connection.closed().await;
        self.world.ended(self.conn.record, self.conn.side, &end);
        lock(&self.world.ledger).conns[self.conn.record].left[self.conn.side] = true;
    }

    /// Ends a connection in one of the ways there are.
    async fn leave(self) {
        match fastrand::u32(..4) {
            0 => self.close().await,
            1 => self.drain().await,
            _ => {
                let Conn { record, side, .. } = self.conn;
                self.world.note(|| format!("connection {record}: side {side} lets go"));
                lock(&self.world.ledger).conns[record].left[side] = true;
            }
        }
    }

    fn not_connected(&self, record: usize, error: &ConnectError) {
        let world = &self.world;
        world.note(|| format!("connection {record}: {error:?}"));
        let (few, decision, nobody) = {
            let ledger = lock(&world.ledger);
            let conn = &ledger.conns[record];
            (ledger.few_connections, conn.decision.clone(), conn.decision.is_none())
        };
        let legal = match error {
            ConnectError::Ended(end) => return world.ended(record, self.conn.side, end),
            ConnectError::Refused(Refusal::TooManyConnections { .. }) => few && nobody,
            ConnectError::Rejected { reason, .. } => match decision {
                Some(Decision::Rejected(said)) => said == reason,
                Some(Decision::Accepted) => false,
                None => reason == "not listening" || (few && reason.starts_with("too many")),
            },
            _ => false,
        };
        if !legal {
            world.fail(format!("connection {record}, of which {decision:?} was decided: {error:?}"));
        }
    }

    /// Closes the connection.
    async fn close(&self) {
        let Conn { record, side, connection } = &self.conn;
        self.world.note(|| format!("connection {record}: side {side} closes it"));
        self.closing(false);
        connection.close().await;
        let end = connection.end();
        self.is_over(end.as_ref());
    }

    /// The connection will be closed by this side.
    fn closing(&self, drains: bool) {
        let mut ledger = lock(&self.world.ledger);
        let record = &mut ledger.conns[self.conn.record];
        record.closed[self.conn.side] = true;
        record.left[self.conn.side] = true;
        record.draining[self.conn.side] |= drains;
    }

    fn is_over(&self, end: Option<&crate::LinkEnd>) {
        match end {
            Some(end) => self.world.ended(self.conn.record, self.conn.side, end),
            None => self.world.fail(format!("connection {} is closed, and open", self.conn.record)),
        }
    }

    /// Ends the connection gracefully.
    async fn drain(&self) {
        let Conn { record, side, connection } = &self.conn;
        let patience = millis(0..=300);
        self.world.note(|| format!("connection {record}: side {side} drains it for {patience:?}"));
        self.closing(true);
        let _waiting = self.world.wait(format!("who drains connection {record}"));
        let (began, streams) = (Instant::now(), lock(&self.world.ledger).open_streams(*record));
        let drained = self.drained(patience).await;
        let took = began.elapsed();
        let legal = match drained {
            Drained::Complete => {
                let judged = lock(&self.world.ledger).judge_drained(*record, *side, &streams);
                self.world.fail_if(judged);
                took <= patience + millis(2..=2)
            }
            Drained::TimedOut => took >= patience && took <= patience + millis(2..=2),
            Drained::Ended => true,
        };
        if !legal {
            self.world.fail(format!("a drain of {patience:?} was {drained:?} after {took:?}"));
        }
        self.is_over(connection.end().as_ref());
    }

    /// Drains the connection, and sees to it that this is over as soon as nothing is open, or it has ended.
    async fn drained(&self, patience: Duration) -> Drained {
        let connection = &self.conn.connection;
        let mut draining = pin!(connection.drain(patience));
        let mut was_quiet = false;
        loop {
            if let Ok(drained) = tokio::time::timeout(millis(1..=1), draining.as_mut()).await {
                return drained;
            }
            let quiet = connection.end().is_some()
                || lock(&connection.hub().session).is_quiet(connection.state().key);
            if quiet && was_quiet {
                let record = self.conn.record;
                self.world.fail(format!("nothing is open on connection {record}, and it is drained on"));
            }
            was_quiet = quiet;
        }
    }
}
