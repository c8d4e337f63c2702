//! Clients that go on when their link has ended: which calls are made again, how connections are made, and servers that
//! are restarted again and again.
#![cfg(unix)]
#![allow(missing_docs, unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;

mod calls;
#[cfg(target_os = "linux")]
mod cells;
mod policy;
mod rig;
mod storms;

/// The processes of these tests: a server over a socket, or a cell.
#[test]
fn server_entry() {
    rig::serve_if_server();
}
