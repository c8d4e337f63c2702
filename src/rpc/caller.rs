//! What calls go out on: a connection, or something that stands in front of connections.

use std::{
    fmt,
    future::{Future, poll_fn, ready},
    pin::Pin,
    sync::Arc,
    task,
};

use tokio::runtime::Handle;

use super::{
    call::Call,
    connection::Connection,
    errors::CallError,
    intercept::{Chain, Intercepted, Interceptor},
    method::Method,
    method_id::MethodId,
    raw_call::{CallOptions, Payload, RawCall, Reply},
    wire::Arguments,
};

/// What a client's calls go out on: a [`Connection`], or what stands in front of one.
///
/// Generated clients are made of anything that becomes a caller. Cheap to clone; a caller keeps its connection
/// open.
#[derive(Clone)]
pub struct Caller {
    route: Route,
    /// What stands around each call.
    chain: Option<Chain>,
}

/// How a call gets to its peer.
#[derive(Clone)]
pub(crate) enum Route {
    /// Straight over a connection, with nothing in between.
    Direct(Connection),
    /// By something that decides how, and how often.
    Managed(Arc<dyn Manage>),
}

/// What stands between a client and its connections.
pub(crate) trait Manage: Send + Sync {
    /// Makes a call. Dropping the future cancels it.
    fn start(self: Arc<Self>, call: OutgoingCall) -> Replying;

    /// Where its timers and tasks run.
    fn runtime(&self) -> &Handle;

    /// Names it in `Debug`.
    fn name(&self) -> &'static str;
}

/// A call that is under way by other means than a plain request.
pub(crate) type Replying = Pin<Box<dyn Future<Output = Result<Reply, CallError>> + Send>>;

/// A call that was handed to what manages it.
pub(crate) struct OutgoingCall {
    pub(crate) method_id: MethodId,
    /// What is known of the method; nothing, if the call is one that is passed on.
    pub(crate) method: Option<&'static Method>,
    pub(crate) payload: Box<dyn Payload>,
    pub(crate) options: CallOptions,
}

impl Caller {
    /// Prepares a call of a method; generated clients do this.
    pub fn call<A: Arguments, T, E>(&self, method: &'static Method, arguments: A) -> Call<A, T, E> {
        Call::new(self.clone(), method, arguments)
    }

    /// The connection that the calls go to, if it is always the same.
    #[must_use]
    pub fn connection(&self) -> Option<&Connection> {
        match &self.route {
            Route::Direct(connection) => Some(connection),
            Route::Managed(_) => None,
        }
    }

    pub(crate) fn managed(manage: Arc<dyn Manage>) -> Self {
        Caller { route: Route::Managed(manage), chain: None }
    }

    /// The same with an [interceptor](crate::intercept) around each call, which sees it behind those that were added
    /// before.
    #[must_use]
    pub fn with_interceptor(self, interceptor: impl Interceptor) -> Self {
        let chain = Chain::with(self.chain.as_ref(), Arc::new(interceptor));
        Caller { chain: Some(chain), ..self }
    }

    /// Makes a call whose types are not known.
    pub(crate) fn start(self, call: OutgoingCall) -> Replying {
        match self.into_route() {
            Route::Direct(connection) => {
                if let Some(Err(refusal)) = call.method.map(|method| connection.hub().check_result(method)) {
                    return Box::pin(ready(Err(refusal.into())));
                }
                let mut raw = match RawCall::new(connection, call.method_id, call.options) {
                    Ok(raw) => raw,
                    Err(error) => return Box::pin(ready(Err(error))),
                };
                let mut payload = Some(call.payload);
                Box::pin(poll_fn(move |cx| {
                    if let Some(unsent) = &payload {
                        task::ready!(raw.poll_send(cx, &**unsent))?;
                        payload = None;
                    }
                    raw.poll_reply(cx)
                }))
            }
            Route::Managed(manage) => manage.start(call),
        }
    }

    /// The runtime of what it leads to: callers on plain threads have none of their own.
    pub(crate) fn runtime(&self) -> &Handle {
        match &self.route {
            Route::Direct(connection) => &connection.hub().runtime,
            Route::Managed(manage) => manage.runtime(),
        }
    }

    /// The connection, if the calls go straight to it, with nothing around them.
    pub(crate) fn direct(&self) -> Option<&Connection> {
        if self.chain.is_none() { self.connection() } else { None }
    }

    pub(crate) fn into_route(self) -> Route {
        match self.chain {
            None => self.route,
            Some(chain) => {
                let inner = Caller { route: self.route, chain: None };
                Route::Managed(Arc::new(Intercepted { inner, chain }))
            }
        }
    }
}

impl From<Connection> for Caller {
    fn from(connection: Connection) -> Self {
        Caller { route: Route::Direct(connection), chain: None }
    }
}

impl From<&Connection> for Caller {
    fn from(connection: &Connection) -> Self {
        connection.clone().into()
    }
}

impl From<&Caller> for Caller {
    fn from(caller: &Caller) -> Self {
        caller.clone()
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let route: &dyn fmt::Debug = match &self.route {
            Route::Direct(connection) => connection,
            Route::Managed(manage) => &manage.name(),
        };
        f.debug_struct("Caller").field("route", route).field("interceptors", &self.chain).finish()
    }
}
