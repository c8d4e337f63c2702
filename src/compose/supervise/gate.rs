//! Who uses a cell, so that it is stopped when nobody does, and started by nobody while it is stopped.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::rpc::{clock::now, waiters::lock};

/// Lets calls in, counts them, and keeps them out while the cell is stopped.
pub(super) struct Gate {
    inner: Mutex<Inner>,
    /// Somebody has left, or those outside may come in.
    changed: Notify,
}

struct Inner {
    inside: usize,
    shut: bool,
    /// When the last one came or left.
    used: Instant,
}

/// One that is inside. Leaves when it is dropped.
pub(super) struct Use {
    gate: Arc<Gate>,
}

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        let inner = Inner { inside: 0, shut: false, used: now() };
        Arc::new(Gate { inner: Mutex::new(inner), changed: Notify::new() })
    }

    /// Comes in; waits while it is shut.
    pub(super) async fn enter(self: &Arc<Self>) -> Use {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable(); // from here on nothing is missed
            {
                let mut inner = lock(&self.inner);
                if !inner.shut {
                    inner.inside += 1;
                    inner.used = now();
                    return Use { gate: Arc::clone(self) };
                }
            }
            changed.await;
        }
    }

    /// Keeps all out from now on. `false`: somebody else does already.
    pub(super) fn shut(&self) -> bool {
        !std::mem::replace(&mut lock(&self.inner).shut, true)
    }

    /// As [`shut`](Gate::shut), if nobody is inside, nor was for so long. `Err`: how long it is at least until that may
    /// be.
    pub(super) fn shut_if_unused(&self, time: Duration) -> Result<bool, Duration> {
        let mut inner = lock(&self.inner);
        let unused = now().saturating_duration_since(inner.used);
        if inner.inside > 0 {
            return Err(time);
        }
        if unused < time {
            return Err(time - unused);
        }
        Ok(!std::mem::replace(&mut inner.shut, true))
    }

    /// Lets all in again.
    pub(super) fn open(&self) {
        let mut inner = lock(&self.inner);
        inner.shut = false;
        inner.used = now();
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Waits until nobody is inside.
    pub(super) async fn empty(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if lock(&self.inner).inside == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Waits until it is open, if it is shut.
    pub(super) async fn opened(self: &Arc<Self>) {
        drop(self.enter().await);
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut inner = lock(&self.gate.inner);
        inner.inside -= 1;
        inner.used = now();
        let notify = inner.inside == 0 && inner.shut;
        drop(inner);
        if notify {
            self.gate.changed.notify_waiters();
        }
    }
}
