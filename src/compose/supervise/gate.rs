//! Who uses a cell, so that it is stopped when nobody does, and started by nobody while it is stopped.
//!
//! ```text
//!   open ──shut──> shut ──bar──> barred ──open──> open
//! ```
//!
//! | | open | shut | barred |
//! |---|---|---|---|
//! | calls come in | yes | no | no |
//! | a process is started, for those inside | yes | yes | no |
//!
//! It is shut for as long as those inside may take to leave. That time can be shortened by all who want it.

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout_at};

use crate::rpc::{clock::now, waiters::lock};

/// Lets calls in, counts them, and keeps them out while the cell is stopped.
pub(super) struct Gate {
    inner: Mutex<Inner>,
    /// Somebody has left, or those outside may come in, or those inside have less time.
    changed: Notify,
}

struct Inner {
    inside: usize,
    /// It is shut: until when those inside may take to leave.
    shut: Option<Instant>,
    barred: bool,
    /// When the last one came or left.
    used: Instant,
}

/// One that is inside. Leaves when it is dropped.
pub(super) struct Use {
    gate: Arc<Gate>,
}

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        let inner = Inner { inside: 0, shut: None, barred: false, used: now() };
        Arc::new(Gate { inner: Mutex::new(inner), changed: Notify::new() })
    }

    /// Comes in; waits while it is shut.
    pub(super) async fn enter(self: &Arc<Self>) -> Use {
        let enter = |inner: &mut Inner| {
            inner.inside += 1;
            inner.used = now();
            Use { gate: Arc::clone(self) }
        };
        self.wait(|inner| inner.shut.is_none().then(|| enter(inner))).await
    }

    /// Keeps all out from now on; those inside have until then. `false`: somebody else does already, and those inside
    /// have no longer than either says.
    pub(super) fn shut(&self, until: Instant) -> bool {
        let mut inner = lock(&self.inner);
        let shut = inner.shut.is_none();
        inner.shut = Some(inner.shut.map_or(until, |other| other.min(until)));
        drop(inner);
        self.changed.notify_waiters();
        shut
    }

    /// As [`shut`](Gate::shut), if nobody is inside, nor was for so long. `Err`: how long it is at least until that may
    /// be.
    pub(super) fn shut_if_unused(&self, time: Duration, until: Instant) -> Result<bool, Duration> {
        let mut inner = lock(&self.inner);
        let unused = now().saturating_duration_since(inner.used);
        if inner.inside > 0 {
            return Err(time);
        }
        if unused < time {
            return Err(time - unused);
        }
        let shut = inner.shut.is_none();
        inner.shut.get_or_insert(until);
        Ok(shut)
    }

    /// If it is shut, those inside have no longer than until then.
    pub(super) fn hurry(&self, until: Instant) {
        let mut inner = lock(&self.inner);
        inner.shut = inner.shut.map(|other| other.min(until));
        drop(inner);
        self.changed.notify_waiters();
    }

    /// From now on no process is started, until it is open again.
    pub(super) fn bar(&self) {
        lock(&self.inner).barred = true;
    }

    /// Lets all in again.
    pub(super) fn open(&self) {
        let mut inner = lock(&self.inner);
        (inner.shut, inner.barred) = (None, false);
        inner.used = now();
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Waits until nobody is inside.
    pub(super) async fn empty(&self) {
        self.wait(|inner| (inner.inside == 0).then_some(())).await;
    }

    /// Waits until those inside have had their time, if it is shut.
    pub(super) async fn time_is_up(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable(); // from here on nothing is missed
            let Some(until) = lock(&self.inner).shut else { return };
            if timeout_at(until.into(), changed).await.is_err() {
                return;
            }
        }
    }

    /// Waits until it is open, if it is shut.
    pub(super) async fn opened(&self) {
        self.wait(|inner| inner.shut.is_none().then_some(())).await;
    }

    /// Does something at a moment at which a process may be started: it is barred before that, or after it, and not
    /// meanwhile.
    pub(super) async fn unbarred<T>(&self, run: impl FnOnce() -> T) -> T {
        let mut run = Some(run);
        self.wait(|inner| if inner.barred { None } else { run.take().map(|run| run()) }).await
    }

    /// Waits until there is what is looked for.
    async fn wait<T>(&self, mut look: impl FnMut(&mut Inner) -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = look(&mut lock(&self.inner)) {
                return found;
            }
            changed.await;
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut inner = lock(&self.gate.inner);
        inner.inside -= 1;
        inner.used = now();
        let notify = inner.inside == 0 && inner.shut.is_some();
        drop(inner);
        if notify {
            self.gate.changed.notify_waiters();
        }
    }
}
