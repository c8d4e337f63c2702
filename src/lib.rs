//! adjoin
#![deny(unsafe_code)]

extern crate self as adjoin;

mod error;
mod link;
mod open;
mod rpc;
mod session;
mod settings;
#[cfg(target_os = "linux")]
mod shm;

pub use error::{LinkEnd, Violation};
#[cfg(target_os = "linux")]
pub use open::cell::{Cell, cell, spawn, spawn_with};
pub use open::{local, stream};
pub use postcard_schema;
pub use postcard_schema::Schema;
pub use rpc::{
    call::Call,
    connection::Connection,
    context::Context,
    dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
    errors::{CallError, Never, RecvError, Refusal, SendError},
    method::{Method, Service},
    method_id::MethodId,
    options::Options,
    rx::Rx,
    tx::{Tx, channel},
    wire::{Arguments, Value},
};
pub use session::metadata::{Metadata, MetadataError, MetadataValue};
pub use settings::{Settings, Waiting};
#[cfg(target_os = "linux")]
pub use shm::{AttachError, CellStderr, SpawnError};

/// What can go wrong while a host and a cell agree on a segment.
#[cfg(target_os = "linux")]
pub mod handshake {
    pub use crate::shm::{HandshakeError, Limit, Refusal, Seal, SegmentError};
}

#[cfg(feature = "macros")]
pub use adjoin_macros::service;

/// What generated code uses.
#[doc(hidden)]
pub mod __private {
    pub use crate::rpc::{
        method::{method, service},
        method_id::{carries_channel, method_id, occurs_once},
    };

    /// Prepares a call.
    pub fn call<A: crate::Arguments, T, E>(
        connection: &crate::Connection,
        method: &'static crate::Method,
        arguments: A,
    ) -> crate::Call<A, T, E> {
        connection.call(method, arguments)
    }
}
