//! Which channel ids a peer has used, in flat memory however many there were.
//!
//! A peer counts upwards, but its calls race: the Request with channel 3 may go out before the one with
//! channel 1. So ids that were passed over stay fresh, as runs below the highest id used. There are about as
//! many runs as calls that race; a peer that jumps about on purpose has the oldest run counted as used.

use std::collections::BTreeMap;

use super::channels::STEP;

/// The ids of one parity that a peer has used. Invariant: the runs in `skipped` are disjoint, hold ids of the
/// peer's parity only, end below `highest`, and there are at most [`MAX_RUNS`] of them.
pub(crate) struct UsedIds {
    first: u64,
    /// 0: none was used.
    highest: u64,
    /// Runs that were passed over: their first id, and their last.
    skipped: BTreeMap<u64, u64>,
}

impl UsedIds {
    /// None of `first`, `first + STEP`, … is used.
    pub(crate) fn new(first: u64) -> Self {
        UsedIds { first, highest: 0, skipped: BTreeMap::new() }
    }

    /// Whether an id is one of this peer's: of its parity, and not 0.
    pub(crate) fn may_hold(&self, id: u64) -> bool {
        id >= self.first && id % STEP == self.first % STEP
    }

    /// Whether an id was used.
    pub(crate) fn contains(&self, id: u64) -> bool {
        self.may_hold(id) && id <= self.highest && self.run_of(id).is_none()
    }

    /// Uses an id. `false`: it was used before, or is not this peer's.
    #[must_use]
    pub(crate) fn take(&mut self, id: u64) -> bool {
        if !self.may_hold(id) {
            return false;
        }
        if id > self.highest {
            self.pass_over(id);
            self.highest = id;
            return true;
        }
        let Some((first, last)) = self.run_of(id) else { return false };
        self.skipped.remove(&first);
        if first < id {
            self.keep(first, id - STEP);
        }
        if id < last {
            self.keep(id + STEP, last);
        }
        true
    }

    /// The run that holds an id.
    fn run_of(&self, id: u64) -> Option<(u64, u64)> {
        let (first, last) = self.skipped.range(..=id).next_back()?;
        (id <= *last).then_some((*first, *last))
    }

    /// Remembers the ids between the highest and `id`.
    fn pass_over(&mut self, id: u64) {
        let next = if self.highest == 0 { self.first } else { self.highest + STEP };
        if next < id {
            self.keep(next, id - STEP);
        }
    }

    fn keep(&mut self, first: u64, last: u64) {
        self.skipped.insert(first, last);
        if self.skipped.len() > MAX_RUNS {
            self.skipped.pop_first();
        }
    }
}

/// Runs of skipped ids that are remembered for one peer.
const MAX_RUNS: usize = 1024;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_passed_over_can_be_used_later_and_once() {
        let mut used = UsedIds::new(1);
        assert!(used.take(9) && used.take(3) && used.take(1));
        assert!(!used.take(9) && !used.take(3) && !used.take(1));
        assert!(used.contains(3) && !used.contains(5) && !used.contains(7) && !used.contains(11));
        assert!(used.take(7) && used.take(5) && used.take(11));
        assert!(used.skipped.is_empty());
    }

    #[test]
    fn ids_of_the_other_parity_are_nobodys() {
        let (mut odd, mut even) = (UsedIds::new(1), UsedIds::new(2));
        assert!(!odd.take(2) && !even.take(1) && !even.take(0));
        assert!(!odd.contains(2) && !even.contains(0));
    }

    #[test]
    fn the_last_of_all_ids_can_be_used() {
        let mut used = UsedIds::new(1);
        assert!(used.take(u64::MAX) && !used.take(u64::MAX));
        assert!(used.take(u64::MAX - 2) && !used.contains(u64::MAX - 4));
    }

    #[test]
    fn a_peer_that_jumps_about_costs_bounded_memory() {
        let mut used = UsedIds::new(2);
        for jump in 1..=4 * MAX_RUNS as u64 {
            assert!(used.take(jump * 10));
        }
        assert_eq!(used.skipped.len(), MAX_RUNS);
        assert!(used.contains(2), "the oldest run counts as used");
    }

    proptest! {
        #[test]
        fn random_ids_are_used_as_a_set_would_say(ids in prop::collection::vec(0u64..200, 0..400), first in 1u64..=2) {
            let (mut used, mut oracle) = (UsedIds::new(first), HashSet::new());
            for id in ids {
                let fresh = id % STEP == first % STEP && id >= first && oracle.insert(id);
                prop_assert_eq!(used.take(id), fresh);
                prop_assert_eq!((0..210).filter(|id| used.contains(*id)).count(), oracle.len());
            }
        }
    }
}
