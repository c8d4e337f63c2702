//! Building blocks made of connections, calls and streams, each usable alone.
//!
//! | file | is |
//! |---|---|
//! | `router` | several services on one connection, by method; they come and go while links run |

pub(crate) mod router;
