//! Building blocks made of connections, calls and streams, each usable alone.
//!
//! | file | is |
//! |---|---|
//! | `proxy` | passing calls on without knowing what they say |
//! | `reconnect` | calls that go out on whichever link there is, and are made again where that is safe |
//! | `router` | several services on one connection, by method; they come and go while links run |
//! | `supervise` | cells that are started when they are needed, again when they crash, and stopped when they are idle |
//! | `trace` | spans for calls, as an interceptor |
//! | `tunnel` | byte streams through a link, and what carries others through them |

pub mod proxy;
pub mod reconnect;
pub(crate) mod router;
#[cfg(target_os = "linux")]
pub mod supervise;
#[cfg(feature = "tracing")]
pub mod trace;
pub mod tunnel;
