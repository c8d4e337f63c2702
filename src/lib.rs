//! Processes on one machine call each other, and stream to each other, as if they were one program: typed
//! async calls and channels, carried by shared memory.
//!
//! A **host** starts other processes, its **cells**, and is linked with each of them through a segment of
//! shared memory of their own. Both sides offer services, and both sides call: a service is a plain trait. The
//! same services run over Unix sockets, TCP and within one process, without a change.
//!
//! # A first call
//!
//! The host:
//!
//! ```no_run
//! # #[cfg(all(feature = "macros", target_os = "linux"))] mod example {
//! use adjoin::Options;
//! use std::process::Command;
//!
//! #[adjoin::service]
//! trait Greeter {
//!     async fn greet(&self, name: String) -> String;
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let cell = adjoin::spawn(Command::new("./greeter"), Options::new()).await?;
//!     let greeter = GreeterClient::new(cell.connection());
//!     println!("{}", greeter.greet("world".into()).await?);
//!     Ok(())
//! }
//! # } fn main() {}
//! ```
//!
//! The cell, a program of its own that has the same trait:
//!
//! ```no_run
//! # #[cfg(all(feature = "macros", target_os = "linux"))] mod example {
//! # #[adjoin::service]
//! # trait Greeter {
//! #     async fn greet(&self, name: String) -> String;
//! # }
//! use adjoin::Options;
//!
//! struct English;
//!
//! impl Greeter for English {
//!     async fn greet(&self, name: String) -> String {
//!         format!("Hello, {name}!")
//!     }
//! }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let host = adjoin::cell(Options::new().serve(GreeterDispatcher::new(English))).await?;
//!     host.closed().await; // a cell lives as long as its link
//!     Ok(())
//! }
//! # } fn main() {}
//! ```
//!
//! # Streams
//!
//! A [`Tx`] or an [`Rx`] may stand anywhere in arguments and results. The one in an argument is what the callee
//! will hold, and the caller keeps the other half. A sender waits while its receiver is a window of bytes
//! behind, so a slow reader stalls its own stream and nothing else.
//!
//! ```
//! # #[cfg(feature = "macros")] mod example {
//! use adjoin::{Options, Rx, channel, local};
//!
//! #[adjoin::service]
//! trait Adder {
//!     async fn sum(&self, numbers: Rx<u64>) -> u64;
//! }
//!
//! struct Plain;
//!
//! impl Adder for Plain {
//!     async fn sum(&self, mut numbers: Rx<u64>) -> u64 {
//!         let mut sum = 0;
//!         while let Ok(Some(number)) = numbers.recv().await {
//!             sum += number;
//!         }
//!         sum
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A link within this process: the same code runs over every other one.
//! let (client, _server) = local::pair(Options::new(), Options::new().serve(AdderDispatcher::new(Plain)));
//! let adder = AdderClient::new(&client);
//! let (tx, rx) = channel();
//! let send = async {
//!     for number in 1..=100 {
//!         tx.send(number).await?;
//!     }
//!     drop(tx); // that was all
//!     Ok::<_, adjoin::SendError>(())
//! };
//! let (sum, sent) = tokio::join!(adder.sum(rx), send);
//! sent?;
//! assert_eq!(sum?, 5050);
//! # Ok(()) }
//! # }
//! # #[cfg(feature = "macros")] fn main() { example::main().unwrap() }
//! # #[cfg(not(feature = "macros"))] fn main() {}
//! ```
//!
//! # Where to look
//!
//! | to | see |
//! |---|---|
//! | describe a service, pin a method's id, run a handler in place | [`service`] |
//! | start a cell, or be one | [`spawn`], [`Launch`], [`cell`], [`Cell`] |
//! | share memory with a process that was started by somebody else, and decide which | `shm`, [`Policy`] |
//! | let a configuration decide over what a service is reached | [`Address`], [`address`] |
//! | link over sockets, or within a process | [`stream`], [`local`] |
//! | set limits, and how to wait | [`Settings`], [`Waiting`], [`Options`] |
//! | give a call a timeout or metadata, or make it from a plain thread | [`Call`] |
//! | stream | [`Tx`], [`Rx`], [`channel()`], [`Permit`] |
//! | send and receive large payloads without copies | [`Bytes`], [`Connection::loan`], [`Settings::trust_peer`] |
//! | carry bytes, or a socket, through a link | [`tunnel`] |
//! | pass an open file or socket itself | `Descriptor` |
//! | know who calls, call back from a handler | [`Context`] |
//! | serve several services on one connection, add and remove them | [`Router`] |
//! | see each call before and after, or refuse it | [`intercept`] |
//! | trace calls over several processes | `trace` |
//! | pass calls on to another process, unread | [`proxy`], [`IncomingRequest::forward`] |
//! | go on calling when the link has ended | [`reconnect`] |
//! | have a cell started when it is needed, and again when it crashes | `supervise` |
//! | open further connections on a link, each with a service of its own | [`Connection::connect`], [`Options::on_connect`] |
//! | repeat a call whose outcome is not known, and have it run once | [`Call::with_nonce`], [`Deduplicate`] |
//! | learn why the peer does not know a method, or what it offers | [`Connection::explain`], [`Connection::describe`] |
//! | end gracefully | [`Connection::drain`], [`Connection::close`] |
//! | know how a link ended | [`Connection::closed`], [`LinkEnd`] |
//!
//! The example `host_and_cell` does all of the first rows, and measures what a call costs over each link; there are others
//! for reconnecting clients, tunnels, proxies and interceptors.
//!
//! # What goes wrong, and how it looks
//!
//! Nothing that a peer does can hang or crash this side. A peer that dies, exits or breaks the protocol ends
//! its link: every call and stream that is open on it fails with the [`LinkEnd`], which says how. Other links
//! notice nothing. What it breaks on a virtual connection ends that connection alone ([`ConnectionEnd`]).
//!
//! | an operation | fails with | which tells apart |
//! |---|---|---|
//! | a call | [`CallError`] | the service said no; the peer does not know the method, could not read the arguments, cancelled, rejected; what is behind it is gone; time ran out; the link is gone; whether it ran is not known; refused here |
//! | a send, a receive | [`SendError`], [`RecvError`], [`TrySendError`], [`TryRecvError`] | the other side is done; the link is gone; refused here; not now |
//! | opening a link | `SpawnError`, `AttachError`, `shm::OpenError`, [`stream::HandshakeError`] | who did not agree, and on what; a cell's exit status and last words |
//! | opening a virtual connection | [`ConnectError`] | the peer rejected, and why; the link is gone; refused here |
//! | a link, while it runs | [`LinkEnd`] | closed here; goodbye; exit code; signal; a rule broken ([`Violation`]) |
//!
//! What is refused here ([`Refusal`]) was never sent, and names the limit and the setting that widens it.
//!
//! # Layers
//!
//! ```text
//!   your traits                 #[adjoin::service]
//!   ───────────────────────────────────────────────────────────────────────────────
//!   compose    building blocks made of connections, calls and streams: Router, proxy,
//!              reconnect, tunnel, trace
//!   open       where connections come from: spawn and cell, stream, local
//!   rpc        calls, dispatch, Tx and Rx; the driver: one task a link
//!   session    the protocol: messages in, deliveries out; no socket, clock, task or lock
//!   link       what a session needs of a transport; byte streams, within a process
//!   segments   shared memory: memfds, futexes, processes                  (Linux)
//!   strict     values out of a peer's bytes: one encoding each, with bounds
//!   ───────────────────────────────────────────────────────────────────────────────
//!   adjoin-shm-layout           what lies in a segment, and the algorithms on it
//! ```
//!
//! Each knows only what stands below it; `segments` implements the traits of `link`. To read the source, start with
//! `link/mod.rs` (a transport is five small traits), go on with `session/mod.rs` and its tests (the rules of
//! the protocol), then `rpc/hub.rs` and `rpc/deliver.rs` (the way out and the way in), and last `segments` with the
//! documentation of `adjoin-shm-layout`.
//!
//! # Platforms
//!
//! Shared memory needs Linux 5.16 or newer, for `futex_waitv`. On other systems `spawn`, `Launch`, `cell`,
//! `Cell`, `shm`, their errors and `handshake` do not exist, so that what needs them does not compile; calls and
//! streams over sockets and within a process are all there. `Descriptor` exists on every Unix; there, other systems than
//! Linux carry it within a process.
//!
//! # Features
//!
//! - `macros` (default): the attribute macro [`service`].
//! - `tracing` (default): `trace`, spans for calls.
//!
//! A tokio runtime with I/O and time enabled drives the links. Rust 1.88 or newer.
#![deny(unsafe_code)]

extern crate self as adjoin;

mod compose;
#[cfg(test)]
mod conformance;
mod error;
mod link;
mod open;
mod policy;
mod rpc;
#[cfg(target_os = "linux")]
mod segments;
mod session;
mod settings;
mod strict;

#[cfg(target_os = "linux")]
pub use compose::supervise;
#[cfg(feature = "tracing")]
pub use compose::trace;
pub use compose::{
    proxy, reconnect,
    router::{Route, RouteError, Router},
    tunnel,
};
pub use error::{ConnectionEnd, LinkEnd, Violation};
#[cfg(target_os = "linux")]
pub use open::cell::{Cell, Launch, cell, spawn};
#[cfg(target_os = "linux")]
pub use open::shm;
#[cfg(unix)]
pub use open::uds;
pub use open::{
    address::{self, Address},
    local, stream,
};
pub use policy::{PeerCredentials, Policy};
pub use postcard_schema;
pub use postcard_schema::Schema;
#[cfg(unix)]
pub use rpc::{bare::BareCall, descriptor::Descriptor};
pub use rpc::{
    bytes::Bytes,
    call::Call,
    caller::Caller,
    connect::ConnectOptions,
    connection::{Connection, Drained, WeakConnection},
    context::Context,
    dedup::{Deduplicate, Nonce},
    dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
    errors::{
        CallError, ConnectError, EncodeError, Never, RecvError, Refusal, SendError, TryRecvError,
        TrySendError,
    },
    incoming::IncomingConnection,
    intercept,
    loan::{Loan, LoanError},
    method::{Method, Service},
    method_id::MethodId,
    options::Options,
    rx::Rx,
    tx::{Permit, Tx, channel},
    wire::{Arguments, Value},
};
#[cfg(target_os = "linux")]
pub use segments::{AttachError, CellOutput, SpawnError};
pub use session::metadata::{Metadata, MetadataError, MetadataValue};
pub use settings::{Settings, Waiting};
pub use strict::DecodeError;

/// What a peer offers, and why it does not know a method. Asked with [`Connection::describe`] and
/// [`Connection::explain`].
pub mod introspection {
    pub use crate::rpc::introspection::{
        Difference, Explanation, FieldDescription, MethodDescription, Primitive, ServiceDescription, Shape,
        SignatureDescription, TypeDescription, VariantDescription, VariantFields,
    };
}

/// What can go wrong while a host and a cell agree on a segment.
#[cfg(target_os = "linux")]
pub mod handshake {
    pub use crate::segments::{HandshakeError, PeerRefusal, Seal, SegmentError, SegmentLimit};
}

#[cfg(feature = "macros")]
pub use adjoin_macros::service;

/// What generated code uses.
#[doc(hidden)]
pub mod __private {
    #[cfg(unix)]
    pub use crate::rpc::bare::Bare;
    pub use crate::rpc::{
        introspection::is_built_in,
        method::{Signature, derive_schema_or_pin_the_id, described_method, method, service, signature},
        method_id::{carries_channel, occurs_once},
        wire::derive_serialize_and_deserialize,
    };

    /// Prepares a call. It asks nothing of the types: the generated code has done so where they stand.
    pub fn call<A, T, E>(
        caller: &crate::Caller,
        method: &'static crate::Method,
        arguments: A,
    ) -> crate::Call<A, T, E> {
        crate::Call::new(caller.clone(), method, arguments)
    }

    /// Prepares a call whose result has bare descriptors.
    #[cfg(unix)]
    pub fn bare_call<A, T: Bare, E>(
        caller: &crate::Caller,
        method: &'static crate::Method,
        arguments: A,
    ) -> crate::BareCall<A, T, E> {
        crate::BareCall::new(call(caller, method, arguments))
    }
}
