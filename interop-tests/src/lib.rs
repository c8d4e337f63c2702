//! adjoin against another implementation of its wire, the published `roam-session` and `roam-stream` 0.6.0: run
//! with `cargo test -p adjoin-interop-tests`.
//!
//! A package of its own, so that what the foreign peer is made of is no part of the library's tree.
