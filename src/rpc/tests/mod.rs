//! What a peer that is hostile, or only unlucky in its timing, once broke: raw peers, and links of the test's
//! own, against the insides of this module.
//!
//! | file | the other side is |
//! |---|---|
//! | `arena` | this library, over shared memory whose blocks are few |
//! | `connections` | this library, on virtual connections |
//! | `counted` | this library, over shared memory, one instruction after the other |
//! | `dedup` | this library, which repeats itself |
//! | `dropped`, `empty`, `nesting` | a service of this library |
//! | `flood` | a peer that writes and does not read, or opens and does not close |
//! | `flood_segment` | one that does so over shared memory |
//! | `kept` | this library, over shared memory, whose payloads are kept |
//! | `peer` | a peer that writes messages of its own to a link within the process |
//! | `role`, `waits` | parts of a link that answer as the test wants |
//! | `segment` | a peer on shared memory that handles its credit itself |
//! | `windows` | a peer that uses up all of its credit, again and again |
//! | `simulation` | this library, over links on which all is left to chance |
//!
//! Every runtime here has one thread: between two awaits of a test none of its tasks does anything. Each test
//! was seen to fail with its fix taken back; its documentation says which.

#[cfg(target_os = "linux")]
mod arena;
mod connections;
#[cfg(target_os = "linux")]
mod counted;
mod dedup;
mod dropped;
mod empty;
mod flood;
#[cfg(target_os = "linux")]
mod flood_segment;
#[cfg(target_os = "linux")]
mod kept;
mod nesting;
mod peer;
mod role;
#[cfg(target_os = "linux")]
mod segment;
mod simulation;
mod waits;
mod windows;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{
    connection::Connection,
    dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
    errors::Never,
    method::{Method, Service, method, service},
    method_id::MethodId,
    rx::Rx,
    tx::Tx,
};
use crate::{
    error::LinkEnd,
    link::{Body, ChannelRef, EncodeFault, Encoder, Head},
};

const SEND: Method = method("Raw", "send", MethodId::new(1), false, false);
const RECEIVE: Method = method("Raw", "receive", MethodId::new(2), false, false);
const NOP: Method = method("Raw", "nop", MethodId::new(3), true, false);

/// Three methods, one for each direction that a stream can take, and one without.
#[derive(Default)]
struct Raw {
    /// Requests that were handed to it.
    dispatched: Arc<AtomicUsize>,
}

impl ServiceDispatcher for Raw {
    fn service(&self) -> &'static Service {
        static RAW: Service = service("Raw", &[SEND, RECEIVE, NOP]);
        &RAW
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        self.dispatched.fetch_add(1, Ordering::Relaxed); // Relaxed: counted and read by one thread
        match request.method_id() {
            // Sends elements of `ELEMENT` bytes for as long as they are taken.
            id if id == SEND.id => request.serve(&SEND, |(tx,): (Tx<Vec<u8>>,)| async move {
                while tx.send(vec![7; ELEMENT - 2]).await.is_ok() {}
            }),
            id if id == RECEIVE.id => request.serve(&RECEIVE, |(mut rx,): (Rx<Vec<u8>>,)| async move {
                while let Ok(Some(_)) = rx.recv().await {}
            }),
            id if id == NOP.id => request.serve(&NOP, |()| async {}),
            _ => request.unknown_method(),
        }
    }
}

/// Bytes of an element that `SEND` sends: a length of two bytes, and what it counts.
const ELEMENT: usize = 130;

/// A payload and the channels that it opens.
struct Opening<'a>(&'a [u8], &'a [ChannelRef]);

impl Body for Opening<'_> {
    fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        out.extend(self.0);
        self.1.iter().for_each(|channel| out.channel(*channel));
        Ok(())
    }
}

fn request(method: &Method, request_id: u64) -> Head<'static> {
    Head::Request { conn_id: 0, request_id, method_id: method.id.get(), metadata: &[] }
}

/// Lets the link's tasks run until `holds`. Counts rounds, not time: each runs all tasks that are ready.
async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("what is waited for never comes");
}

/// Lets the link's tasks run until they all wait: no exchange here takes a hundred rounds.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Bounds a hang.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("what is waited for comes")
}

/// Polls a future once, for nobody.
fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// How the link ended, which it does.
async fn end_of(connection: &Connection) -> LinkEnd {
    within(connection.closed()).await
}

/// A call of `NOP`.
async fn nop(connection: &Connection) -> Result<(), super::errors::CallError> {
    connection.call::<(), (), Never>(&NOP, ()).await
}
