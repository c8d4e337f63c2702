//! The link's memory that is lent to the application, and who waits for it.

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

    /// Lends memory. `None`: the link has none of its own.
    pub(crate) fn lend(&self, len: usize) -> Result<Option<Box<dyn Fill>>, SendFault> {
        self.check_open()?;
        self.lending().map(|lending| self.noted(lending.lend(len))).transpose()
    }

    /// As [`lend`](Hub::lend); `Pending` leaves the task's waker behind while all is lent.
    pub(crate) fn poll_lend(
        self: &Arc<Self>,
        cx: &Context<'_>,
        place: &mut Place,
        len: usize,
    ) -> Poll<Result<Option<Box<dyn Fill>>, SendFault>> {
        let mut waits = false;
        loop {
            match self.lend(len) {
                Err(SendFault::Full) if waits => return Poll::Pending,
                Err(SendFault::Full) => {}
                done => return Poll::Ready(done),
            }
            place.wait(self, For::Loan, cx.waker());
            // Release: pairs with the Acquire load in `wake_waiting`; before the lending is asked to tell of returns.
            self.loans_wanted.store(true, Ordering::Release);
            if let Some(lending) = self.lending() {
                lending.await_loan(len);
            }
            waits = true;
        }
    }

    /// Wakes those who wait for a loan, if there may be one.
    pub(super) fn wake_lent(&self) -> Result<(), LinkEnd> {
        let Some(lending) = self.lending() else { return Ok(()) };
        if lending.has_loan()? {
            self.loans_wanted.store(false, Ordering::Release); // before they are woken, and say so anew
            let wakers = lock(&self.loans).take();
            wake_all(wakers);
        }
        Ok(())
    }

    pub(crate) fn blocks_in_use(&self) -> Result<usize, LinkEnd> {
        self.ended().map_or(Ok(()), |end| Err(end.clone()))?;
        self.lending().map_or(Ok(0), |lending| lending.blocks_in_use())
    }
}
