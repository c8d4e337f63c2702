//! What is passed on: calls, streams and connections through programs that stand between others.
//!
//! Some of it goes through shared memory, and all of it is the same on other systems.
#![cfg(target_os = "linux")]
#![allow(missing_docs, unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;

mod chain;
mod late;
mod pairs;
mod passing;
mod rig;

/// The cells of these tests: a server, or a proxy.
#[test]
fn cell_entry() {
    if !chain::play_role() && !pairs::call_if_client() {
        rig::serve_if_cell();
    }
}
