//! What one side brings to a link.

use std::{fmt, sync::Arc};

use super::{
    dispatch::ServiceDispatcher,
    incoming::{IncomingConnection, OnConnect},
};
use crate::{policy::Policy, settings::Settings};

/// What one side brings to a link: its settings, and the service that it offers.
///
/// ```
/// use adjoin::{Options, Settings};
///
/// let options = Options::new().settings(Settings::default().max_payload_size(64 << 10));
/// ```
#[derive(Clone)]
#[must_use]
pub struct Options {
    pub(crate) settings: Settings,
    pub(crate) dispatcher: Option<Arc<dyn ServiceDispatcher>>,
    pub(crate) on_connect: Option<Arc<OnConnect>>,
    pub(crate) introspection: bool,
    pub(crate) policy: Policy,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            settings: Settings::default(),
            dispatcher: None,
            on_connect: None,
            introspection: true,
            policy: Policy::default(),
        }
    }
}

impl Options {
    /// Default settings, and no service: what the peer calls is answered "unknown method".
    pub fn new() -> Self {
        Options::default()
    }

    /// Limits, and how to wait.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// The service that the peer can call.
    pub fn serve(mut self, dispatcher: impl ServiceDispatcher) -> Self {
        self.dispatcher = Some(Arc::new(dispatcher));
        self
    }

    /// Takes the virtual connections that the peer asks for (protocol section 7), and decides on each. Without
    /// this they are rejected: "not listening".
    ///
    /// Called by whoever receives on the link, so it must not block; it may hand the
    /// [`IncomingConnection`] to a task. What panics rejects.
    ///
    /// See [`Connection::connect`](crate::Connection::connect) for an example.
    pub fn on_connect(mut self, decide: impl Fn(IncomingConnection) + Send + Sync + 'static) -> Self {
        self.on_connect = Some(Arc::new(decide));
        self
    }

    /// Whether the peer may [ask](crate::Connection::describe) which services are offered, with their methods
    /// and the types of these, on any connection of the link. Default: yes.
    ///
    /// Where it may not, the dispatcher gets the question as a request for a method like any other. The ones
    /// that `#[adjoin::service]` writes answer "unknown method"; one that forwards requests forwards it, so
    /// that what is offered behind it is told.
    pub fn introspection(mut self, allowed: bool) -> Self {
        self.introspection = allowed;
        self
    }

    /// Which processes may be at the other end of a Unix socket, on links that are made by its path: those of
    /// [`shm`](crate::shm), of [`uds`](crate::uds) and of such an [`Address`](crate::Address). Default: those of the same
    /// user.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("settings", &self.settings)
            .field("service", &self.dispatcher.as_ref().map(|dispatcher| dispatcher.service().name))
            .field("takes connections", &self.on_connect.is_some())
            .finish()
    }
}
