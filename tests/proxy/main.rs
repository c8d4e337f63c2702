//! What is passed on: calls, streams and connections through programs that stand between others.
#![allow(missing_docs, unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;

#[cfg(target_os = "linux")]
mod chain;
mod late;
mod pairs;
mod passing;
mod rig;

/// The cells of these tests: a server, or a proxy.
#[cfg(target_os = "linux")]
#[test]
fn cell_entry() {
    if !chain::play_role() && !pairs::call_if_client() {
        rig::serve_if_cell();
    }
}
