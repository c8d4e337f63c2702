//! What people use: services, clients, calls, streams.
//!
//! | file | is |
//! |---|---|
//! | `method_id`, `method`, `wire` | a method's identity, and its values as bytes |
//! | `connection`, `options`, `state` | the handle of a connection, what one side brings to a link, what is known of each |
//! | `connect`, `incoming` | virtual connections, opened from either side |
//! | `call`, `raw_call`, `slot`, `block` | a call of ours, without its types, where its answer arrives, waiting on a plain thread |
//! | `caller` | what calls go out on |
//! | `carried` | the descriptors that came with a message |
//! | `reason` | why a call was cancelled, where the peer tells |
//! | `dispatch`, `handler`, `respond`, `context` | a request of the peer's, what serves it, its one answer, what its handler can know |
//! | `intercept` | what stands around calls |
//! | `forward`, `relay` | requests and streams that are passed on |
//! | `dedup` | requests that may come twice, and run once |
//! | `keep_alive` | whether a silent peer still lives |
//! | `introspection` | what each side offers, and why the other does not know a method |
//! | `bytes`, `loan`, `payload` | payloads that are not copied where that can be avoided |
//! | `tx`, `rx`, `channel`, `elements`, `scope` | streams, and how handles find their channels |
//! | `descriptor`, `bare` | descriptors as values, and in signatures |
//! | `hub`, `outgoing`, `deliver`, `driver`, `waiters`, `turn`, `clock` | what works on a link: shared state, way out, way in, task |

#[cfg(unix)]
pub(crate) mod bare;
mod block;
pub(crate) mod bytes;
pub(crate) mod call;
pub(crate) mod caller;
mod carried;
mod channel;
pub(crate) mod clock;
pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod context;
pub(crate) mod dedup;
mod deliver;
#[cfg(unix)]
pub(crate) mod descriptor;
pub(crate) mod dispatch;
mod driver;
mod elements;
pub(crate) mod errors;
mod forward;
mod growth;
mod handler;
mod hub;
pub(crate) mod incoming;
pub mod intercept;
pub(crate) mod introspection;
mod keep_alive;
pub(crate) mod loan;
pub(crate) mod method;
pub(crate) mod method_id;
pub(crate) mod options;
mod outgoing;
mod payload;
pub(crate) mod raw_call;
mod reason;
mod relay;
mod respond;
mod run;
pub(crate) mod rx;
pub(crate) mod scope;
mod slot;
pub(crate) mod state;
mod turn;
pub(crate) mod tx;
pub(crate) mod waiters;
pub(crate) mod wire;

#[cfg(test)]
mod tests;
