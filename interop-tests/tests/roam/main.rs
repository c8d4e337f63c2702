//! adjoin against the published roam 0.6, over real Unix sockets.
//!
//! Both sides offer the same service, with the same pinned ids (`interface`): `ours` is written with
//! `#[adjoin::service]`, `theirs` with roam's dispatcher by number. Each behaviour runs twice, with adjoin
//! as the side that connects and with roam as that side, because the roles decide which ids a side
//! allocates.
//!
//! The peer as it is published, where that decides how a test is written:
//!
//! - it never grants credit, and never waits for it: streams have to end within the initial credit;
//! - it never says goodbye of its own accord, and has no call for it: its end of the socket just closes;
//! - it knows the channels of a Response only once its application has read the Response, and answers
//!   elements that come before with a Goodbye: what it is returned must not send before it is asked to.
//!
//! What it cannot be made to send comes from its codec alone, driven by hand (`wire`).
#![cfg(unix)]
#![allow(missing_docs)]

mod interface;
mod link;
mod ours;
mod theirs;
#[path = "../../../tests/common/watchdog.rs"]
#[allow(unreachable_pub)]
mod watchdog;

/// Runs each behaviour with either side as the one that connects.
macro_rules! whoever_connects {
    ($($name:ident)*) => {
        mod adjoin_connects {
            $(#[test] fn $name() { crate::link::run(crate::link::Initiator::Adjoin, super::$name); })*
        }
        mod roam_connects {
            $(#[test] fn $name() { crate::link::run(crate::link::Initiator::Roam, super::$name); })*
        }
    };
}

mod connections;
mod ends;
mod they_call;
mod they_stream;
mod we_call;
mod we_stream;
mod wire;
