//! The link's memory that is lent to the application, and who waits for it.
//!
//! First come, first served: whoever waits, waits for the memory that it needs, and those behind it, and those that do
//! not wait, take none of it. So a long loan is had among any number of short ones. Only the first is woken; it wakes the
//! next when it leaves.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    task::{Context, Poll},
};

use super::{
    Hub,
    waiting::{For, Place},
};
use crate::{
    error::LinkEnd,
    link::{
        SendFault,
        lending::{Fill, Lending},
    },
    rpc::waiters::{lock, wake_all},
};

impl Hub {
    /// The link's memory, if it has some to lend.
    fn lending(&self) -> Option<Arc<dyn Lending>> {
        self.lending.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What this side gives back wakes those who wait for it, with a loan or with a message.
    pub(super) fn listen_for_returns(self: &Arc<Self>) {
        let Some(lending) = self.lending() else { return };
        let hub = Arc::downgrade(self);
        lending.on_return(Box::new(move || {
            if let Some(hub) = hub.upgrade() {
                hub.wake_driver();
            }
        }));
    }

    /// Lends memory. `None`: the link has none of its own. Full also while others wait for a loan: they came first.
    pub(crate) fn lend(&self, len: usize) -> Result<Option<Box<dyn Fill>>, SendFault> {
        self.lend_to(None, len)
    }

    /// Lends memory to a task that has this ticket, if nobody waits in front of it.
    fn lend_to(&self, ticket: Option<u64>, len: usize) -> Result<Option<Box<dyn Fill>>, SendFault> {
        self.check_open()?;
        let Some(lending) = self.lending() else { return Ok(None) };
        // What can never be lent is refused at once.
        if len <= lending.max_len() && !self.is_first(ticket) {
            return Err(SendFault::Full);
        }
        self.noted(lending.lend(len)).map(Some)
    }

    fn is_first(&self, ticket: Option<u64>) -> bool {
        lock(&self.loans).is_first(ticket)
    }

    /// As [`lend`](Hub::lend); `Pending` leaves the task's waker behind while all is lent, or others wait in front.
    pub(crate) fn poll_lend(
        self: &Arc<Self>,
        cx: &Context<'_>,
        place: &mut Place,
        len: usize,
    ) -> Poll<Result<Option<Box<dyn Fill>>, SendFault>> {
        match self.lend_to(place.ticket(For::Loan), len) {
            Err(SendFault::Full) => {}
            done => return Poll::Ready(done),
        }
        place.wait(self, For::Loan, cx.waker());
        let ticket = place.ticket(For::Loan);
        // Release: pairs with the Acquire load in `wake_waiting`; before the lending is asked to tell of returns.
        self.loans_wanted.store(true, Ordering::Release);
        if let (true, Some(lending)) = (self.is_first(ticket), self.lending()) {
            lending.await_loan(len);
        }
        // Memory may have come back before that. One who was in front and leaves from here on wakes this task.
        match self.lend_to(ticket, len) {
            Err(SendFault::Full) => Poll::Pending,
            done => Poll::Ready(done),
        }
    }

    /// Gives up a place among those that wait for a loan, with a loan or without, and wakes the next.
    pub(super) fn leave_loans(&self, ticket: u64) {
        let lending = self.lending();
        let mut loans = lock(&self.loans);
        let was_first = loans.is_first(Some(ticket));
        let left = loans.leave(ticket);
        // Under the lock: who comes later says later that it waits.
        if let (true, Some(lending)) = (loans.is_empty(), lending) {
            self.loans_wanted.store(false, Ordering::Release);
            lending.stop_waiting();
        }
        let next = loans.first().filter(|_| was_first);
        drop(loans);
        drop(left); // outside of the lock
        wake_all(next.into_iter().collect());
    }

    /// Wakes the one who waits longest for a loan, if there may be one.
    pub(super) fn wake_lent(&self) -> Result<(), LinkEnd> {
        let Some(lending) = self.lending() else { return Ok(()) };
        if lending.has_loan()? {
            self.loans_wanted.store(false, Ordering::Release); // before it is woken, and says so anew
            let first = lock(&self.loans).first();
            wake_all(first.into_iter().collect());
        }
        Ok(())
    }

    pub(crate) fn blocks_in_use(&self) -> Result<usize, LinkEnd> {
        self.ended().map_or(Ok(()), |end| Err(end.clone()))?;
        self.lending().map_or(Ok(0), |lending| lending.blocks_in_use())
    }
}
