//! What is measured in one line.

use std::fmt;

use clap::ValueEnum;

use crate::payload::Reading;

/// Over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Who {
    Shm,
    ShmSpin,
    Uds,
    UdsWide,
    Iceoryx2,
    Tarpc,
    Tonic,
    IpcChannel,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// Calls that return their payload
    Call,
    /// As `call`, with payloads that are written once and read where they lie
    CallLent,
    /// Elements from the client to the server
    Stream,
    /// As `stream`, with elements that are written once and read where they lie
    StreamLent,
    /// As `stream-lent`, with elements that are neither filled nor read
    StreamUntouched,
}

impl Work {
    /// Whether payloads are written and read in memory of both processes.
    pub(crate) fn is_lent(self) -> bool {
        matches!(self, Work::CallLent | Work::StreamLent | Work::StreamUntouched)
    }

    /// Whether answers are awaited.
    pub(crate) fn is_call(self) -> bool {
        matches!(self, Work::Call | Work::CallLent)
    }
}

/// One line: this work, over this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) who: Who,
    pub(crate) work: Work,
    /// Bytes of a payload or element.
    pub(crate) size: usize,
    /// Calls in flight.
    pub(crate) inflight: usize,
    /// Whether every word of a payload is read, and not one of each cache line.
    pub(crate) whole: bool,
    /// Whether the allocator may give back to the system what it will need again.
    pub(crate) trim: bool,
}

impl Case {
    /// How much of a payload its receiver reads.
    pub(crate) fn reading(&self) -> Reading {
        match (self.work, self.whole) {
            (Work::StreamUntouched, _) => Reading::Stamp,
            (_, false) => Reading::Lines,
            (_, true) => Reading::Whole,
        }
    }

    /// How many elements may be ahead of their receiver, where a library wants to know: what the windows and rings
    /// of adjoin have room for.
    pub(crate) fn window(&self) -> usize {
        match self.size {
            0..4096 => 1024,
            4096..65536 => 256,
            _ => 16,
        }
    }

    /// The row of the table, without the peer.
    pub(crate) fn row(&self) -> String {
        let Case { work, size, inflight, .. } = self;
        let size = match size {
            size if size % (1 << 20) == 0 => format!("{} MiB", size >> 20),
            size if size % (1 << 10) == 0 => format!("{} KiB", size >> 10),
            size => format!("{size} B"),
        };
        if *inflight > 1 { format!("{work} {size} x {inflight}") } else { format!("{work} {size}") }
    }
}

/// All rows.
pub(crate) const ROWS: [Case; 14] = [
    row(Work::Call, 32, 1),
    row(Work::Call, 32, 64),
    row(Work::Call, 64 << 10, 1),
    row(Work::Call, 1 << 20, 1),
    row(Work::CallLent, 64 << 10, 1),
    row(Work::CallLent, 1 << 20, 1),
    row(Work::Stream, 64, 1),
    row(Work::Stream, 4 << 10, 1),
    row(Work::Stream, 64 << 10, 1),
    row(Work::Stream, 1 << 20, 1),
    row(Work::StreamLent, 64 << 10, 1),
    row(Work::StreamLent, 1 << 20, 1),
    row(Work::StreamUntouched, 64 << 10, 1),
    row(Work::StreamUntouched, 1 << 20, 1),
];

const fn row(work: Work, size: usize, inflight: usize) -> Case {
    Case { who: Who::Shm, work, size, inflight, whole: false, trim: false }
}

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

named!(Who, Work);

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} over {}", self.row(), self.who)
    }
}
