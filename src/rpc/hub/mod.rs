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

mod channels;
mod connections;
mod descriptors;
mod end;
mod held;
mod loans;
mod role;
mod waiting;

use std::{
    sync::{
        Arc, Mutex, OnceLock, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
};

use tokio::{runtime::Handle, sync::Notify};

pub(crate) use self::{
    channels::ChannelLimits,
    descriptors::{DescriptorLimits, Patience},
    held::{HeldByRequests, Holds, UNCOUNTED},
    waiting::Place,
};
use self::{channels::Places, connections::Leaving, role::Callers, waiting::Starving};
use super::{
    block::is_blocking,
    channel::Channel,
    connect::Connecting,
    elements::Elements,
    errors::Refusal,
    growth::Allowance,
    handler::Handler,
    incoming::OnConnect,
    method::Method,
    outgoing::Outgoing,
    slot::CallSlot,
    state::ConnectionState,
    waiters::{Queue, lock},
};
use crate::{
    error::LinkEnd,
    link::{
        Body, CreditTable, EncodeFault, Head, Interrupt, Lending, Limits, Publish, Receiver, SendFault,
        message::{NoBody, Parked},
    },
    session::{Ends, Session, credit::SendWindow},
};

/// The ends of a session in this library.
pub(crate) struct Local;

impl Ends for Local {
    type Call = Arc<CallSlot>;
    type Channel = Arc<Channel>;
    type Handler = Handler;
    type Connection = Arc<ConnectionState>;
    type Connect = Connecting;
}

/// One link. See the module's documentation.
pub(crate) struct Hub {
    pub(crate) limits: Limits,
    pub(crate) max_nesting: u32,
    pub(crate) descriptors: DescriptorLimits,
    pub(crate) held: HeldByRequests,
    pub(crate) session: Mutex<Session<Local>>,
    pub(crate) out: Mutex<Outgoing>,
    pub(crate) receive: Mutex<Box<dyn Receiver>>,
    /// `None` on links that grant by messages, and after the end.
    credit: RwLock<Option<Arc<dyn CreditTable>>>,
    /// `None` on links that have no memory of their own, and after the end.
    lending: RwLock<Option<Arc<dyn Lending>>>,
    pub(crate) interrupt: Option<Arc<dyn Interrupt>>,
    places: Places,
    /// By how much windows may grow.
    pub(crate) growth: Allowance,
    /// Who waits for room in the link.
    pub(crate) room: Mutex<Queue>,
    /// Who waits for one of the link's channels to become free.
    slots: Mutex<Queue>,
    /// Who waits for memory of the link to be lent.
    loans: Mutex<Queue>,
    loans_wanted: AtomicBool,
    /// Channels whose senders wait for credit that comes without a message.
    starving: Mutex<Vec<Starving>>,
    starving_any: AtomicBool,
    driver: Mutex<Option<Waker>>,
    /// The driver has found the receive role taken.
    turned_away: AtomicBool,
    callers: Mutex<Callers>,
    spare: Mutex<Elements>,
    /// The driver has been woken to flush, and has not done so yet.
    flush_due: AtomicBool,
    pub(crate) runtime: Handle,
    /// The link's own connection, whose end is the link's.
    pub(crate) root: Arc<ConnectionState>,
    /// Who decides on virtual connections that the peer asks for.
    pub(crate) on_connect: Option<Arc<OnConnect>>,
    /// The peer may ask what is offered.
    pub(crate) introspection: bool,
    /// What the driver is to end the link with.
    ending: OnceLock<LinkEnd>,
    /// Virtual connections whose last handle is gone.
    leaving: Leaving,
    /// Somebody waits until nothing is open any more.
    draining: AtomicBool,
    /// Tells those that something is over.
    quieter: Notify,
    /// Drains that brought something.
    heard: AtomicU64,
}

/// The parts that a hub is made of.
pub(crate) struct HubParts {
    pub(crate) limits: Limits,
    pub(crate) max_nesting: u32,
    pub(crate) descriptors: DescriptorLimits,
    pub(crate) held: HeldByRequests,
    pub(crate) session: Session<Local>,
    pub(crate) out: Outgoing,
    pub(crate) receiver: Box<dyn Receiver>,
    pub(crate) credit: Option<Arc<dyn CreditTable>>,
    pub(crate) lending: Option<Arc<dyn Lending>>,
    pub(crate) interrupt: Option<Arc<dyn Interrupt>>,
    pub(crate) runtime: Handle,
    pub(crate) channels: ChannelLimits,
    /// By how many bytes the windows of streams may grow, where credit is granted by messages.
    pub(crate) window_growth: u32,
    pub(crate) root: Arc<ConnectionState>,
    pub(crate) on_connect: Option<Arc<OnConnect>>,
    pub(crate) introspection: bool,
}

impl Hub {
    pub(crate) fn new(parts: HubParts) -> Arc<Self> {
        let growth = if parts.credit.is_some() { 0 } else { parts.window_growth };
        let hub = Arc::new(Hub {
            limits: parts.limits,
            max_nesting: parts.max_nesting,
            descriptors: parts.descriptors,
            held: parts.held,
            session: Mutex::new(parts.session),
            out: Mutex::new(parts.out),
            receive: Mutex::new(parts.receiver),
            credit: RwLock::new(parts.credit),
            lending: RwLock::new(parts.lending),
            interrupt: parts.interrupt,
            places: Places::new(parts.channels),
            growth: Allowance::new(growth.into()),
            room: Mutex::default(),
            slots: Mutex::default(),
            loans: Mutex::default(),
            loans_wanted: AtomicBool::new(false),
            starving: Mutex::default(),
            starving_any: AtomicBool::new(false),
            driver: Mutex::new(None),
            turned_away: AtomicBool::new(false),
            callers: Mutex::default(),
            spare: Mutex::default(),
            flush_due: AtomicBool::new(false),
            runtime: parts.runtime,
            root: parts.root,
            on_connect: parts.on_connect,
            introspection: parts.introspection,
            ending: OnceLock::new(),
            leaving: Leaving::default(),
            draining: AtomicBool::new(false),
            quieter: Notify::new(),
            heard: AtomicU64::new(0),
        });
        hub.listen_for_returns();
        hub
    }

    /// Notes that the peer has said something. By whoever holds the receive role.
    #[inline]
    pub(crate) fn note_heard(&self) {
        // Relaxed, both: a count that is compared with itself, with one writer at a time.
        self.heard.store(self.heard.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// How often it has.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed) // as above
    }

    /// `flow.call.payload-limit`, on the sender's side.
    pub(crate) fn check_payload(&self, len: usize) -> Result<(), EncodeFault> {
        let limit = self.limits.max_payload_size as usize;
        if len > limit { Err(EncodeFault::PayloadTooLarge { len, limit }) } else { Ok(()) }
    }

    /// A message that opens more channels than this side may ever have open would wait for good.
    pub(crate) fn check_channels(&self, count: usize) -> Result<(), EncodeFault> {
        let limit = self.most_channels().min(MAX_CHANNELS);
        if count > limit { Err(EncodeFault::TooManyChannels { count, limit }) } else { Ok(()) }
    }

    /// What a method always returns has to come back over this link.
    #[inline]
    pub(crate) fn check_result(&self, method: &Method) -> Result<(), Refusal> {
        if method.returns_descriptor && !self.descriptors.any() {
            return Err(Refusal::DescriptorNotReturned);
        }
        Ok(())
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

    /// Sets credit aside for an element that is not there yet: `check` says whether there is some. Full while anything is
    /// parked.
    pub(crate) fn set_aside(
        &self,
        credit: &SendWindow,
        len: usize,
        check: impl FnOnce() -> Result<(), EncodeFault>,
    ) -> Result<(), SendFault> {
        let mut out = lock(&self.out);
        self.check_open()?;
        self.noted(out.check_element(len))?;
        check().map_err(SendFault::Encode)?;
        credit.set_aside(len);
        Ok(())
    }

    /// Sends an element for which `set_aside` bytes of its channel's credit are set aside, and releases them. A longer one
    /// may find the link full; others are parked then.
    pub(crate) fn send_set_aside(
        &self,
        head: &Head<'_>,
        body: &mut dyn Body,
        credit: &SendWindow,
        set_aside: usize,
    ) -> Result<(), SendFault> {
        let mut out = lock(&self.out);
        self.check_open()?;
        let len = match self.noted(out.send(head, body)) {
            Err(SendFault::Full) => {
                let message = Parked::new(head, body).map_err(SendFault::Encode)?;
                let len = message.len();
                if len > set_aside {
                    return Err(SendFault::Full);
                }
                // A link that is at its end takes it along, as whatever is under way.
                let _ = self.noted(out.park(message).map_err(SendFault::Ended));
                len
            }
            sent => sent?,
        };
        credit.sent(len);
        credit.release(set_aside);
        self.publish_soon(&mut out);
        Ok(())
    }

    /// Sees to it that a fault that ends the link does so, whoever found it. Until the driver has ended it, the link
    /// is full: what the peer said last may have arrived and say more, and all are to hear the same.
    pub(crate) fn noted<T>(&self, sent: Result<T, SendFault>) -> Result<T, SendFault> {
        match sent {
            Err(SendFault::Ended(end)) => {
                self.request_end(end);
                Err(SendFault::Full)
            }
            sent => sent,
        }
    }

    /// Sends what nobody waits for; it is parked when the link is full, and lost when it is gone.
    pub(crate) fn send_or_park(&self, head: &Head<'_>) {
        let mut out = lock(&self.out);
        if self.check_open().is_err() {
            return;
        }
        let sent = self.noted(out.send_or_park(head, &mut NoBody));
        self.publish_soon(&mut out);
        drop(out); // before anything is logged: a subscriber may send the log over this very link
        if let Err(fault) = sent {
            tracing::debug!(?fault, ?head, "a message was not sent");
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
        self.root.ended().map_or(Ok(()), |end| Err(SendFault::Ended(end.clone())))
    }
}

/// Channels that one message can open.
const MAX_CHANNELS: usize = u16::MAX as usize;
