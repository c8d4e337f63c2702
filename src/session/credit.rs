//! The credit of one channel (protocol section 6): bytes of Data's payloads, as totals since it opened.
//!
//! Totals are `u64` and never wrap: 2^64 bytes take centuries.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

/// What the sender of a channel may still send. Invariant: `sent + set_aside <= granted`.
///
/// `sent` and `set_aside` grow under the lock of the link's sender alone; `granted` by whoever brings a grant. No memory
/// is published through them, so accesses are Relaxed; but what was read from a peer's counter must not seem
/// to go backwards, see [`granted`](SendWindow::granted).
#[derive(Debug)]
pub(crate) struct SendWindow {
    sent: AtomicU64,
    granted: AtomicU64,
    /// Bytes that are promised to elements which are not there yet.
    set_aside: AtomicU64,
}

impl SendWindow {
    pub(crate) fn new(initial: u32) -> Self {
        let granted = AtomicU64::new(u64::from(initial));
        SendWindow { sent: AtomicU64::new(0), granted, set_aside: AtomicU64::new(0) }
    }

    /// Whether an element of `len` bytes may be sent now.
    pub(crate) fn allows(&self, len: usize) -> bool {
        self.available() >= len as u64
    }

    /// Bytes that may be sent now, without those that are set aside.
    pub(crate) fn available(&self) -> u64 {
        let used = self.sent.load(Relaxed).saturating_add(self.set_aside.load(Relaxed));
        self.granted.load(Relaxed).saturating_sub(used)
    }

    /// Promises `len` bytes of what [`allows`](SendWindow::allows) them to an element that is not there yet.
    pub(crate) fn set_aside(&self, len: usize) {
        debug_assert!(self.allows(len), "set aside beyond the credit");
        self.set_aside.fetch_add(len as u64, Relaxed);
    }

    /// Takes [`set_aside`](SendWindow::set_aside) back, under whatever lock.
    pub(crate) fn release(&self, len: usize) {
        self.set_aside.fetch_sub(len as u64, Relaxed);
    }

    /// What was granted since the channel opened.
    pub(crate) fn granted(&self) -> u64 {
        // Acquire: pairs with the AcqRel in `granted_total`; whoever reads the peer's counter behind this reads
        // no less than what was stored here.
        self.granted.load(Acquire)
    }

    /// An element was sent.
    pub(crate) fn sent(&self, len: usize) {
        let sent = self.sent.load(Relaxed) + len as u64;
        debug_assert!(sent <= self.granted.load(Relaxed), "sent beyond the credit");
        self.sent.store(sent, Relaxed);
    }

    /// The receiver grants more bytes.
    pub(crate) fn grant(&self, bytes: u32) {
        let _ = self
            .granted
            .fetch_update(Relaxed, Relaxed, |granted| Some(granted.saturating_add(u64::from(bytes))));
    }

    /// The receiver has granted `total` bytes since the channel opened; less than before is ignored.
    pub(crate) fn granted_total(&self, total: u64) {
        // AcqRel: pairs with the Acquire in `granted`.
        self.granted.fetch_max(total, AcqRel);
    }
}

/// What the receiver of a channel has granted and got. Invariants: `taken <= received <= granted`, and
/// `granted <= taken + window + window / 4`. The window is the initial one and by how much it was
/// [widened](ReceiveWindow::widen).
///
/// Grants aim a quarter of the window beyond the window itself, so that what is not worth a grant yet is
/// never missing: a sender whose receiver has taken everything has a whole window, and the largest element
/// that fits one can go. An [exact](ReceiveWindow::make_exact) one keeps to the window, and grants also when
/// everything was taken.
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    window: u64,
    received: u64,
    granted: u64,
    taken: u64,
    exact: bool,
    /// What arrived last left the sender without credit for as much again, or with little.
    pressed: bool,
}

/// More credit to give: the new total, and how much that is more than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) total: u64,
    pub(crate) more: u32,
}

impl ReceiveWindow {
    pub(crate) fn new(window: u32) -> Self {
        let window = u64::from(window);
        ReceiveWindow { window, received: 0, granted: window, taken: 0, exact: false, pressed: false }
    }

    /// From now on no more than one window waits to be taken, at the price of a grant whenever all was taken.
    pub(crate) fn make_exact(&mut self) {
        self.exact = true;
    }

    /// Bytes that were received and not taken.
    pub(crate) fn outstanding(&self) -> u64 {
        self.received - self.taken
    }

    /// An element arrived. `Err` with what was sent and granted in all: the sender overran its credit.
    pub(crate) fn received(&mut self, len: usize) -> Result<(), (u64, u64)> {
        let received = self.received + len as u64;
        if received > self.granted {
            return Err((received, self.granted));
        }
        self.received = received;
        self.pressed = self.room() < (self.window / GRANT_STEPS).max(len as u64);
        Ok(())
    }

    /// By how much the window should be wider: once more what it is, if it is the window that the sender waits for, and
    /// not the reader. Then the sender has used up its credit, and the reader has taken all of it.
    pub(crate) fn wanted(&self) -> u64 {
        if self.pressed && self.outstanding() == 0 && !self.exact { self.window } else { 0 }
    }

    /// Makes the window wider; the credit for that goes with the next grant.
    pub(crate) fn widen(&mut self, bytes: u64) {
        self.window += bytes;
        self.pressed = false;
    }

    /// The application took `len` bytes out.
    pub(crate) fn taken(&mut self, len: usize) {
        self.taken += len as u64;
        debug_assert!(self.taken <= self.received, "taken before it was received");
    }

    /// Gives credit back for what was taken, in steps of a quarter of the window: the sender stays busy, and grants stay
    /// rare.
    pub(crate) fn grant(&mut self) -> Option<Grant> {
        let step = self.window / GRANT_STEPS;
        let beyond = if self.exact { 0 } else { step };
        let more = (self.taken + self.window + beyond).saturating_sub(self.granted);
        let at_least = if self.exact && self.outstanding() == 0 { 1 } else { step.max(1) };
        if more < at_least {
            return None;
        }
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.granted += u64::from(more);
        Some(Grant { total: self.granted, more })
    }

    /// Bytes that may still be received.
    pub(crate) fn room(&self) -> u64 {
        self.granted - self.received
    }

    /// Makes room for one element that exceeds the whole window, if nothing is in its way.
    pub(crate) fn stretch(&mut self, len: usize) {
        if self.outstanding() == 0 {
            self.granted = self.granted.max(self.received + len as u64);
        }
    }
}

/// Grants per window.
const GRANT_STEPS: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    impl ReceiveWindow {
        fn give_back(&mut self, len: usize) -> Option<Grant> {
            self.taken(len);
            self.grant()
        }
    }

    #[test]
    fn an_exact_window_is_never_exceeded_and_whole_when_all_was_taken() {
        let mut window = ReceiveWindow::new(100);
        window.make_exact();
        let mut granted = 100;
        for len in [100, 1, 99, 24, 1, 75, 3] {
            window.received(len).unwrap();
            let grant = window.give_back(len).expect("all was taken");
            granted += u64::from(grant.more);
            assert_eq!((grant.total, grant.total), (granted, window.received + 100));
        }
        window.received(100).unwrap();
        assert_eq!(window.give_back(24), None, "less than a quarter, and not all");
        assert_eq!(window.give_back(1).map(|grant| grant.more), Some(25));
    }

    #[test]
    fn a_sender_stops_at_its_credit_and_goes_on_with_more() {
        let window = SendWindow::new(10);
        assert!(window.allows(10) && !window.allows(11));
        window.sent(10);
        assert!(window.allows(0) && !window.allows(1));
        window.grant(5);
        assert!(window.allows(5) && !window.allows(6));
        window.granted_total(12);
        assert!(window.allows(5), "a total below what is known changes nothing");
        window.granted_total(30);
        assert!(window.allows(20));
    }

    #[test]
    fn what_is_set_aside_is_not_there_for_others_until_it_is_released() {
        let window = SendWindow::new(10);
        window.set_aside(6);
        assert!(window.allows(4) && !window.allows(5));
        window.sent(4);
        assert_eq!(window.available(), 0);
        window.release(6);
        assert!(window.allows(6) && !window.allows(7));
    }

    #[test]
    fn credit_beyond_what_totals_can_hold_saturates() {
        let window = SendWindow::new(1);
        window.granted_total(u64::MAX - 1);
        window.grant(u32::MAX);
        assert!(window.allows(usize::MAX));
    }

    #[test]
    fn a_receiver_grants_in_steps_what_was_taken() {
        let mut window = ReceiveWindow::new(100);
        window.received(100).unwrap();
        assert_eq!(window.received(1), Err((101, 100)));
        assert_eq!(window.give_back(1), Some(Grant { total: 126, more: 26 }));
        assert_eq!(window.give_back(24), None);
        assert_eq!(window.give_back(1), Some(Grant { total: 151, more: 25 }));
        window.received(51).unwrap();
    }

    #[test]
    fn a_receiver_that_has_taken_everything_leaves_its_sender_a_whole_window() {
        let mut window = ReceiveWindow::new(64);
        let (mut sent, mut granted) = (0, 64);
        for len in (1..=64).chain([64, 3, 61, 17, 48]) {
            assert!(granted - sent >= 64, "{granted} granted, {sent} sent, all taken");
            sent += len as u64;
            window.received(len).unwrap();
            granted = window.give_back(len).map_or(granted, |grant| grant.total);
        }
    }

    #[test]
    fn an_element_beyond_the_window_passes_alone() {
        let mut window = ReceiveWindow::new(10);
        window.stretch(50);
        window.received(50).unwrap();
        window.stretch(50);
        assert!(window.received(1).is_err());
        assert_eq!(window.give_back(50), Some(Grant { total: 62, more: 12 }));
    }

    #[test]
    fn a_window_wants_to_be_wider_when_it_is_what_the_sender_waits_for() {
        let mut window = ReceiveWindow::new(100);
        window.received(70).unwrap();
        window.taken(70);
        assert_eq!(window.wanted(), 100, "another one of 70 bytes cannot go");
        window.grant().unwrap();
        window.received(60).unwrap();
        window.taken(60);
        assert_eq!(window.wanted(), 0, "another one of 60 bytes can go");
        window.received(65).unwrap();
        window.taken(60);
        assert_eq!(window.wanted(), 0, "the reader is behind");
        window.taken(5);
        assert_eq!(window.wanted(), 100, "all of its credit is used up");
        window.widen(100);
        assert_eq!(window.wanted(), 0, "until it has used up that, too");
        assert_eq!(window.grant().map(|grant| grant.total), Some(195 + 200 + 50));
        window.make_exact();
        window.received(250).unwrap();
        window.taken(250);
        assert_eq!(window.wanted(), 0, "it has to keep to what it is");
    }

    #[test]
    fn granted_totals_pass_two_to_the_thirty_two() {
        let mut window = ReceiveWindow::new(1 << 30);
        let mut total = 0;
        for _ in 0..8 {
            window.received(1 << 30).unwrap();
            total = window.give_back(1 << 30).unwrap().total;
        }
        assert_eq!(total, (9 << 30) + (1 << 28));
    }
}
