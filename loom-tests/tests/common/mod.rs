//! What the kernel does for a sleeper, in loom's terms.
#![allow(dead_code, reason = "each file of models uses its part")]

use adjoin_shm_layout::model::ModelHalves;
use adjoin_shm_layout::{Frame, Park, Parked, RingWriter, Wake};
use loom::sync::{Condvar, Mutex, MutexGuard};

/// One side of a model's link.
pub(crate) type Side = adjoin_shm_layout::Attached<ModelHalves>;

/// What the sleepers of one side sleep on: the futex at the peer's wake word, and their bell.
///
/// Whoever sleeps when nobody is left to wake it is a deadlock, which loom reports: a lost wake-up fails the
/// model.
pub(crate) struct Sleepers {
    bell: Mutex<bool>,
    woken: Condvar,
}

impl Sleepers {
    /// Nobody sleeps, and the bell is silent.
    pub(crate) fn new() -> Self {
        Self { bell: Mutex::new(false), woken: Condvar::new() }
    }

    /// Sleeps, as the kernel does it: not at all when the wake word has changed, which is compared under its
    /// lock.
    pub(crate) fn sleep_on_futex(&self, park: &Park<ModelHalves>, parked: &Parked) {
        let guard = self.lock();
        if !park.woken(parked) {
            drop(self.woken.wait(guard).unwrap());
        }
    }

    /// Sleeps until the bell has been rung, and silences it. A bell keeps what was rung before.
    pub(crate) fn sleep_on_bell(&self) {
        let mut rung = self.lock();
        while !*rung {
            rung = self.woken.wait(rung).unwrap();
        }
        *rung = false;
    }

    /// Silences the bell, and does not sleep, as a task that is polled for another reason.
    pub(crate) fn silence(&self) {
        *self.lock() = false;
    }

    /// Carries out what is left to do of a wake, as whoever published does.
    pub(crate) fn carry_out(&self, wake: Wake) {
        if wake != Wake::Nobody {
            let mut rung = self.lock();
            *rung |= wake.bell();
            self.woken.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.bell.lock().unwrap()
    }
}

/// Runs a model that is too large to be explored whole: no more than `preemptions` switches away from a
/// thread that could go on, and all that there are at waits.
pub(crate) fn bounded(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Commits a frame with the body `[byte; len]`, if there is room now.
pub(crate) fn try_send(writer: &mut RingWriter<ModelHalves>, byte: u8, len: usize) -> bool {
    let Ok(mut room) = writer.reserve(len) else {
        return false;
    };
    room.write_at(0, &vec![byte; len]);
    room.commit(byte.into(), len);
    true
}

/// Checks that a frame is the one that [`try_send`] made of the same values, and releases it.
pub(crate) fn take(frame: Frame<'_, ModelHalves>, byte: u8, len: usize) {
    assert_eq!((frame.tag(), frame.len()), (byte.into(), len));
    let mut body = vec![!byte; len];
    frame.copy_to(0, &mut body);
    assert_eq!(body, vec![byte; len]);
    frame.release();
}
