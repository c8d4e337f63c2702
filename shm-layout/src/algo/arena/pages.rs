//! Which pages of a region are free.

use alloc::vec;
use alloc::vec::Vec;

/// The free pages of a region, as runs.
///
/// Invariant: the runs are in the order of their addresses, none is empty, and between two of them there is a page
/// that is not free.
#[derive(Debug)]
pub(super) struct Pages {
    free: Vec<Run>,
}

/// Pages one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u32,
    pages: u32,
}

impl Run {
    fn end(self) -> u32 {
        self.first + self.pages
    }
}

impl Pages {
    /// A region of which all is free.
    pub(super) fn new(first: u32, pages: u32) -> Self {
        Self { free: if pages == 0 { Vec::new() } else { vec![Run { first, pages }] } }
    }

    /// Takes the lowest place for so many pages, at least one. One look at each run in front of it; at most as many
    /// as there are blocks.
    pub(super) fn take(&mut self, pages: u32) -> Option<u32> {
        let at = self.free.iter().position(|run| run.pages >= pages)?;
        let run = &mut self.free[at];
        let first = run.first;
        run.first += pages;
        run.pages -= pages;
        if run.pages == 0 {
            self.free.remove(at);
        }
        Some(first)
    }

    /// Whether [`take`](Self::take) would find a place.
    pub(super) fn has(&self, pages: u32) -> bool {
        self.free.iter().any(|run| run.pages >= pages)
    }

    /// Frees pages that were taken.
    pub(super) fn give_back(&mut self, first: u32, pages: u32) {
        let at = self.free.partition_point(|run| run.first < first);
        let given = Run { first, pages };
        let joins_before = at > 0 && self.free[at - 1].end() == first;
        let joins_behind = self.free.get(at).is_some_and(|run| run.first == given.end());
        match (joins_before, joins_behind) {
            (true, true) => self.free[at - 1].pages += pages + self.free.remove(at).pages,
            (true, false) => self.free[at - 1].pages += pages,
            (false, true) => self.free[at] = Run { first, pages: pages + self.free[at].pages },
            (false, false) => self.free.insert(at, given),
        }
        debug_assert!(self.free.windows(2).all(|pair| pair[0].end() < pair[1].first), "{:?}", self.free);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn random_takes_and_returns_agree_with_a_map_of_pages() {
        const PAGES: u32 = 64;
        let mut free = Pages::new(10, PAGES);
        let mut map = [false; PAGES as usize];
        let mut taken: Vec<Run> = Vec::new();
        let mut random = 3u64;
        for _ in 0..if cfg!(miri) { 300 } else { 100_000 } {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = (random >> 33) as usize;
            if random >> 63 == 0 && !taken.is_empty() {
                let run = taken.swap_remove(number % taken.len());
                free.give_back(run.first, run.pages);
                map[run.first as usize - 10..run.end() as usize - 10].fill(false);
                continue;
            }
            let pages = 1 + (number % 9) as u32;
            let lowest = map.windows(pages as usize).position(|window| !window.contains(&true));
            assert_eq!(free.has(pages), lowest.is_some());
            let first = free.take(pages);
            assert_eq!(first, lowest.map(|lowest| lowest as u32 + 10), "the lowest place");
            if let Some(first) = first {
                let run = Run { first, pages };
                map[first as usize - 10..run.end() as usize - 10].fill(true);
                taken.push(run);
            }
        }
        for run in taken {
            free.give_back(run.first, run.pages);
        }
        assert_eq!(free.free, [Run { first: 10, pages: PAGES }], "in one piece again");
    }

    #[test]
    fn an_empty_region_has_no_place() {
        let mut none = Pages::new(5, 0);
        assert!(!none.has(1));
        assert_eq!(none.take(1), None);
    }
}
