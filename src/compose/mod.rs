//! Building blocks made of connections, calls and streams, each usable alone.
//!
//! | file | is |
//! |---|---|
//! | `proxy` | passing calls on without knowing what they say |
//! | `router` | several services on one connection, by method; they come and go while links run |

pub mod proxy;
pub(crate) mod router;
