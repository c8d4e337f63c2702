//! What a cell writes to its stdout and stderr: shown, logged or dropped; and the end of it kept for the error if the cell
//! does not come to serve.
//!
//! One task of the runtime for each pipe, no thread. It ends with the pipe, or with the cell: a grandchild that keeps the
//! pipe open, and writes to it without end, does not keep the task. It always reads on, so that no cell waits for its
//! host to read for long, and takes turns with the other tasks of its thread, so that a cell that never stops writing
//! keeps nobody waiting. Writing to the host's own stderr or stdout blocks as it does for everybody who writes there.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::fd::OwnedFd;
use tokio::{
    net::unix::pipe::Receiver,
    task::{JoinHandle, yield_now},
};

use super::process::{Either, Shared, race};

/// What becomes of what a cell writes to its stdout or its stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CellOutput {
    /// It is shown on the host's own as it comes. The end of stderr is part of the error if the cell does not come to
    /// serve.
    #[default]
    Forward,
    /// It goes where the command says, by default to the host's own. Errors cannot quote it.
    Inherit,
    /// It goes nowhere.
    Null,
    /// Each line is an event of `tracing`, at level INFO and with the target `adjoin::cell`, with the cell's name in the
    /// field `cell` and `stdout` or `stderr` in the field `stream`. Lines of more than 8 KiB come in parts, cut between characters; what is not
    /// UTF-8 is shown as U+FFFD. The end of stderr is part of the error, as with [`Forward`](CellOutput::Forward).
    Events,
}

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// Where it goes.
#[derive(Debug)]
enum Sink {
    Stdout,
    Stderr,
    Events { cell: Arc<str>, stream: &'static str, lines: Lines },
}

/// What a cell writes, line by line.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    /// A part of it was told already.
    cut: bool,
}

/// What a cell writes to one of its pipes.
#[derive(Debug)]
pub(super) struct Output {
    /// `None`: the host does not see it.
    pump: Option<JoinHandle<Tail>>,
    served: Arc<AtomicBool>,
}

/// The end of what a cell wrote, at most [`KEPT`] bytes.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Output {
    /// Starts to read, if there is a pipe to be read.
    pub(super) fn new(
        pipe: Option<OwnedFd>,
        stream: Stream,
        way: CellOutput,
        name: &Arc<str>,
        cell: Arc<Shared>,
    ) -> io::Result<Self> {
        let served = Arc::new(AtomicBool::new(false));
        let sink = match (way, stream) {
            (CellOutput::Events, _) => {
                let stream = if stream == Stream::Stdout { "stdout" } else { "stderr" };
                Sink::Events { cell: Arc::clone(name), stream, lines: Lines::default() }
            }
            (_, Stream::Stdout) => Sink::Stdout,
            (_, Stream::Stderr) => Sink::Stderr,
        };
        let pump = match pipe {
            None => None,
            Some(pipe) => {
                let pipe = Receiver::from_owned_fd(pipe)?;
                Some(tokio::spawn(pump(pipe, sink, cell, served.clone())))
            }
        };
        Ok(Output { pump, served })
    }

    /// The cell serves: show what comes, keep nothing.
    pub(super) fn served(self) {
        // Relaxed: a switch that nothing depends on; noticed late, a few bytes more are kept.
        self.served.store(true, Ordering::Relaxed);
    }

    /// The end of what the cell wrote. It must have ended, or this waits for it.
    pub(super) async fn tail(self) -> String {
        let Some(pump) = self.pump else { return String::new() };
        // An error is that the runtime is shutting down.
        let tail = pump.await.unwrap_or_default();
        String::from_utf8_lossy(&tail.0).into_owned()
    }
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let surplus = self.0.len().saturating_sub(KEPT);
        self.0.drain(..surplus);
    }
}

impl Sink {
    fn take(&mut self, bytes: &[u8]) {
        match self {
            // A host without a stdout or a stderr still wants its cell to run.
            Sink::Stdout => {
                let mut stdout = io::stdout().lock();
                let written = stdout.write_all(bytes);
                drop(written.and_then(|()| stdout.flush())); // a prompt has no end of its line
            }
            Sink::Stderr => drop(io::stderr().lock().write_all(bytes)),
            Sink::Events { cell, stream, lines } => lines.take(bytes, |line| log(cell, stream, line)),
        }
    }

    /// Nothing comes any more: what has no end of its line is a line, too.
    fn end(&mut self) {
        if let Sink::Events { cell, stream, lines } = self {
            lines.end(|line| log(cell, stream, line));
        }
    }
}

impl Lines {
    fn take(&mut self, bytes: &[u8], mut tell: impl FnMut(&str)) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line(&mut tell);
                continue;
            }
            self.line.push(byte);
            if self.line.len() == LONGEST_LINE {
                let next = self.line.split_off(whole_characters(&self.line));
                tell(&String::from_utf8_lossy(&self.line));
                (self.line, self.cut) = (next, true);
            }
        }
    }

    fn end_line(&mut self, tell: &mut impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.line);
        let text = text.trim_end_matches('\r');
        // The end of a line right behind a cut is not an empty line.
        if !text.is_empty() || !self.cut {
            tell(text);
        }
        self.line.clear();
        self.cut = false;
    }

    /// Nothing comes any more.
    fn end(&mut self, mut tell: impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.end_line(&mut tell);
        }
    }
}

/// How much of a line comes before a character whose end is not there yet: all of it, if there is none.
fn whole_characters(line: &[u8]) -> usize {
    let starts = |byte: &u8| *byte & 0b1100_0000 != 0b1000_0000;
    let Some(last) = line.iter().rposition(starts) else { return line.len() };
    match line.get(last..).map(str::from_utf8) {
        Some(Err(error)) if error.valid_up_to() == 0 && error.error_len().is_none() => last,
        _ => line.len(),
    }
}

fn log(cell: &str, stream: &str, line: &str) {
    tracing::info!(target: "adjoin::cell", cell, stream, "{line}");
}

/// Reads until the pipe's end, or the cell's.
async fn pump(pipe: Receiver, mut sink: Sink, cell: Arc<Shared>, served: Arc<AtomicBool>) -> Tail {
    let mut tail = Tail::default();
    loop {
        // The end first: a pipe that others write to may always have something.
        let waited = race(cell.ended(), pipe.readable()).await;
        let last = matches!(waited, Either::Left(_) | Either::Right(Err(_)));
        let reads = if last { READS_AT_END } else { READS_AT_ONCE };
        if !forward(&pipe, reads, &mut sink, &mut tail, &served) || last {
            sink.end();
            return tail;
        }
        // A pipe that is ready costs nothing of the task's budget, so the runtime would never make it wait.
        yield_now().await;
    }
}

/// Takes what is there, in so many reads at most; false at the end of the pipe.
fn forward(pipe: &Receiver, reads: usize, sink: &mut Sink, tail: &mut Tail, served: &AtomicBool) -> bool {
    let mut bytes = [0; KEPT];
    for _ in 0..reads {
        let read = match pipe.try_read(&mut bytes) {
            Ok(0) => return false,
            Ok(read) => read,
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        };
        let read = bytes.get(..read).unwrap_or_default();
        sink.take(read);
        if served.load(Ordering::Relaxed) {
            *tail = Tail::default();
        } else {
            tail.push(read);
        }
    }
    true
}

/// How much of a cell's stderr an error carries, in bytes.
const KEPT: usize = 4096;
/// Bytes of the longest line that is one event.
const LONGEST_LINE: usize = 8 << 10;
/// How many times the pipe is read before others have their turn. Each byte may be a line, and so an event.
const READS_AT_ONCE: usize = 1;
/// How many times it is read after the cell's end: more than a pipe holds by default.
const READS_AT_END: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_end_of_what_was_written() {
        let mut tail = Tail::default();
        for byte in 0..=u8::MAX {
            tail.push(&[byte; 100]);
        }
        assert_eq!(tail.0.len(), KEPT);
        assert_eq!((tail.0[KEPT - 1], tail.0[0]), (255, 215));
    }

    fn told(written: &[u8]) -> Vec<String> {
        let (mut lines, mut told) = (Lines::default(), Vec::new());
        lines.take(written, |line| told.push(line.to_owned()));
        lines.end(|line| told.push(line.to_owned()));
        told
    }

    #[test]
    fn the_end_of_a_line_behind_a_cut_is_no_line() {
        let long = "x".repeat(LONGEST_LINE);
        for end in ["\n", "\r\n", ""] {
            assert_eq!(
                told(format!("{long}{long}{end}\nnext\n").as_bytes()).len(),
                3 + usize::from(!end.is_empty())
            );
            assert_eq!(told(format!("{long}{end}").as_bytes()), *std::slice::from_ref(&long));
        }
        assert_eq!(told(b"\n\r\nlast"), ["", "", "last"]);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        // Of two, three and four bytes, and the cut at each place within.
        for character in ["\u{e9}", "\u{20ac}", "\u{1f980}"] {
            for ahead in 0..character.len() {
                let line = format!("{}{}", "x".repeat(ahead), character.repeat(LONGEST_LINE));
                let told = told(line.as_bytes());
                assert!(told.iter().all(|part| part.len() <= LONGEST_LINE));
                assert_eq!(told.concat(), line);
            }
        }
        // What is no character is not waited for.
        for wrong in [0x80, 0xff] {
            assert_eq!(told(&vec![wrong; LONGEST_LINE]), ["\u{fffd}".repeat(LONGEST_LINE)]);
        }
    }
}
