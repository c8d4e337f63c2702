//! When a task that always has something to do lets others run.
//!
//! Not tokio's own budget: a task that has used that up is woken when its runtime next looks at its sockets,
//! which is up to 61 turns of other tasks later. While a link's driver spins, those take 200 us. A task that
//! wakes itself is back after one turn of each of the others.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    task::Context,
};

/// Counts what a task does without waiting.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    done: AtomicU32,
}

/// Things that are done in one turn.
const MOST: u32 = 128;

impl Turn {
    /// Whether it is time to let others run; the task is woken for its next turn then. To be asked before
    /// each thing that is done.
    #[inline]
    pub(crate) fn is_over(&self, cx: &Context<'_>) -> bool {
        // Relaxed, both: a count that nobody else reads; a lost increment makes a turn longer by one.
        let done = self.done.load(Relaxed);
        let over = done >= MOST;
        self.done.store(if over { 0 } else { done + 1 }, Relaxed);
        if over {
            cx.waker().wake_by_ref();
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_turn_is_over_after_so_many_things_and_the_next_one_begins() {
        let (turn, cx) = (Turn::default(), Context::from_waker(Waker::noop()));
        for _ in 0..3 {
            assert!((0..MOST).all(|_| !turn.is_over(&cx)));
            assert!(turn.is_over(&cx));
        }
    }
}
