//! Tasks that wait for the same thing.

use std::{
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

/// Wakers of the tasks that wait. All are woken at once and look for themselves.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    wakers: Vec<Waker>,
}

impl Waiters {
    /// Adds a task, once however often it asks.
    #[inline]
    pub(crate) fn add(&mut self, waker: &Waker) {
        if !self.wakers.iter().any(|known| known.will_wake(waker)) {
            self.wakers.push(waker.clone());
        }
    }

    /// Takes all, to be woken outside of locks.
    #[inline]
    pub(crate) fn take(&mut self) -> Vec<Waker> {
        mem::take(&mut self.wakers)
    }
}

/// Wakes tasks.
#[inline]
pub(crate) fn wake_all(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}
