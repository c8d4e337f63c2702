//! The layers, read from the sources: who may import whom, where atomics and clocks may stand, how long a file
//! may be.
//!
//! Lowest first: `shm-layout`, `strict`, `link` (the trait and the messages), `segments` (which implements that trait),
//! `session`, `rpc`, `open` and `compose`. What is under `#[cfg(test)]` does not count, comments and strings do not
//! either.
#![allow(missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A layer, and the paths that its files must not name.
struct Layer {
    /// The file or folder that holds it.
    place: &'static str,
    forbidden: &'static [&'static str],
}

const LAYERS: &[Layer] = &[
    Layer { place: "src/strict.rs", forbidden: NOT_BELOW_STRICT },
    Layer { place: "src/strict", forbidden: NOT_BELOW_STRICT },
    Layer {
        place: "src/error.rs",
        forbidden: &["link", "segments", "session", "rpc", "open", "compose", "settings"],
    },
    Layer { place: "src/settings.rs", forbidden: &["link", "segments", "session", "rpc", "open", "compose"] },
    Layer {
        place: "src/policy.rs",
        forbidden: &["link", "segments", "session", "rpc", "open", "compose", "settings"],
    },
    Layer { place: "src/link", forbidden: &["segments", "session", "rpc", "open", "compose"] },
    Layer {
        place: "src/segments",
        forbidden: &[
            "session",
            "rpc",
            "open",
            "compose",
            // Of the links it knows the trait and the messages, not the other links.
            "link::codec",
            "link::frame",
            "link::memory",
            "link::stream",
        ],
    },
    Layer {
        place: "src/session",
        forbidden: &[
            "segments",
            "rpc",
            "open",
            "compose",
            "link::codec",
            "link::frame",
            "link::memory",
            "link::stream",
            "link::Sender",
            "link::Receiver",
        ],
    },
    // Generic over links: what makes them is for `open` to know.
    Layer { place: "src/rpc", forbidden: &["segments", "open", "compose", "link::memory", "link::stream"] },
    Layer { place: "src/open", forbidden: &["compose"] },
];

/// All other modules: reading values knows none of them.
const NOT_BELOW_STRICT: &[&str] =
    &["error", "settings", "link", "segments", "session", "rpc", "open", "compose"];

/// What a session must not name: it has no clock, no runtime, no socket, no thread and no lock.
const NOT_IN_A_SESSION: &[&str] =
    &["tokio", "Instant::now", "SystemTime", "thread::", "std::net", "std::fs", "Mutex", "async "];

/// What may stand in `shm-layout/src/sync.rs` alone, where loom can take its place.
const ONLY_IN_SYNC: &[&str] = &["sync::atomic", "UnsafeCell", "loom::"];

/// What no layer of `shm-layout` may name.
const NOT_IN_A_LAYOUT: &[&str] = &["tokio", "std::fs", "std::thread", "std::net", "rustix", "memmap2"];

/// Lines of a file without its tests.
const MAX_LINES: usize = 500;

#[test]
fn imports_point_down_only() {
    let mut found = Vec::new();
    for layer in LAYERS {
        for source in sources(layer.place) {
            for path in source.paths() {
                if layer.forbidden.iter().any(|forbidden| is_within(&path, forbidden)) {
                    found.push(format!("{}: crate::{path}", source.name));
                }
                // `crate::Connection` hides the layer that it comes from.
                if path.starts_with(char::is_uppercase) {
                    found.push(format!("{}: crate::{path}, by a name of the crate's root", source.name));
                }
            }
        }
    }
    assert_none(&found);
}

#[test]
fn a_session_has_no_clock_and_no_runtime() {
    assert_none(&named(&sources("src/session"), NOT_IN_A_SESSION));
}

#[test]
fn the_layout_knows_no_system_and_no_runtime() {
    assert_none(&named(&sources("shm-layout/src"), NOT_IN_A_LAYOUT));
}

#[test]
fn atomics_and_cells_come_through_sync_alone() {
    let mut files = sources("shm-layout/src");
    files.retain(|source| source.name != "shm-layout/src/sync.rs");
    assert_none(&named(&files, ONLY_IN_SYNC));
}

#[test]
fn no_file_is_longer_than_the_limit_without_its_tests() {
    let places = ["src", "shm-layout/src", "macros/src"];
    let found: Vec<_> = places
        .iter()
        .flat_map(|place| sources(place))
        .filter(|source| source.lines > MAX_LINES)
        .map(|source| format!("{}: {} lines", source.name, source.lines))
        .collect();
    assert_none(&found);
}

/// The checks themselves: a source that breaks every rule, and what is found in it.
#[test]
fn what_is_forbidden_is_found() {
    let text = "
//! crate::comment
use super::calls::{self, Calls};
use super::super::rpc::hub::Hub;
use crate::{error::Violation, segments::{self, link::Link}, open};
use tokio::sync::mpsc; // crate::comment

fn now(hub: &crate::Connection) -> Instant {
    let text = \"crate::string tokio\";
    Instant::now()
}

#[cfg(test)]
mod tests {
    use crate::tests_only;
    fn wait() { std::thread::sleep(SECOND) }
}
";
    let source = Source::new("src/session/serving.rs".to_owned(), text);
    let mut paths = source.paths();
    paths.sort();
    let expected = [
        "Connection",
        "error::Violation",
        "open",
        "rpc::hub::Hub",
        "segments",
        "segments::link::Link",
        "session::calls",
        "session::calls::Calls",
    ];
    assert_eq!(paths, expected);
    assert_eq!(source.lines, 11);
    let found = named(&[source], NOT_IN_A_SESSION);
    assert_eq!(found, ["src/session/serving.rs: tokio", "src/session/serving.rs: Instant::now"]);
    assert!(
        is_within("segments::link::Link", "segments")
            && is_within("segments", "segments")
            && !is_within("segments_of::x", "segments")
    );
}

/// A source file without comments, strings and tests.
struct Source {
    /// Its path in the repository.
    name: String,
    code: String,
    /// Its lines without its tests, comments and empty lines included.
    lines: usize,
}

impl Source {
    fn new(name: String, text: &str) -> Self {
        let text = without_tests(text);
        let lines = text.lines().count();
        let code = without_comments_and_strings(&text);
        Source { name, code, lines }
    }

    /// The paths within the crate that it names, from the crate's root.
    fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        for (at, _) in self.code.match_indices("crate::") {
            if !self.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                expand("", &self.code[at + "crate::".len()..], &mut paths);
            }
        }
        for (at, _) in self.code.match_indices("super::") {
            if !self.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                expand(&self.parent(), &self.code[at + "super::".len()..], &mut paths);
            }
        }
        paths
    }

    /// The path of the module that `super` is in this file.
    fn parent(&self) -> String {
        let module = self.name.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        module.rsplit_once('/').map_or(String::new(), |(parent, _)| parent.replace('/', "::"))
    }
}

/// Reads one tree of a `use`, or a plain path, and returns the rest of the text.
fn expand<'a>(prefix: &str, tree: &'a str, paths: &mut Vec<String>) -> &'a str {
    let tree = tree.trim_start();
    if let Some(mut inner) = tree.strip_prefix('{') {
        loop {
            inner = inner.trim_start().trim_start_matches(',').trim_start();
            if let Some(rest) = inner.strip_prefix('}') {
                return rest;
            }
            let rest = expand(prefix, inner, paths);
            if rest.len() == inner.len() {
                return rest; // not a path: a source that does not compile
            }
            inner = rest;
        }
    }
    let end = tree.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tree.len());
    let (name, rest) = tree.split_at(end);
    let path = match name {
        "super" => prefix.rsplit_once("::").map_or("", |(parent, _)| parent).to_owned(),
        "self" => prefix.to_owned(),
        _ if prefix.is_empty() => name.to_owned(),
        _ => format!("{prefix}::{name}"),
    };
    match rest.strip_prefix("::") {
        Some(rest) => expand(&path, rest, paths),
        None => {
            paths.push(path);
            rest
        }
    }
}

fn is_within(path: &str, of: &str) -> bool {
    path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn named(sources: &[Source], words: &[&str]) -> Vec<String> {
    let hits = |source: &Source| {
        let named = words.iter().filter(|word| source.code.contains(**word));
        named.map(|word| format!("{}: {word}", source.name)).collect::<Vec<_>>()
    };
    sources.iter().flat_map(hits).collect()
}

/// Leaves out what stands under `#[cfg(test)]`, in a file that rustfmt has seen: an item ends with a line of
/// its own indentation that closes it.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.trim_start_matches('\n').lines();
    while let Some(line) = lines.next() {
        let Some(indent) = line.strip_suffix("#[cfg(test)]") else {
            kept.push_str(line);
            kept.push('\n');
            continue;
        };
        let ends = |line: &str| {
            line.strip_prefix(indent).is_some_and(|rest| {
                rest.starts_with('}') || (!rest.starts_with(' ') && rest.ends_with([';', '}']))
            })
        };
        lines.by_ref().find(|line| ends(line));
    }
    kept
}

fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::new();
    for line in text.lines() {
        let mut in_string = false;
        let mut characters = line.chars().peekable();
        while let Some(c) = characters.next() {
            match c {
                '/' if !in_string && characters.peek() == Some(&'/') => break,
                '\\' if in_string => _ = characters.next(),
                '"' => in_string = !in_string,
                _ if in_string => {}
                _ => code.push(c),
            }
        }
        code.push('\n');
    }
    code
}

/// The files of a folder, those below it included, or the one file; without those that hold tests alone.
fn sources(place: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut open, mut files) = (vec![root.join(place)], Vec::<PathBuf>::new());
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder of the sources can be read");
            open.extend(entries.map(|entry| entry.expect("an entry of it can be read").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    assert!(!files.is_empty(), "{place} has moved: tell this test where to");
    files.sort();
    let name = |file: &Path| {
        let inside = file.strip_prefix(root).expect("it lies below the root").to_string_lossy();
        inside.replace('\\', "/")
    };
    files
        .iter()
        .map(|file| (name(file), file))
        .filter(|(name, _)| !is_test(name))
        .map(|(name, file)| Source::new(name, &fs::read_to_string(file).expect("a source is text")))
        .collect()
}

/// Whether a file is compiled for tests alone.
fn is_test(name: &str) -> bool {
    let suites = ["/tests/", "/conformance/"];
    name.ends_with("tests.rs")
        || suites.iter().any(|suite| name.contains(suite))
        || name.ends_with("/testing.rs")
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
