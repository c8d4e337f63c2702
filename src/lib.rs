//! adjoin
#![deny(unsafe_code)]

extern crate self as adjoin;

mod error;
mod link;
mod rpc;
mod session;
mod settings;

pub use error::{LinkEnd, Violation};
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
