//! The shortest way from one process to another: a cache line of each, with a number in it.

use std::{
    io::Read,
    process::Stdio,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use adjoin_shm_layout::Memory;
use rustix::thread::futex::{self, Flags};

use super::{Server, memory, repeat, say_ready, timed};
use crate::{
    Failure,
    args::{Case, Link},
    measure::Figures,
};

/// Bytes of payload in a line.
pub(crate) const ROOM: u32 = 56;

/// What one side writes.
#[repr(C, align(128))]
struct Line {
    turn: AtomicU32,
    payload: [AtomicU64; ROOM as usize / 8],
}

/// Both lines.
struct Lines(memory::Shared);

impl Lines {
    fn line(&self, index: usize) -> &Line {
        assert!((index + 1) * size_of::<Line>() <= self.0.byte_len());
        // SAFETY: in bounds: asserted; aligned: a mapping starts at a page. All of it is atomics, for which all bytes are
        // good. Alive: `&self`.
        unsafe { self.0.base().cast::<Line>().add(index).as_ref() }
    }

    /// Writes a payload and the turn that it belongs to, and wakes the other side if it may sleep.
    fn say(&self, index: usize, turn: u32, payload: &[u64], sleeps: bool) {
        let line = self.line(index);
        line.payload.iter().zip(payload).for_each(|(to, from)| to.store(*from, Ordering::Relaxed));
        line.turn.store(turn, Ordering::Release); // pairs with the Acquire load in `hear`
        if sleeps {
            let _ = futex::wake(&line.turn, Flags::empty(), 1);
        }
    }

    /// Waits for a turn, and reads its payload. `None`: it was the last one.
    fn hear(&self, index: usize, turn: u32, payload: &mut [u64], sleeps: bool) -> Option<()> {
        let line = self.line(index);
        loop {
            match line.turn.load(Ordering::Acquire) {
                LAST => return None,
                found if found == turn => break,
                found if sleeps => drop(futex::wait(&line.turn, Flags::empty(), found, None)),
                _ => std::hint::spin_loop(),
            }
        }
        payload.iter_mut().zip(&line.payload).for_each(|(to, from)| *to = from.load(Ordering::Relaxed));
        Some(())
    }
}

/// The turn after which there is none.
const LAST: u32 = u32::MAX;

fn words(case: &Case) -> usize {
    case.size.div_ceil(8) as usize
}

pub(super) fn measure(
    sleeps: bool,
    cpu: Option<usize>,
    case: &Case,
    time: Duration,
) -> Result<Figures, Failure> {
    let limit = if sleeps { Link::Futex } else { Link::Line };
    let (file, name) = memory::file(4096)?;
    let lines = Lines(memory::Shared::map(&file)?);
    let mut server = Server::start(limit, cpu, case, &name, Stdio::piped())?;
    server.is_ready()?;
    let (mut sent, mut turn) = (vec![0_u64; words(case)], 0_u32);
    let mut back = sent.clone();
    let figures = timed(time, &server, |until, latency| {
        repeat(until, true, latency, |n| {
            turn += 1;
            sent[0] = n;
            lines.say(0, turn, &sent, sleeps);
            lines.hear(1, turn, &mut back, sleeps);
            if back == sent { Ok(()) } else { Err("an echo is not what was sent".into()) }
        })
    })?;
    lines.say(0, LAST, &[], sleeps);
    server.reap()?;
    Ok(figures)
}

pub(super) fn serve(sleeps: bool, case: &Case, address: &str) -> Result<(), Failure> {
    let lines = Lines(memory::Shared::map(&memory::inherited(address)?)?);
    // A parent that dies leaves nobody behind that spins.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    say_ready()?;
    let mut payload = vec![0; words(case)];
    let mut turn = 1;
    while lines.hear(0, turn, &mut payload, sleeps).is_some() {
        lines.say(1, turn, &payload, sleeps);
        turn += 1;
    }
    Ok(())
}
