//! What everybody who works on one link shares: its session, its way out, its receive role.
//!
//! | lock | guards | held for |
//! |---|---|---|
//! | `session` | which calls, requests and channels are open | a look-up, or one Request or Response |
//! | `out` | the sender, and what is parked before it | one message |
//! | `receive` | the receive role | one drain |
//!
//! Order: `receive`, `session`, `out`, a channel's state. A stream's element takes `out` alone. No
//! application code runs under a lock but the `Serialize` of what is being sent. All locks are the link's
//! own: links do not contend with each other.

use std::{
    mem,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};

use tokio::{runtime::Handle, sync::Notify, task::AbortHandle};

use super::{
    block::is_blocking,
    channel::{Channel, End, Passed, Remote},
    connection::{Connection, Guard},
    dispatch::ServiceDispatcher,
    errors::Blocked,
    outgoing::Outgoing,
    scope::Bound,
    slot::{CallSlot, Outcome},
    waiters::{Waiters, lock, wake_all},
};
use crate::{
    error::{LinkEnd, Violation},
    link::{
        Body, ChannelRef, CreditSlot, CreditTable, EncodeFault, Head, Interrupt, Limits, Publish, Receiver,
        SendFault, Sink, message::NoBody,
    },
    session::{
        Ends, Session,
        credit::{Grant, SendWindow},
        deadlines::Due,
    },
};

/// The ends of a session in this library.
pub(crate) struct Local;

impl Ends for Local {
    type Call = Arc<CallSlot>;
    type Channel = Arc<Channel>;
    type Handler = AbortHandle;
}

/// One link. See the module's documentation.
pub(crate) struct Hub {
    pub(crate) limits: Limits,
    pub(crate) session: Mutex<Session<Local>>,
    pub(crate) out: Mutex<Outgoing>,
    pub(crate) receive: Mutex<Box<dyn Receiver>>,
    /// `None` on links that grant by messages, and after the end.
    credit: RwLock<Option<Arc<dyn CreditTable>>>,
    pub(crate) interrupt: Option<Arc<dyn Interrupt>>,
    /// Who waits for room in the link.
    room: Mutex<Waiters>,
    /// Who waits for one of the link's channels to become free.
    slots: Mutex<Waiters>,
    /// Channels whose senders wait for credit that comes without a message.
    starving: Mutex<Vec<Starving>>,
    starving_any: AtomicBool,
    driver: Mutex<Option<Waker>>,
    callers: Mutex<Callers>,
    spare: Mutex<Vec<u8>>,
    /// The driver has been woken to flush, and has not done so yet.
    flush_due: AtomicBool,
    pub(crate) runtime: Handle,
    pub(crate) dispatcher: Option<Arc<dyn ServiceDispatcher>>,
    /// What the driver is to end the link with.
    ending: OnceLock<LinkEnd>,
    /// How the link ended, once it has.
    ended: OnceLock<LinkEnd>,
    /// Tells those who wait for the end.
    closed: Notify,
    guard: OnceLock<Weak<Guard>>,
}

/// A channel whose senders wait for credit.
struct Starving {
    channel: Arc<Channel>,
    /// What was granted when the first of them began to wait.
    granted: u64,
}

impl Starving {
    /// Whether nobody waits any more, since the channel is over. Takes the wait back then.
    fn is_over(&self, table: &dyn CreditTable) -> bool {
        if self.channel.is_over()
            && let Some(remote) = self.channel.remote()
        {
            table.stop_waiting(remote.reference.slot);
        }
        self.channel.is_over()
    }
}

/// Who called last, and how often in a row.
#[derive(Default)]
struct Callers {
    last: Option<Waker>,
    in_a_row: u32,
}

/// Channels that one message can open.
const MAX_CHANNELS: usize = u16::MAX as usize;

/// Calls in a row that make a task the only caller of its link.
const ALONE: u32 = 4;

/// The parts that a hub is made of.
pub(crate) struct HubParts {
    pub(crate) limits: Limits,
    pub(crate) session: Session<Local>,
    pub(crate) out: Outgoing,
    pub(crate) receiver: Box<dyn Receiver>,
    pub(crate) credit: Option<Arc<dyn CreditTable>>,
    pub(crate) interrupt: Option<Arc<dyn Interrupt>>,
    pub(crate) runtime: Handle,
    pub(crate) dispatcher: Option<Arc<dyn ServiceDispatcher>>,
}

impl Hub {
    pub(crate) fn new(parts: HubParts) -> Arc<Self> {
        Arc::new(Hub {
            limits: parts.limits,
            session: Mutex::new(parts.session),
            out: Mutex::new(parts.out),
            receive: Mutex::new(parts.receiver),
            credit: RwLock::new(parts.credit),
            interrupt: parts.interrupt,
            room: Mutex::default(),
            slots: Mutex::default(),
            starving: Mutex::default(),
            starving_any: AtomicBool::new(false),
            driver: Mutex::new(None),
            callers: Mutex::default(),
            spare: Mutex::default(),
            flush_due: AtomicBool::new(false),
            runtime: parts.runtime,
            dispatcher: parts.dispatcher,
            ending: OnceLock::new(),
            ended: OnceLock::new(),
            closed: Notify::new(),
            guard: OnceLock::new(),
        })
    }

    /// Names the handle whose last clone keeps the link open.
    pub(crate) fn set_guard(&self, guard: Weak<Guard>) {
        let _ = self.guard.set(guard);
    }

    /// A handle for what arrives; `None` while the link is closing.
    pub(crate) fn connection(&self) -> Option<Connection> {
        self.guard.get()?.upgrade().map(Connection::from_guard)
    }

    // ---- sending

    /// `flow.call.payload-limit`, on the sender's side.
    pub(crate) fn check_payload(&self, len: usize) -> Result<(), EncodeFault> {
        let limit = self.limits.max_payload_size as usize;
        if len > limit { Err(EncodeFault::PayloadTooLarge { len, limit }) } else { Ok(()) }
    }

    /// A message that opens more channels than this side may ever have open would wait for good.
    pub(crate) fn check_channels(&self, count: usize) -> Result<(), EncodeFault> {
        let limit = self.table().map_or(MAX_CHANNELS, |table| table.capacity().min(MAX_CHANNELS));
        if count > limit { Err(EncodeFault::TooManyChannels { count, limit }) } else { Ok(()) }
    }

    /// Sends an element, and counts it against its channel's credit.
    pub(crate) fn send_element(
        &self,
        head: &Head<'_>,
        body: &mut dyn Body,
        credit: &SendWindow,
    ) -> Result<(), SendFault> {
        let mut out = lock(&self.out);
        self.check_open()?;
        let len = self.noted(out.send(head, body))?;
        credit.sent(len);
        self.publish_soon(&mut out);
        Ok(())
    }

    /// Sees to it that a fault that ends the link does so, whoever found it.
    pub(crate) fn noted<T>(&self, sent: Result<T, SendFault>) -> Result<T, SendFault> {
        if let Err(SendFault::Ended(end)) = &sent {
            self.request_end(end.clone());
        }
        sent
    }

    /// Sends what nobody waits for; it is parked when the link is full, and lost when it is gone.
    pub(crate) fn send_or_park(&self, head: &Head<'_>) {
        let mut out = lock(&self.out);
        if self.check_open().is_ok() {
            if let Err(fault) = self.noted(out.send_or_park(head, &mut NoBody)) {
                tracing::debug!(?fault, ?head, "a message was not sent");
            }
            self.publish_soon(&mut out);
        }
    }

    /// Makes what was sent visible to the peer: in batches on a runtime, where the driver's turn comes as soon
    /// as the sending task waits; at once from a plain thread, for which waking the driver is a system call.
    pub(crate) fn publish_soon(&self, out: &mut Outgoing) {
        self.published(if is_blocking() { out.publish() } else { out.publish_soon() });
    }

    /// Sees to it that what was published gets out.
    pub(crate) fn published(&self, publish: Publish) {
        // Relaxed: only whether somebody woke the driver already; the messages are behind the lock of `out`.
        // Looked at first: an exchange is a locked instruction.
        if publish == Publish::Flush
            && !self.flush_due.load(Ordering::Relaxed)
            && !self.flush_due.swap(true, Ordering::Relaxed)
        {
            self.wake_driver();
        }
    }

    pub(crate) fn check_open(&self) -> Result<(), SendFault> {
        self.ended.get().map_or(Ok(()), |end| Err(SendFault::Ended(end.clone())))
    }

    // ---- waiting

    /// Remembers a task that found something in its way. The caller tries once more afterwards.
    pub(crate) fn wait_for(&self, blocked: Blocked, waker: &Waker) {
        match blocked {
            Blocked::Slot => self.wait_for_slot(waker),
            // Only elements need credit, and their senders wait for it on their channel.
            Blocked::Room | Blocked::Credit { .. } => self.wait_for_room(waker),
        }
    }

    /// Remembers a task that found the link full. The caller tries once more afterwards.
    pub(crate) fn wait_for_room(&self, waker: &Waker) {
        lock(&self.room).add(waker);
        // Asking leaves word with the peer, so that the driver is woken when there is room.
        let driver = self.driver_waker();
        if !matches!(lock(&self.out).want_room(&mut Context::from_waker(&driver)), Ok(false)) {
            self.wake_driver();
        }
    }

    /// Remembers a task that found all channels in use. The caller tries once more afterwards.
    pub(crate) fn wait_for_slot(&self, waker: &Waker) {
        lock(&self.slots).add(waker);
    }

    /// Remembers a sender without credit. The caller tries once more afterwards.
    pub(crate) fn wait_for_credit(&self, channel: &Arc<Channel>, remote: &Remote) {
        let Some(table) = self.table() else { return };
        let mut starving = lock(&self.starving);
        if !starving.iter().any(|known| Arc::ptr_eq(&known.channel, channel)) {
            starving.push(Starving { channel: Arc::clone(channel), granted: remote.credit.granted() });
        }
        self.starving_any.store(true, Ordering::Relaxed); // under the lock of `starving`
        table.await_credit(remote.reference.slot);
    }

    /// Looks what was granted without a message.
    pub(crate) fn refresh_credit(&self, remote: &Remote) {
        let Some(table) = self.table() else { return };
        match table.granted(remote.reference.slot, remote.credit.granted()) {
            Ok(Some(total)) => remote.credit.granted_total(total),
            Ok(None) => {}
            Err(end) => self.request_end(end),
        }
    }

    /// Wakes those whose wait may be over: for room, and for credit without a message. Called by whoever
    /// holds the receive role, after it received and again before it sleeps.
    pub(crate) fn wake_waiting(&self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        self.flush_due.store(false, Ordering::Relaxed); // what comes from now on wakes the driver again
        if lock(&self.out).poll_room(cx)? {
            let wakers = lock(&self.room).take();
            wake_all(wakers);
        }
        if self.starving_any.load(Ordering::Relaxed) {
            self.wake_granted();
        }
        Ok(())
    }

    fn wake_granted(&self) {
        let Some(table) = self.table() else { return };
        let mut woken = Vec::new();
        let mut starving = lock(&self.starving);
        // Those that are over first: the slot of one may be another's by now, and what is taken back for the
        // first is taken back for the second.
        let before = starving.len();
        starving.retain(|waiter| !waiter.is_over(&*table));
        let again = starving.len() < before;
        starving.retain(|waiter| {
            let Some(remote) = waiter.channel.remote() else { return false };
            if again {
                table.await_credit(remote.reference.slot);
            }
            self.refresh_credit(remote);
            // Another sender of the same stream may have looked, and taken some, in between.
            let stays = remote.credit.granted() <= waiter.granted;
            if !stays {
                table.stop_waiting(remote.reference.slot);
                woken.push(Arc::clone(&waiter.channel));
            }
            stays
        });
        self.starving_any.store(!starving.is_empty(), Ordering::Relaxed); // under the lock of `starving`
        drop(starving);
        woken.iter().for_each(|channel| channel.wake_writers());
    }

    /// Whether others than the driver may take the receive role. On links whose receiver is woken through the
    /// driver's task they may not: a wake-up would find the role taken, and be lost.
    pub(crate) fn can_share_receiving(&self) -> bool {
        self.interrupt.is_some()
    }

    /// The driver's task, as it polls.
    pub(crate) fn set_driver(&self, waker: &Waker) {
        let mut driver = lock(&self.driver);
        match &mut *driver {
            Some(known) => known.clone_from(waker),
            None => *driver = Some(waker.clone()),
        }
    }

    pub(crate) fn driver_waker(&self) -> Waker {
        lock(&self.driver).clone().unwrap_or_else(|| Waker::noop().clone())
    }

    pub(crate) fn wake_driver(&self) {
        if let Some(waker) = &*lock(&self.driver) {
            waker.wake_by_ref();
        }
    }

    /// Returns the receive role to the driver. The lock goes before the wake: a driver that is woken and finds
    /// the role taken goes to sleep again, for good.
    pub(crate) fn return_role(&self, mut receiver: MutexGuard<'_, Box<dyn Receiver>>) {
        let arrived = receiver.hand_back();
        drop(receiver);
        if arrived || self.ending().is_some() {
            self.wake_driver();
        }
    }

    /// Whether a task whose call is the only one in flight is the only caller, too: its last [`ALONE`] calls
    /// were the last of their kind on the link. Were it to wait for its answer in place while others want to
    /// call, those would be let in one at a time.
    pub(crate) fn is_only_caller(&self, caller: &Waker) -> bool {
        let mut callers = lock(&self.callers);
        match &mut callers.last {
            Some(last) if last.will_wake(caller) => callers.in_a_row = callers.in_a_row.saturating_add(1),
            last => {
                *last = Some(caller.clone());
                callers.in_a_row = 0;
            }
        }
        callers.in_a_row >= ALONE
    }

    /// An empty buffer for elements, with the room that the last one had.
    pub(crate) fn take_spare(&self) -> Vec<u8> {
        mem::take(&mut lock(&self.spare))
    }

    /// Takes it back.
    pub(crate) fn keep_spare(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= 4 * self.limits.initial_channel_credit as usize {
            buffer.clear();
            *lock(&self.spare) = buffer;
        }
    }

    // ---- channels

    /// The table of credit that both peers see.
    pub(crate) fn table(&self) -> Option<Arc<dyn CreditTable>> {
        self.credit.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The slot of credit for a channel that this side opens.
    pub(crate) fn allot(&self) -> Option<CreditSlot> {
        self.table().map_or(Some(CreditSlot::NONE), |table| table.allot())
    }

    /// Returns a slot; whoever waits for one may try again.
    pub(crate) fn give_back(&self, slot: CreditSlot) {
        if let Some(table) = self.table() {
            table.give_back(slot);
            let wakers = lock(&self.slots).take();
            wake_all(wakers);
        }
    }

    /// What a handle that was passed in a message becomes: a channel of this link. To be called under the
    /// locks of session and `out`, before anything can be sent behind the message.
    pub(crate) fn adopt(
        self: &Arc<Self>,
        connection: &Connection,
        conn_id: u64,
        bound: Bound,
        reference: ChannelRef,
    ) {
        let window = self.limits.initial_channel_credit;
        if let Some(table) = self.table() {
            table.open(reference.slot, u64::from(window));
        }
        let credit = SendWindow::new(window);
        let remote = Remote { hub: Arc::clone(self), conn_id, reference, window, own: true, credit };
        let Bound { pass, half, unread, .. } = bound;
        let Some(channel) = pass.used() else { return };
        match channel.passed(half, remote, connection.clone(), unread) {
            Passed::Done => {}
            Passed::Pump(queued) => {
                drop(self.runtime.spawn(super::tx::pump(channel, queued, connection.clone())))
            }
            // Its reader is gone. Not at once: the locks are held.
            Passed::Reset => drop(self.runtime.spawn(async move {
                if let Some(remote) = channel.remote() {
                    remote.hub.reset_channel(remote);
                }
            })),
        }
    }

    /// A channel's local end is done with it: its id is spent. Whether it was still open.
    pub(crate) fn forget_channel(&self, remote: &Remote) -> bool {
        let open = lock(&self.session).forget_channel(remote.conn_id, remote.reference.id);
        if open && remote.own {
            self.give_back(remote.reference.slot);
        }
        open
    }

    /// Breaks a channel off, unless it is over.
    pub(crate) fn reset_channel(&self, remote: &Remote) {
        if self.forget_channel(remote) {
            self.send_or_park(&Head::Reset { conn_id: remote.conn_id, channel_id: remote.reference.id });
        }
    }

    /// Closes a channel that this side sends, unless it is over.
    pub(crate) fn close_channel(&self, remote: &Remote) {
        if self.forget_channel(remote) {
            self.send_or_park(&Head::Close { conn_id: remote.conn_id, channel_id: remote.reference.id });
        }
    }

    /// Grants credit on a link that has messages for it.
    pub(crate) fn grant_by_message(&self, remote: &Remote, grant: Grant) {
        let (conn_id, channel_id) = (remote.conn_id, remote.reference.id);
        self.send_or_park(&Head::Credit { conn_id, channel_id, bytes: grant.more });
    }

    // ---- deadlines

    /// Carries out the deadlines that are over, and returns the next one.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        loop {
            let mut session = lock(&self.session);
            let Some(due) = session.deadlines.pop(now) else { return session.deadlines.next() };
            match due {
                Due::Call { conn_id, request_id } => {
                    let call = session.connection(conn_id).and_then(|open| open.calls.abandon(request_id));
                    drop(session);
                    if let Some((slot, _)) = call {
                        self.send_or_park(&Head::Cancel { conn_id, request_id });
                        slot.complete(Outcome::TimedOut).into_iter().for_each(Waker::wake);
                    }
                }
                Due::Request { conn_id, request_id } => {
                    let handler =
                        session.connection(conn_id).and_then(|open| open.serving.take_handler(request_id));
                    drop(session);
                    if let Some(handler) = handler {
                        handler.abort();
                    }
                }
            }
        }
    }

    // ---- the end

    /// The peer broke a rule: the driver says goodbye with it.
    pub(crate) fn violated(&self, violation: Violation) {
        self.request_end(LinkEnd::Violation(violation));
    }

    /// Asks the driver to end the link.
    pub(crate) fn request_end(&self, end: LinkEnd) {
        let _ = self.ending.set(end);
        self.wake_driver();
        if let Some(interrupt) = &self.interrupt {
            interrupt.interrupt();
        }
    }

    /// What the link is to be ended with.
    pub(crate) fn ending(&self) -> Option<&LinkEnd> {
        self.ending.get()
    }

    /// How the link ended, if it has.
    pub(crate) fn ended(&self) -> Option<&LinkEnd> {
        self.ended.get()
    }

    /// Waits for the end of the link.
    pub(crate) async fn wait_for_end(&self) -> LinkEnd {
        loop {
            let mut told = pin!(self.closed.notified());
            told.as_mut().enable(); // from here on nothing is missed
            if let Some(end) = self.ended.get() {
                return end.clone();
            }
            told.await;
        }
    }

    /// Ends the link, once: everything that is open on it fails, every wait is over.
    pub(crate) fn end(&self, end: LinkEnd) {
        let mut session = lock(&self.session);
        {
            // Under both locks: nothing is registered or sent from here on.
            let _out = lock(&self.out);
            if self.ended.set(end.clone()).is_err() {
                return;
            }
        }
        let open = session.end();
        drop(session);
        open.handlers.iter().for_each(AbortHandle::abort);
        for call in open.calls {
            call.complete(Outcome::Ended(end.clone())).into_iter().for_each(Waker::wake);
        }
        for channel in open.channels {
            channel.end(End::Link(end.clone()));
        }
        lock(&self.starving).clear();
        self.closed.notify_waiters();
        let mut wakers = lock(&self.room).take();
        wakers.extend(lock(&self.slots).take());
        wake_all(wakers);
        if let Some(interrupt) = &self.interrupt {
            interrupt.interrupt();
        }
    }

    /// Lets go of the link itself, after its end: whoever still holds a handle holds no segment, socket or
    /// buffer with it.
    pub(crate) fn release(&self) {
        let sender = lock(&self.out).release();
        let table = self.credit.write().unwrap_or_else(PoisonError::into_inner).take();
        let receiver = mem::replace(&mut *lock(&self.receive), Box::new(Released));
        drop((sender, table, receiver)); // outside of the locks
    }
}

/// The receiver of a link that is over.
struct Released;

impl Receiver for Released {
    fn drain(&mut self, _: &mut dyn Sink) -> Result<usize, LinkEnd> {
        Ok(0)
    }

    fn poll_receive(&mut self, _: &mut Context<'_>, _: &mut dyn Sink) -> Poll<Result<usize, LinkEnd>> {
        Poll::Pending
    }
}
