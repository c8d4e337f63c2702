//! `docs/conformance.md`: which rule is proven by which tests, on which links. Made of the cases themselves; the
//! test fails when a rule has none on a link where it applies, and when the committed file says something else.

use std::{collections::BTreeSet, env, fmt::Write as _, fs, path::Path};

use super::{
    Case, Section,
    links::{Kind, Place},
};

/// All cases, in the order of the protocol.
const SECTIONS: &[Section] = &[
    super::handshake::SECTION,
    super::frames::SECTION,
    super::calls::SECTION,
    super::metadata::SECTION,
    super::channels::SECTION,
    super::streams::SECTION,
    super::flow::SECTION,
    super::connections::SECTION,
    super::connecting::SECTION,
    super::end::SECTION,
    super::segment::SECTION,
];

/// What a rule says, in the order of the protocol, and the links on which nobody can break it.
struct Rule {
    id: &'static str,
    says: &'static str,
    not_on: &'static [(Kind, &'static str)],
}

const NO_HELLO: &str = "its two ends are made at once, by one program: there is no Hello";
const NO_BYTES: &str = "it carries the messages of this program, never a peer's bytes";
const AT_ATTACH: &str = "in place of Hello stands the agreement at attach: see \"Shared memory alone\"";

const RULES: &[Rule] = &[
    Rule {
        id: "message.hello.unknown-version",
        says: "Hello V1, or of an unknown version",
        not_on: &[(Kind::Memory, NO_HELLO), (Kind::Shm, AT_ATTACH)],
    },
    Rule { id: "message.hello.ordering", says: "a message before Hello, or a second Hello", not_on: &[] },
    Rule { id: "message.decode-error", says: "bytes that are no message", not_on: &[] },
    Rule {
        id: "message.unknown-variant",
        says: "a message of a kind that does not exist",
        not_on: &[(Kind::Memory, NO_BYTES)],
    },
    Rule { id: "message.conn-id", says: "a connection that was never opened", not_on: &[] },
    Rule {
        id: "call.request-id.duplicate-detection",
        says: "the id of a request that is in flight",
        not_on: &[],
    },
    Rule {
        id: "call.metadata.limits",
        says: "128 entries, keys of 256 bytes, values of 16 KiB, 64 KiB in all",
        not_on: &[],
    },
    Rule {
        id: "flow.call.payload-limit",
        says: "a Request's or Response's payload beyond the maximum",
        not_on: &[],
    },
    Rule { id: "channeling.id.zero-reserved", says: "a channel with id 0", not_on: &[] },
    Rule {
        id: "channeling.unknown",
        says: "a channel that was never opened, or that cannot be opened so",
        not_on: &[],
    },
    Rule { id: "channeling.data.invalid", says: "an element that does not decode", not_on: &[] },
    Rule { id: "channeling.data.size-limit", says: "an element beyond the maximum payload", not_on: &[] },
    Rule { id: "channeling.data-after-close", says: "an element behind Close", not_on: &[] },
    Rule {
        id: "flow.channel.credit-overrun",
        says: "more bytes on a channel than were granted",
        not_on: &[],
    },
];

/// Set to write the table anew.
const BLESS: &str = "ADJOIN_BLESS";

#[test]
fn every_rule_is_proven_on_every_link_and_the_table_says_by_which_tests() {
    let known: Vec<_> = RULES.iter().map(|rule| rule.id).collect();
    assert_eq!(BTreeSet::from_iter(&known), BTreeSet::from_iter(&rules_of_the_library()));
    let mut missing = String::new();
    for rule in RULES {
        for kind in Kind::ALL {
            let proven = proving(rule.id).any(|case| case.links.contains(&kind));
            let excused = rule.not_on.iter().any(|(on, _)| *on == kind);
            if proven == excused {
                let what = if proven { "is excused and proven" } else { "has no test" };
                let _ = writeln!(missing, "{} {what} on {kind}", rule.id);
            }
        }
    }
    assert!(missing.is_empty(), "\n{missing}");
    for case in cases() {
        for rule in case.rules {
            assert!(known.contains(rule), "{}: {rule} is no rule", case.name);
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    let table = table();
    if env::var_os(BLESS).is_some() {
        fs::write(&path, &table).expect("the sources can be written");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == table, "docs/conformance.md is not of these tests: run this one with {BLESS}=1");
}

/// The ids that [`Violation::rule`](crate::Violation::rule) gives, read from its source: no value of the enum
/// tells which others there are.
fn rules_of_the_library() -> Vec<&'static str> {
    let (_, rule) = include_str!("../error.rs").split_once("fn rule(").expect("it is there");
    let (rule, _) = rule.split_once("\n    }\n").expect("it ends");
    let id = |arm: &'static str| arm.split_once('"').expect("an arm gives an id").0;
    rule.split("=> \"").skip(1).map(id).collect()
}

fn cases() -> impl Iterator<Item = &'static Case> {
    SECTIONS.iter().flat_map(|section| section.cases)
}

fn proving(rule: &str) -> impl Iterator<Item = &'static Case> {
    cases().filter(move |case| case.rules.contains(&rule))
}

fn table() -> String {
    let mut text = String::from(INTRODUCTION);
    text.push_str("## The rules\n\n| rule | a peer breaks it with | tests | links |\n|---|---|---|---|\n");
    for rule in RULES {
        for (index, case) in proving(rule.id).enumerate() {
            let (id, says) =
                if index == 0 { (format!("`{}`", rule.id), rule.says) } else { Default::default() };
            row(&mut text, &[&id, says, &test(case), &links(case)]);
        }
    }
    text.push_str("\nWhere a rule cannot be broken:\n\n| rule | link | why |\n|---|---|---|\n");
    for rule in RULES {
        for (kind, why) in rule.not_on {
            row(&mut text, &[&format!("`{}`", rule.id), &kind.to_string(), why]);
        }
    }
    for section in SECTIONS {
        let _ = write!(text, "\n## {}\n\n", section.title);
        if section.places.contains(&Place::Accepted) {
            text.push_str("On each kind of connection.\n\n");
        }
        text.push_str("| test | links |\n|---|---|\n");
        for case in section.cases {
            row(&mut text, &[&test(case), &links(case)]);
        }
    }
    text
}

const INTRODUCTION: &str = "\
# Conformance

Which test proves which rule of the session protocol, on which links. A rule's id is what goes out as the reason of a
Goodbye when a peer breaks it. This file is made by a test out of the tests themselves
(`ADJOIN_BLESS=1 cargo test --lib conformance::table` writes it), which fails when a rule has no test on a link where
it applies.

In each test a raw peer, which writes whatever messages it wants, faces a connection in service, and our side is the
link's acceptor first, and then its initiator. For each violation it is checked that the peer hears Goodbye with the
rule and with the connection that it costs; that every call, sender and receiver there fails with the violation, and
the handler that runs is stopped; and that the neighbours go on: other links of the process, and, where a virtual
connection is all that it costs, the link's other connections.

The links: `memory` within the process, `unix` and `tcp` over real sockets, `shm` over a real segment, whose peer is
a process of its own where our side is the host. The connections: a link's root, a virtual one that the peer asked for,
and one that our side asked for.

What one side does alone (idempotent retry, method ids, introspection: sections 4, 8 and 9) is tested where it is made.

";

/// As `cargo test` names it, without the link.
fn test(case: &Case) -> String {
    let file = case.file.rsplit("::").next().unwrap_or_default();
    format!("`{file}::{}`", case.name)
}

fn links(case: &Case) -> String {
    case.links.iter().map(Kind::to_string).collect::<Vec<_>>().join(" ")
}

fn row(text: &mut String, cells: &[&str]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}
