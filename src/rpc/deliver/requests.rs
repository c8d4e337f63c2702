//! From a request that arrived to what serves it.

use std::time::Instant;

use super::{Deliver, Todo};
use crate::{
    error::LinkEnd,
    link::{ChannelRef, descriptors::Descriptors},
    rpc::{
        clock::now,
        dispatch::IncomingRequest,
        hub::{Holds, Hub, UNCOUNTED},
        respond::Responder,
    },
    session::{Incoming, Requested, connections::ConnKey, deadlines::Due},
};

impl Deliver<'_> {
    /// Opens a request and hands it to what serves it, or refuses it. The session is let go before that. Not by way of a
    /// [`Todo`], since a request is long, and each hand that it goes through copies it.
    pub(super) fn request(&mut self, requested: Requested<'_>) -> Todo {
        let hub = self.hub;
        let request = match requested {
            Requested::Serve(request) => request,
            Requested::Refuse { conn, request_id } => return self.refuse(conn, request_id),
        };
        if let Err(end) = check_slots(hub, request.channels) {
            return Todo::LinkEnd(end);
        }
        let Some(connection) = self.handle(request.conn) else { return Todo::Nothing };
        if !hub.admits(request.channels.len()) {
            return self.refuse(request.conn, request.request_id);
        }
        let channels = self.open_channels(request.conn, request.channels);
        let (descriptors, holds) = self.hold(&request);
        let channels = channels.with_descriptors(descriptors);
        let deadline = request.timeout.and_then(|timeout| now().checked_add(timeout));
        self.start(request.conn, request.request_id, deadline);
        self.session = None;
        let held = holds.as_ref().copied().unwrap_or_default();
        let rest = &mut None;
        let request = IncomingRequest::arrived(connection, request, channels, held, deadline, rest);
        match holds {
            Ok(_) => request.dispatch(hub),
            Err(why) => drop(request.reject(why)),
        }
        Todo::Nothing
    }

    /// Answers a request that was not opened.
    #[cold]
    fn refuse(&mut self, conn: ConnKey, request_id: u64) -> Todo {
        self.session = None;
        Responder::refuse_unopened(self.hub, conn, request_id);
        Todo::Nothing
    }

    /// The request takes its place among those that run.
    #[inline]
    fn start(&mut self, conn: ConnKey, request_id: u64, deadline: Option<Instant>) {
        let hub = self.hub;
        let session = self.session();
        session.start(conn, request_id, deadline);
        if let Some(at) = deadline
            && session.deadlines.add(at, Due::Request { conn, request_id })
        {
            hub.wake_driver();
        }
    }

    /// What a request brings is held from now on; or let go, if it is too much, and the reason said.
    #[inline]
    fn hold(&mut self, request: &Incoming<'_>) -> (Descriptors, Result<Holds, String>) {
        let (mut holds, len) = (Holds::default(), request.payload.len());
        if len > UNCOUNTED {
            match self.hub.held.hold_bytes(len) {
                Ok(()) => holds.bytes = len as u32, // a payload's length is one
                Err(why) => return (Descriptors::NONE, Err(why)),
            }
        }
        let Some(carried) = self.carried.take() else { return (Descriptors::NONE, Ok(holds)) };
        match carried.hold(self.hub) {
            Ok(descriptors) => {
                holds.descriptors = descriptors.len() as u32; // no more than the system passes at once
                (descriptors, Ok(holds))
            }
            Err(why) => {
                self.hub.held.let_go(holds);
                (Descriptors::NONE, Err(why))
            }
        }
    }
}

/// Whether the channels of a message lie where the peer may put them.
#[inline]
fn check_slots(hub: &Hub, channels: &[ChannelRef]) -> Result<(), LinkEnd> {
    if channels.is_empty() {
        return Ok(());
    }
    let Some(table) = hub.table() else { return Ok(()) };
    channels.iter().try_for_each(|reference| table.check(reference.slot))
}
