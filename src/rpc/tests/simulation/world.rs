//! The world of one seed: its links, what its tasks share, and what must hold when they are done.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    future::Future,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Waker},
    thread,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    chance::{Tardy, millis, one_in, pick},
    ledger::{Ledger, Outcome},
    link::{Wire, other},
    load::{self, Caller},
    service::{Service, on_connect},
};
use crate::{
    error::LinkEnd,
    rpc::{
        connection::Connection,
        dedup::Deduplicate,
        hub::Hub,
        options::Options,
        waiters::{lock, try_lock},
    },
    session::{
        answer::Verdict,
        connections::{ConnKey, TooMany},
    },
    settings::Settings,
};

/// What all tasks of a world share. One thread runs them all, so that no lock here is ever waited for.
pub(super) struct World {
    started: Instant,
    /// `None`: nobody wants to read it.
    trace: Option<Mutex<Vec<String>>>,
    failure: Mutex<Option<String>>,
    /// Something failed, or the last task is done.
    news: Notify,
    steps: AtomicU64,
    /// The tasks of the world, and what they wait for.
    tasks: Mutex<Tasks>,
    pub(super) ledger: Mutex<Ledger>,
    links: Mutex<Vec<Arc<Link>>>,
    /// What is served, by link and side: on all of its connections the same.
    services: Mutex<BTreeMap<(usize, usize), Deduplicate<Service>>>,
}

#[derive(Default)]
struct Tasks {
    next: u64,
    open: BTreeMap<u64, String>,
}

/// A link and what the world holds of its two ends.
struct Link {
    wire: Arc<Wire>,
    /// The record of its root.
    root: usize,
    handles: Mutex<[Option<Connection>; 2]>,
    hubs: [Weak<Hub>; 2],
}

/// A connection as one side of it has it.
#[derive(Clone)]
pub(super) struct Conn {
    pub(super) connection: Connection,
    /// In the ledger.
    pub(super) record: usize,
    pub(super) side: usize,
}

/// Link operations of one seed at most: a hundred times more than any takes.
const STEPS: u64 = 2_000_000;
/// Virtual time after which what still waits waits for good. Nothing here sleeps for more than a second at a time.
const HANG: Duration = Duration::from_secs(3600);
/// Virtual time in which everything settles that nobody waits for.
const SETTLE: Duration = Duration::from_secs(60);

impl World {
    pub(super) fn new(traced: bool) -> Arc<Self> {
        Arc::new(World {
            started: Instant::now(),
            trace: traced.then(Mutex::default),
            failure: Mutex::default(),
            news: Notify::new(),
            steps: AtomicU64::new(0),
            tasks: Mutex::default(),
            ledger: Mutex::default(),
            links: Mutex::default(),
            services: Mutex::default(),
        })
    }

    /// Writes a line of the trace.
    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let at = self.started.elapsed().as_millis();
            lock(trace).push(format!("{at:>6} ms  {}", line()));
        }
    }

    pub(super) fn take_trace(&self) -> Vec<String> {
        self.trace.as_ref().map(|trace| std::mem::take(&mut *lock(trace))).unwrap_or_default()
    }

    /// The trace's last lines, unless there is none, or whoever writes it hangs.
    pub(super) fn last_lines(&self, most: usize) -> Vec<String> {
        let Some(trace) = self.trace.as_ref().and_then(try_lock) else { return Vec::new() };
        trace.iter().skip(trace.len().saturating_sub(most)).cloned().collect()
    }

    /// Something is not as it must be. The first of these is what is reported.
    pub(super) fn fail(&self, what: String) {
        self.note(|| format!("FAILED: {what}"));
        lock(&self.failure).get_or_insert(what);
        self.news.notify_one();
    }

    pub(super) fn fail_if(&self, judged: Result<(), String>) {
        if let Err(what) = judged {
            self.fail(what);
        }
    }

    pub(super) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// A link was asked to do something: bounded, so that a world that never comes to rest fails, too.
    pub(super) fn step(&self) {
        let steps = self.steps.fetch_add(1, Relaxed); // Relaxed: counted by one thread
        if steps == STEPS {
            self.fail("it never comes to rest".into());
        }
        // Once, and not in what is dropped for it.
        assert!(steps < 2 * STEPS || thread::panicking(), "one poll never comes to rest");
    }

    /// Starts a task of the world, which is waited for.
    pub(super) fn spawn(self: &Arc<Self>, what: String, task: impl Future<Output = ()> + Send + 'static) {
        let waiting = self.wait(what);
        drop(tokio::spawn(Tardy::new(async move {
            task.await;
            drop(waiting);
        })));
    }

    /// Somebody waits for something, until what is returned is dropped.
    pub(super) fn wait(self: &Arc<Self>, what: String) -> Waiting {
        let mut tasks = lock(&self.tasks);
        let id = tasks.next;
        tasks.next += 1;
        tasks.open.insert(id, what);
        Waiting { world: Arc::clone(self), id }
    }

    fn links(&self) -> Vec<Arc<Link>> {
        lock(&self.links).clone()
    }

    fn link(&self, index: usize) -> Arc<Link> {
        Arc::clone(&lock(&self.links)[index])
    }

    /// What a side of a link serves.
    pub(super) fn service(self: &Arc<Self>, link: usize, side: usize) -> Deduplicate<Service> {
        let new = || Deduplicate::new(Service { world: Arc::clone(self), side });
        lock(&self.services).entry((link, side)).or_insert_with(new).clone()
    }

    /// Lets go of the links and the services, which know the world.
    pub(super) fn close(&self) {
        let links = std::mem::take(&mut *lock(&self.links));
        let services = std::mem::take(&mut *lock(&self.services));
        drop((links, services));
    }

    /// The connection on which the middle session goes on calling: what came on `link` goes out on the other one.
    pub(super) fn next(&self, link: usize, side: usize) -> Option<Conn> {
        let (next, next_side) = match (link, side) {
            (0, 1) => (1, 0),
            (1, 0) => (0, 1),
            _ => return None,
        };
        self.root(next, next_side)
    }

    /// A link's root, while the world holds it.
    pub(super) fn root(&self, link: usize, side: usize) -> Option<Conn> {
        let link = lock(&self.links).get(link).cloned()?;
        let connection = lock(&link.handles)[side].clone()?;
        Some(Conn { connection, record: link.root, side })
    }

    /// Lets go of the world's own handle of a link's root.
    pub(super) fn release(&self, link: usize, side: usize) {
        let link = self.link(link);
        lock(&self.ledger).conns[link.root].left[side] = true;
        let handle = lock(&link.handles)[side].take();
        drop(handle);
    }

    pub(super) fn cut(&self, link: usize) {
        let link = self.link(link);
        lock(&self.ledger).conns[link.root].cut = true;
        link.wire.cut();
    }

    /// The window and the longest payload of a link.
    pub(super) fn limits(&self, link: usize) -> (usize, usize) {
        let limits = self.link(link).wire.limits;
        (limits.initial_channel_credit as usize, limits.max_payload_size as usize)
    }

    /// The link of a connection.
    pub(super) fn link_of(&self, conn: usize) -> usize {
        lock(&self.ledger).conns[conn].link
    }

    /// A connection ended like this for one side.
    pub(super) fn ended(&self, conn: usize, side: usize, end: &LinkEnd) {
        let wire = &self.link(self.link_of(conn)).wire;
        let peer = other(side);
        // Who lets go says goodbye, and what it said last gets through, unless it was cut off.
        let gone = wire.is_cut() || !wire.is_faithful(peer);
        self.fail_if(lock(&self.ledger).judge_end(conn, side, end, gone));
    }

    /// A call went like this for its caller.
    pub(super) fn outcome(&self, token: usize, outcome: Outcome) {
        self.note(|| format!("call {token}: {outcome:?}"));
        let (conn, side) = {
            let mut ledger = lock(&self.ledger);
            let judged = ledger.judge_outcome(token, &outcome);
            let op = &mut ledger.ops[token];
            op.outcome = Some(outcome.clone());
            let place = (op.conn, op.side);
            let given_up = matches!(outcome, Outcome::Dropped | Outcome::TimedOut);
            let link = ledger.conns[place.0].link;
            let wire = Arc::clone(&self.link(link).wire);
            ledger.ops[token].owes_cancel = given_up && lock(&wire.notary).is_in_flight(token as u64);
            drop(ledger);
            self.fail_if(judged);
            place
        };
        if let Outcome::Ended(end) = &outcome {
            self.ended(conn, side, end);
        }
    }

    /// Everything from the first connection to the last trace of it.
    pub(super) async fn run(self: &Arc<Self>) {
        self.open_links();
        load::start(self, self.links().len());
        self.until_done().await;
        if self.failure().is_some() {
            return;
        }
        tokio::time::sleep(SETTLE).await;
        self.probe().await;
        self.judge_calm();
        let mut ends: Vec<_> = (0..self.links().len()).flat_map(|link| [(link, 0), (link, 1)]).collect();
        fastrand::shuffle(&mut ends);
        for (link, side) in ends {
            self.release(link, side);
            if one_in(3) {
                tokio::time::sleep(millis(0..=100)).await;
            }
        }
        tokio::time::sleep(SETTLE).await;
        self.judge_end();
    }

    fn open_links(self: &Arc<Self>) {
        let links = 1 + usize::from(one_in(3));
        let crowded = one_in(5);
        let few_connections = one_in(5);
        let few_channels = one_in(5);
        {
            let mut ledger = lock(&self.ledger);
            (ledger.crowded, ledger.few_connections) = (crowded, few_connections);
            ledger.few_channels = few_channels;
        }
        let opened = (0..links).map(|link| {
            let wire = Wire::new(Arc::clone(self), link);
            let root = lock(&self.ledger).connection(link, true, [true; 2]);
            let handles = [0, 1].map(|side| {
                let mut settings = Settings::default().window_growth(wire.growth);
                if crowded {
                    let most = pick(&[1, 2, 4]);
                    settings = settings.max_concurrent_requests(most);
                    lock(&self.ledger).conns[root].most[side] = most;
                }
                if few_connections {
                    settings = settings.max_connections(pick(&[0, 1, 2]));
                }
                if few_channels {
                    settings = settings.max_channels(pick(&[2, 3, 8]));
                }
                let mut options = Options::new().settings(settings).serve(self.service(link, side));
                if !one_in(8) {
                    let world = Arc::clone(self);
                    options = options.on_connect(move |incoming| on_connect(&world, side, incoming));
                }
                Connection::start(wire.parts(side), &options)
            });
            let hubs = [0, 1].map(|side: usize| Arc::downgrade(handles[side].hub()));
            wire.set_hubs(hubs.clone());
            Arc::new(Link { wire, root, handles: Mutex::new(handles.map(Some)), hubs })
        });
        let opened = opened.collect();
        *lock(&self.links) = opened;
    }

    /// Waits until all tasks of the world are done. They never are if anybody waits for good: then virtual time
    /// runs out, since nothing else is left to be done.
    async fn until_done(&self) {
        let done = async {
            while !lock(&self.tasks).open.is_empty() && self.failure().is_none() {
                self.news.notified().await;
            }
        };
        if tokio::time::timeout(HANG, done).await.is_err() {
            let mut text = "these wait for good:".to_owned();
            for (id, what) in &lock(&self.tasks).open {
                let _ = write!(text, "\n  task {id}: {what}");
            }
            self.fail(text);
        }
    }

    /// Whatever happened before: where a link is open, both sides are served.
    async fn probe(self: &Arc<Self>) {
        for index in (0..self.links().len()).filter(|index| self.link(*index).is_open()) {
            for side in [0, 1] {
                if let Some(conn) = self.root(index, side) {
                    let caller = Caller { world: Arc::clone(self), conn };
                    if tokio::time::timeout(HANG, caller.probe()).await != Ok(true) {
                        self.fail(format!("link {index} is open, and serves side {side} no more"));
                    }
                }
            }
        }
        tokio::time::sleep(SETTLE).await; // for what goes back and forth behind the answers
    }

    /// Nothing runs, and nothing may be open but the roots.
    fn judge_calm(&self) {
        for (index, link) in self.links().iter().enumerate() {
            let hubs = [0, 1].map(|side: usize| link.hubs[side].upgrade());
            let open = hubs.iter().flatten().filter(|hub| hub.ended().is_none()).count();
            if open == 0 {
                continue;
            }
            if open == 1 {
                self.fail(format!("link {index} is over for one side only"));
            }
            for (side, hub) in hubs.iter().flatten().enumerate() {
                self.fail_if(judge_hub(hub).map_err(|what| format!("link {index}, side {side}: {what}")));
            }
            if let Some(left) = link.wire.under_way().or(lock(&link.wire.notary).unanswered()) {
                self.fail(format!("link {index} is calm, and this is left: {left}"));
            }
            self.fail_if(link.wire.judge_table());
        }
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let live = self.links().into_iter().filter(|link| link.is_open());
        let expected: usize = live.map(|link| 2 + link.wire.couriers()).sum();
        if tasks != expected {
            self.fail(format!("{tasks} tasks are left where {expected} carry the links"));
        }
        self.judge_ledger();
    }

    /// All handles are gone: so is everything.
    fn judge_end(&self) {
        for (index, link) in self.links().iter().enumerate() {
            for (side, hub) in link.hubs.iter().enumerate() {
                if let Some(hub) = hub.upgrade() {
                    let end = hub.ended();
                    self.fail(format!("link {index}, side {side} is held by nobody and there: {end:?}"));
                }
            }
        }
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        if tasks != 0 {
            self.fail(format!("{tasks} tasks are left of links that are over"));
        }
        self.judge_ledger();
    }

    fn judge_ledger(&self) {
        let ledger = lock(&self.ledger);
        self.fail_if(ledger.judge_all());
        for (token, op) in ledger.ops.iter().enumerate().filter(|(_, op)| op.owes_cancel) {
            let wire = &self.link(ledger.conns[op.conn].link).wire;
            if !wire.is_cut() && lock(&wire.notary).lacks_cancel(token as u64) {
                self.fail(format!("the callee was never told that nobody waits for call {token}: {op:?}"));
            }
        }
        // An answer that was handed out is what its caller gets, whatever happens next.
        for link in self.links() {
            for (token, verdict) in lock(&link.wire.notary).answered() {
                let op = &ledger.ops[token as usize];
                let fits = match op.outcome {
                    // It may have come after this side closed the connection, whose goodbye was parked.
                    Some(Outcome::Ended(_)) => ledger.is_closed(op.conn, op.side),
                    None => false,
                    Some(Outcome::Ok) => verdict == Verdict::Ok,
                    _ => true,
                };
                if !fits {
                    self.fail(format!("call {token} was answered {verdict:?}: {op:?}"));
                }
            }
        }
    }
}

impl Link {
    fn is_open(&self) -> bool {
        self.hubs.iter().any(|hub| hub.upgrade().is_some_and(|hub| hub.ended().is_none()))
    }
}

/// Nothing may be open on a link's end, and nothing parked.
fn judge_hub(hub: &Hub) -> Result<(), String> {
    let mut session = lock(&hub.session);
    if !session.is_quiet(ConnKey::ROOT) {
        return Err("calls, requests or channels are left".into());
    }
    if session.deadlines.next().is_some() {
        return Err("a deadline is left".into());
    }
    if let Err(TooMany { limit: 1.. }) = session.connections.check_limit() {
        return Err("there are no connections, and there is no room for one".into());
    }
    let open = session.end();
    if open.connections.len() != 1 || !open.connects.is_empty() {
        let (connections, connects) = (open.connections.len() - 1, open.connects.len());
        return Err(format!("{connections} connections and {connects} connects are left"));
    }
    drop(session);
    let flushed = lock(&hub.out).poll_flushed(&mut Context::from_waker(Waker::noop()));
    if flushed.is_ready() { Ok(()) } else { Err("messages are left to be sent".into()) }
}

/// Somebody who waits; see [`World::wait`].
pub(super) struct Waiting {
    world: Arc<World>,
    id: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut tasks = lock(&self.world.tasks);
        tasks.open.remove(&self.id);
        if tasks.open.is_empty() {
            self.world.news.notify_one();
        }
    }
}
