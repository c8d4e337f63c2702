//! Tasks that wait for the same thing.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Mutex, MutexGuard, PoisonError, TryLockError},
    task::Waker,
};

/// Locks, and goes on after a panic: what is locked here is consistent at every await of a caller's code.
#[inline]
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks if nobody else has; `None` otherwise.
#[inline]
pub(crate) fn try_lock<T: ?Sized>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Tasks that wait, first come first, each with a ticket by which it can leave. All are woken at once and look for
/// themselves, or the first alone.
///
/// A waker keeps the memory of its task. So whoever gives up waiting leaves: what is waited for may never come, and the
/// tasks that gave up would be as many as a peer wants.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: BTreeMap<u64, Waker>,
    next: u64,
}

impl Queue {
    /// Adds a task, or, if its ticket is still good, renews its waker. Returns its ticket, and a waker to be dropped
    /// outside of the lock.
    pub(crate) fn wait(&mut self, ticket: Option<u64>, waker: &Waker) -> (u64, Option<Waker>) {
        if let Some(ticket) = ticket
            && let Some(known) = self.waiting.get_mut(&ticket)
        {
            let renewed = (!known.will_wake(waker)).then(|| mem::replace(known, waker.clone()));
            return (ticket, renewed);
        }
        let ticket = self.next;
        self.next += 1;
        (ticket, self.waiting.insert(ticket, waker.clone()))
    }

    /// Removes a task that waits no more. Its waker is to be dropped outside of the lock.
    #[must_use]
    pub(crate) fn leave(&mut self, ticket: u64) -> Option<Waker> {
        self.waiting.remove(&ticket)
    }

    /// Whether nobody waits in front of a task: it has the first ticket, or there is none.
    pub(crate) fn is_first(&self, ticket: Option<u64>) -> bool {
        self.waiting.keys().next().is_none_or(|first| Some(*first) == ticket)
    }

    /// The one who waits longest, to be woken outside of locks.
    pub(crate) fn first(&self) -> Option<Waker> {
        self.waiting.values().next().cloned()
    }

    /// Takes all, to be woken outside of locks.
    pub(crate) fn take(&mut self) -> Vec<Waker> {
        mem::take(&mut self.waiting).into_values().collect()
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

/// Wakes tasks.
#[inline]
pub(crate) fn wake_all(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}
