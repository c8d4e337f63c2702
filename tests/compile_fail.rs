//! What `#[adjoin::service]` refuses, and in which words.
//!
//! Each case is a program under `macros/tests/ui` with the compiler's output beside it. Most errors are the
//! macro's own: their words and places are ours, and they are compared under every compiler. Some can only
//! be found by the compiler, when it evaluates a constant or looks for a trait: how it words these changes
//! from release to release, so they are compared under the release that the files were made with
//! ([`MADE_WITH`]), and skipped, with a line that says so, under any other.
//!
//! To make the files anew: `TRYBUILD=overwrite cargo test --test compile_fail`, then read the diff.
#![cfg(feature = "macros")]
#![allow(missing_docs)]

use std::process::Command;

/// The release of the compiler whose words stand in the files of [`COMPILERS_WORDS`].
const MADE_WITH: &str = "rustc 1.95.";

/// Cases whose errors are the macro's own.
const OUR_WORDS: &[&str] = &[
    "duplicate_ids",
    "generic_method",
    "generic_trait",
    "members",
    "non_async_method",
    "receiver",
    "reference_argument",
    "result_alias",
    "taken_names",
    "unknown_attribute",
];

/// Cases whose errors are the compiler's.
const COMPILERS_WORDS: &[&str] = &[
    "built_in_id",
    "channel_in_error",
    "computed_id_is_pinned",
    "not_a_tuple",
    "other_owned_fd",
    "without_schema",
    "without_serde",
];

#[test]
fn what_the_macro_refuses_it_explains() {
    compare(OUR_WORDS);
}

#[test]
fn what_the_compiler_refuses_is_understood() {
    let compiler = Command::new("rustc").arg("--version").output().expect("a compiler that built this test");
    let version = String::from_utf8_lossy(&compiler.stdout);
    if version.starts_with(MADE_WITH) {
        compare(COMPILERS_WORDS);
    } else {
        println!("skipped: the files were made with {MADE_WITH}x, this is {version}");
    }
}

#[test]
fn every_case_is_compared() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/macros/tests/ui");
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .expect("the cases are there")
        .map(|entry| entry.expect("they can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    let mut known = [OUR_WORDS, COMPILERS_WORDS].concat();
    found.sort();
    known.sort_unstable();
    assert_eq!(found, known);
}

fn compare(cases: &[&str]) {
    let suite = trybuild::TestCases::new();
    cases.iter().for_each(|case| suite.compile_fail(format!("macros/tests/ui/{case}.rs")));
}
