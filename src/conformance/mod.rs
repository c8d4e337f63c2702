//! The conformance suite: the protocol's rules, one by one, over every link.
//!
//! In each case a **raw peer**, which writes whatever messages the case wants and tells what it hears, faces our
//! side: a connection in service, with callers, streams and handlers at work. A case is written once and runs on
//! each link that it names, with our side as the link's acceptor and as its initiator; what is the same on every
//! connection runs on the root, on a virtual connection that the peer asked for, and on one that our side did. On
//! shared memory the raw peer of an acceptor is a process of its own, over a real segment; the one of an
//! initiator has the other half of a real segment in this process, since a process can attach to a host only once.
//!
//! | file | holds |
//! |---|---|
//! | `links` | the grounds: a kind of link, and our role on it |
//! | `peer`, `note` | the raw peer, and messages as it writes and hears them |
//! | `rig`, `service` | our side, what it serves, and the steps of a case |
//! | `busy` | a connection on which everything is open, its neighbours, and what a violation does to them |
//! | `table` | `docs/conformance.md`: which rule is proven by which tests, on which links |
//! | the others | the cases, a file a part of the protocol |
//!
//! Nothing waits for a time: a case waits for what the peer hears, or for what a handler saw. That nothing was
//! said is told by what is heard next.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "the table and some cases are not there"))]

mod busy;
mod links;
mod note;
mod peer;
mod rig;
mod service;
#[cfg(target_os = "linux")] // where all cases are
mod table;

mod calls;
mod channels;
mod connecting;
mod connections;
mod end;
mod flow;
mod frames;
mod handshake;
mod metadata;
#[cfg(target_os = "linux")]
mod segment;
mod streams;

use links::{Kind, Place};

/// The cases of a file.
struct Section {
    title: &'static str,
    /// The connections that its cases run on.
    places: &'static [Place],
    cases: &'static [Case],
}

/// A case, as `cases!` registers it.
struct Case {
    /// The module that it stands in.
    file: &'static str,
    name: &'static str,
    /// The ids of the rules that it proves.
    rules: &'static [&'static str],
    links: &'static [Kind],
}

/// Registers the cases of a file, and makes a test of each for each link: `file::case::link`.
///
/// In brackets stand the ids of the rules that a case proves.
macro_rules! cases {
    ($title:literal on $place:ident; $($(#[$attribute:meta])* [$($rule:literal)*] $name:ident: $($link:ident)+;)*) => {
        pub(super) const SECTION: $crate::conformance::Section = $crate::conformance::Section {
            title: $title,
            places: $crate::conformance::places!($place),
            cases: &[$($crate::conformance::Case {
                file: module_path!(),
                name: stringify!($name),
                rules: &[$($rule),*],
                links: $crate::conformance::kinds!($($link)+),
            }),*],
        };
        $(mod $name { $crate::conformance::tests!($name $place [$(#[$attribute])*] $($link)+); })*
    };
}

/// The links that a word stands for.
macro_rules! kinds {
    (everywhere) => {
        &$crate::conformance::links::Kind::ALL
    };
    (streams) => {
        &[$crate::conformance::links::Kind::Unix, $crate::conformance::links::Kind::Tcp]
    };
    (memory) => {
        &[$crate::conformance::links::Kind::Memory]
    };
    (shm) => {
        &[$crate::conformance::links::Kind::Shm]
    };
    (streams shm) => {
        &[
            $crate::conformance::links::Kind::Unix,
            $crate::conformance::links::Kind::Tcp,
            $crate::conformance::links::Kind::Shm,
        ]
    };
}

/// The tests of a case.
macro_rules! tests {
    ($name:ident $place:ident $attributes:tt everywhere) => {
        $crate::conformance::tests!($name $place $attributes memory unix tcp shm);
    };
    ($name:ident $place:ident $attributes:tt streams $($more:ident)*) => {
        $crate::conformance::tests!($name $place $attributes unix tcp $($more)*);
    };
    ($name:ident $place:ident $attributes:tt $($link:ident)+) => {
        $($crate::conformance::test!($name $place $attributes $link);)+
    };
}

/// One test.
macro_rules! test {
    ($name:ident $place:ident [$($attribute:tt)*] shm) => {
        $($attribute)*
        #[cfg(target_os = "linux")]
        #[test]
        fn shm() {
            $crate::conformance::run!($name $place Shm);
        }
    };
    ($name:ident $place:ident [$($attribute:tt)*] memory) => {
        $($attribute)*
        #[test]
        fn memory() {
            $crate::conformance::run!($name $place Memory);
        }
    };
    ($name:ident $place:ident [$($attribute:tt)*] unix) => {
        $($attribute)*
        #[test]
        fn unix() {
            $crate::conformance::run!($name $place Unix);
        }
    };
    ($name:ident $place:ident [$($attribute:tt)*] tcp) => {
        $($attribute)*
        #[test]
        fn tcp() {
            $crate::conformance::run!($name $place Tcp);
        }
    };
}

/// What a test does.
macro_rules! run {
    ($name:ident $place:ident $kind:ident) => {
        $crate::conformance::links::run(
            $crate::conformance::links::Kind::$kind,
            $crate::conformance::places!($place),
            super::$name,
        )
    };
}

/// The connections that a word stands for: all kinds of them, or a link's own.
macro_rules! places {
    (connections) => {
        $crate::conformance::links::Place::ALL
    };
    (links) => {
        $crate::conformance::links::Place::LINK
    };
}

use {cases, kinds, places, run, test, tests};
