//! The command line, and the cases that it asks for.

use std::fmt;

use clap::{Parser, ValueEnum};

/// Measures what links carry, and what it costs.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Args {
    /// The links to measure, and the raw programs beside them; all of them by default
    #[arg(long, value_delimiter = ',')]
    link: Vec<Link>,
    /// What is done; everything by default
    #[arg(long)]
    workload: Option<Workload>,
    /// The size of a payload or element
    #[arg(long, value_delimiter = ',', value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=MOST))]
    size: Vec<u32>,
    /// How many calls or streams at once
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    inflight: Vec<u32>,
    /// How both sides wait
    #[arg(long)]
    mode: Option<Mode>,
    /// For how long each line is measured
    #[arg(long, value_name = "S", default_value_t = 1.5)]
    pub(crate) secs: f64,
    /// Which CPUs the client and the server get
    #[arg(long, default_value_t = Pin::Split)]
    pub(crate) pin: Pin,
    /// One line of JSON for each measurement
    #[arg(long)]
    pub(crate) json: bool,
    /// Without the longest payloads
    #[arg(long, hide = true)]
    smoke: bool,
    /// Cargo passes it
    #[arg(long, hide = true)]
    bench: bool,
    /// This process is the server, and finds its client there
    #[arg(long, hide = true, value_name = "ADDRESS")]
    pub(crate) serve: Option<String>,
    /// The CPU that the server is to run on
    #[arg(long, hide = true, value_name = "CPU")]
    pub(crate) cpu: Option<usize>,
}

/// How the two processes are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Link {
    /// Shared memory
    #[cfg(target_os = "linux")]
    Shm,
    /// A Unix socket
    Uds,
    /// TCP on the loopback device
    Tcp,
    /// No second process
    Local,
    /// All that follow
    #[cfg(target_os = "linux")]
    Limits,
    /// Raw: two cache lines
    #[cfg(target_os = "linux")]
    Line,
    /// Raw: the rings without a session
    #[cfg(target_os = "linux")]
    Ring,
    /// Raw: two futexes
    #[cfg(target_os = "linux")]
    Futex,
    /// Raw: a Unix socket without a session
    #[cfg(target_os = "linux")]
    Socket,
    /// Raw: two tasks of one runtime
    #[cfg(target_os = "linux")]
    Tasks,
}

/// The raw programs.
#[cfg(target_os = "linux")]
const LIMITS: [Link; 5] = [Link::Line, Link::Ring, Link::Futex, Link::Socket, Link::Tasks];
#[cfg(not(target_os = "linux"))]
const LIMITS: [Link; 0] = [];

impl Link {
    /// Whether it is one of the raw programs.
    pub(crate) fn is_limit(self) -> bool {
        LIMITS.contains(&self)
    }

    /// Whether there is no second process.
    pub(crate) fn is_within(self) -> bool {
        #[cfg(target_os = "linux")]
        if self == Link::Tasks {
            return true;
        }
        self == Link::Local
    }
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Calls that echo their argument
    Unary,
    /// Streams from the client to the server
    Stream,
    /// As `unary`, from plain threads
    Block,
    /// As `unary`, one call each millisecond
    Paced,
    /// As `unary`, with payloads that each side fills in place and reads where they lie
    UnaryLoaned,
    /// As `stream`, with `Bytes`: handles at the sender, and memory that is used again at the receiver
    StreamBytes,
    /// As `stream`, with elements that are filled in place and not copied
    StreamLoaned,
    /// As `stream-loaned`, with elements of which one byte is written
    StreamUntouched,
}

impl Workload {
    /// Whether payloads are filled and read in the link's memory.
    pub(crate) fn is_loaned(self) -> bool {
        matches!(self, Workload::UnaryLoaned | Workload::StreamLoaned | Workload::StreamUntouched)
    }
}

/// How both sides wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// The default of the library
    Park,
    /// No spinning
    Sleep,
    /// Busy-polling
    Spin,
}

/// Where the processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pin {
    /// Each on a CPU of its own
    Split,
    /// Both on the same CPU
    Same,
    /// Wherever the system puts them
    None,
}

/// What is measured in one line, on any link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) workload: Workload,
    pub(crate) size: u32,
    pub(crate) inflight: u32,
    pub(crate) mode: Mode,
}

impl Args {
    /// Everything for a moment, whatever the arguments are: they are the test harness's.
    pub(crate) fn smoke() -> Self {
        Args::parse_from(["links", "--bench", "--secs", "0.01", "--smoke"])
    }

    /// The arguments of a server for this case, on this CPU.
    pub(crate) fn server(link: Link, cpu: Option<usize>, case: &Case, address: &str) -> Vec<String> {
        let Case { workload, size, mode, .. } = case;
        let mut args = vec!["--bench".to_owned()];
        args.extend(["--serve".to_owned(), address.to_owned()]);
        args.extend(["--link".to_owned(), link.to_string(), "--workload".to_owned(), workload.to_string()]);
        args.extend(["--size".to_owned(), size.to_string(), "--mode".to_owned(), mode.to_string()]);
        if let Some(cpu) = cpu {
            args.extend(["--cpu".to_owned(), cpu.to_string()]);
        }
        args
    }

    /// The links that were asked for, and the limits last. A line of a table needs them all.
    pub(crate) fn links(&self) -> Vec<Link> {
        let asked = if self.link.is_empty() { Link::value_variants() } else { &self.link };
        let is_list = |link: &Link| link.to_string() == "limits";
        let limits = LIMITS.into_iter().filter(|_| asked.iter().any(is_list));
        let mut links: Vec<Link> = asked.iter().copied().filter(|link| !is_list(link)).collect();
        for limit in limits {
            if !links.contains(&limit) {
                links.push(limit);
            }
        }
        links
    }

    /// The cases: the table's, with what was asked for in place of what the table has.
    pub(crate) fn cases(&self) -> Vec<Case> {
        let narrowed = self.workload.is_some() || !self.size.is_empty() || !self.inflight.is_empty();
        let mode = self.mode.or(narrowed.then_some(Mode::Park));
        let mut cases = Vec::new();
        let plain = [Workload::Unary, Workload::Stream];
        let is_asked = |row: &&Case| match self.workload {
            Some(workload) => workload == row.workload,
            None => !narrowed || plain.contains(&row.workload),
        };
        for row in TABLE.iter().filter(is_asked) {
            for &size in either(&self.size, &row.size) {
                for &inflight in either(&self.inflight, &row.inflight) {
                    let case = Case { size, inflight, mode: mode.unwrap_or(row.mode), ..*row };
                    let too_long = self.smoke && size > 64 << 10;
                    if !too_long && !cases.contains(&case) {
                        cases.push(case);
                    }
                }
            }
        }
        cases
    }
}

/// What was asked for, or what the table has.
fn either<'a>(asked: &'a [u32], table: &'a u32) -> &'a [u32] {
    if asked.is_empty() { std::slice::from_ref(table) } else { asked }
}

/// The table without arguments.
const TABLE: [Case; 22] = [
    unary(32, 1, Mode::Spin),
    unary(32, 1, Mode::Park),
    unary(32, 1, Mode::Sleep),
    Case { workload: Workload::Block, ..unary(32, 1, Mode::Spin) },
    Case { workload: Workload::Block, ..unary(32, 1, Mode::Park) },
    Case { workload: Workload::Paced, ..unary(32, 1, Mode::Park) },
    Case { workload: Workload::Paced, ..unary(32, 1, Mode::Sleep) },
    unary(32, 64, Mode::Park),
    unary(64 << 10, 1, Mode::Park),
    unary(1 << 20, 1, Mode::Park),
    Case { workload: Workload::UnaryLoaned, ..unary(64 << 10, 1, Mode::Park) },
    Case { workload: Workload::UnaryLoaned, ..unary(1 << 20, 1, Mode::Park) },
    Case { workload: Workload::Stream, ..unary(64, 1, Mode::Park) },
    Case { workload: Workload::Stream, ..unary(4 << 10, 1, Mode::Park) },
    Case { workload: Workload::Stream, ..unary(64 << 10, 1, Mode::Park) },
    Case { workload: Workload::Stream, ..unary(1 << 20, 1, Mode::Park) },
    Case { workload: Workload::StreamBytes, ..unary(64 << 10, 1, Mode::Park) },
    Case { workload: Workload::StreamBytes, ..unary(1 << 20, 1, Mode::Park) },
    Case { workload: Workload::StreamLoaned, ..unary(64 << 10, 1, Mode::Park) },
    Case { workload: Workload::StreamLoaned, ..unary(1 << 20, 1, Mode::Park) },
    Case { workload: Workload::StreamUntouched, ..unary(64 << 10, 1, Mode::Park) },
    Case { workload: Workload::StreamUntouched, ..unary(1 << 20, 1, Mode::Park) },
];

const fn unary(size: u32, inflight: u32, mode: Mode) -> Case {
    Case { workload: Workload::Unary, size, inflight, mode }
}

/// The largest size.
const MOST: i64 = 64 << 20;

/// Displays a value as the command line calls it.
macro_rules! named {
    ($($name:ty),*) => {
        $(impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.to_possible_value().map_or(Ok(()), |value| f.pad(value.get_name()))
            }
        })*
    };
}

named!(Link, Workload, Mode, Pin);

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { workload, size, inflight, mode } = self;
        write!(f, "{workload} {size} B x {inflight} {mode}")
    }
}
