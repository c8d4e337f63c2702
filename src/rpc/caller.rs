//! What calls go out on: a connection, or something that stands in front of connections.

use std::{
    fmt,
    future::{Future, poll_fn, ready},
    pin::Pin,
    sync::Arc,
    task,
};

use super::{
    call::Call,
    connection::Connection,
    errors::CallError,
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

    /// The connection, if the calls go straight to one.
    #[must_use]
    pub fn connection(&self) -> Option<&Connection> {
        match &self.route {
            Route::Direct(connection) => Some(connection),
            Route::Managed(_) => None,
        }
    }

    pub(crate) fn managed(manage: Arc<dyn Manage>) -> Self {
        Caller { route: Route::Managed(manage) }
    }

    /// Makes a call whose types are not known.
    pub(crate) fn start(self, call: OutgoingCall) -> Replying {
        match self.route {
            Route::Direct(connection) => {
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

    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    pub(crate) fn into_route(self) -> Route {
        self.route
    }
}

impl From<Connection> for Caller {
    fn from(connection: Connection) -> Self {
        Caller { route: Route::Direct(connection) }
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
        match &self.route {
            Route::Direct(connection) => f.debug_tuple("Caller").field(connection).finish(),
            Route::Managed(manage) => f.debug_tuple("Caller").field(&manage.name()).finish(),
        }
    }
}
