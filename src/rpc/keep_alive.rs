//! Whether a silent peer still lives.
//!
//! The wire has no message for that, so it is a request for a method that nobody has: every peer answers it, also one that
//! is not of this library ("Unknown method: Response `01 01`"). What this side serves does not see it.
//!
//! Asked is only after a time in which nothing at all was heard, and one request at a time. A peer that gives no sign of
//! life for the deadline ends the link: any message of it is one. The deadline is waited for in [`STEPS`] steps, and
//! begins anew after one that took much longer than it should have: then it was this process that was suspended, or had no
//! CPU.
//!
//! One task a link that is asked to do this, which wakes once in an interval; nothing at all otherwise.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use tokio::time::sleep;

use super::{
    clock::now,
    connection::{Connection, WeakConnection},
    method_id::{MethodId, method_id},
    raw_call::{CallOptions, Payload, RawCall},
    scope::Encoded,
    state::ConnectionState,
};
use crate::{error::LinkEnd, link::Encoder, settings::KeepAlive};

/// The id that is asked for. Answered before any dispatcher sees it.
pub(crate) const PING_ID: MethodId =
    method_id("adjoin", "ping", &[], <() as postcard_schema::Schema>::SCHEMA, None);

/// Watches over the peer of a link, until its end. Keeps no connection open.
pub(super) async fn watch(connection: WeakConnection, root: Arc<ConnectionState>, settings: KeepAlive) {
    let ended = root.wait_for_end();
    let watching = ask_on(connection, settings);
    futures_util::future::select(Box::pin(ended), Box::pin(watching)).await;
}

async fn ask_on(connection: WeakConnection, settings: KeepAlive) {
    let mut heard = None;
    loop {
        sleep(settings.interval).await;
        let Some(connection) = connection.upgrade() else { return };
        let so_far = connection.hub().heard();
        if heard.replace(so_far) != Some(so_far) {
            continue; // something came, or it is the first look
        }
        if !lives(&connection, settings.timeout).await {
            let after = settings.interval.saturating_add(settings.timeout);
            return connection.hub().request_end(LinkEnd::Silent { after });
        }
    }
}

/// Asks for a sign of life, and waits for it.
async fn lives(connection: &Connection, timeout: Duration) -> bool {
    let before = connection.hub().heard();
    let Ok(mut ping) = RawCall::new(connection.clone(), PING_ID, CallOptions::default()) else { return true };
    // Whatever is answered: that it is answered counts. A link that is full has no room for it, and needs none.
    let mut asking = std::pin::pin!(poll_fn(move |cx| {
        if ping.poll_send(cx, &Nothing).is_ready() { ping.poll_reply(cx).map(drop) } else { Poll::Pending }
    }));
    let step = timeout / STEPS;
    let mut silent = 0;
    while silent < STEPS {
        let began = now();
        let answered = tokio::time::timeout(step, asking.as_mut()).await.is_ok();
        if answered || connection.hub().heard() != before {
            return true;
        }
        let late = now().saturating_duration_since(began) > step.saturating_mul(2).saturating_add(SLACK);
        silent = if late { 0 } else { silent + 1 };
    }
    false
}

/// No arguments.
struct Nothing;

impl Payload for Nothing {
    fn encode(&self, _: &mut Encoder<'_>, _: u64) -> Encoded {
        Ok(None)
    }
}

/// The steps that a deadline is waited for in.
const STEPS: u32 = 4;
/// What a step may be late on a machine that is busy.
const SLACK: Duration = Duration::from_millis(20);
