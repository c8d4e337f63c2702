//! Building blocks made of connections, calls and streams, each usable alone.
//!
//! | file | is |
//! |---|---|
//! | `proxy` | passing calls on without knowing what they say |
//! | `reconnect` | calls that go out on whichever link there is, and are made again where that is safe |
//! | `router` | several services on one connection, by method; they come and go while links run |
//! | `trace` | spans for calls, as an interceptor |
//! | `tunnel` | byte streams through a link, and what carries others through them |

pub mod proxy;
pub mod reconnect;
pub(crate) mod router;
#[cfg(feature = "tracing")]
pub mod trace;
pub mod tunnel;
