//! What the README shows is what there is: its code is the example's, its commands are those that the checks
//! run.
#![allow(missing_docs)]

const README: &str = include_str!("../README.md");

/// The lines of all blocks of a language.
fn blocks(language: &str) -> impl Iterator<Item = &'static str> {
    let fence = format!("```{language}\n");
    let blocks: Vec<_> =
        README.split(&fence[..]).skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!blocks.is_empty(), "no block in {language}");
    blocks.into_iter().flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty())
}

#[test]
fn the_code_is_the_examples() {
    let example = include_str!("../examples/host_and_cell.rs");
    let lines: Vec<_> = example.lines().map(str::trim).collect();
    for line in blocks("rust") {
        assert!(lines.contains(&line), "not in the example: {line}");
    }
}

#[test]
fn the_commands_are_those_that_the_checks_run() {
    let checks = include_str!("../.ci/run");
    let commands: Vec<_> = blocks("text").filter(|line| line.starts_with("cargo ")).collect();
    assert!(commands.len() > 1, "{commands:?}");
    for command in commands {
        let command = command.split('#').next().map(str::trim).unwrap_or_default();
        assert!(checks.lines().any(|line| line.trim() == command), "not in .ci/run: {command}");
    }
}

#[test]
fn the_oldest_compiler_is_the_packages() {
    let oldest = concat!("Rust ", env!("CARGO_PKG_RUST_VERSION"));
    assert!(README.contains(oldest), "{oldest}");
}
