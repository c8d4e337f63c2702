//! Which nonces have run, and what they were answered.
//!
//! ```text
//!   (new) ──find──> Running ──record──> Answered ──memory is short──> Forgotten ──keep is over──> (new)
//!                      └────withdraw──> (new)      (it was refused before it ran)
//! ```

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    pin::pin,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{super::clock::now, super::waiters::lock, Nonce};
use crate::session::answer::Verdict;

/// A logical request: its nonce, and its method, so that no method is answered with another one's result.
pub(super) type Key = (Nonce, u64);

/// A Response's payload.
type Payload = Arc<[u8]>;

/// What a nonce takes of the memory, in bytes: its places in the map (which is at most half empty) and in the two
/// queues, and what callers wait on.
pub(super) const ENTRY: usize = 2 * size_of::<(Key, Entry)>()
    + 2 * size_of::<(Instant, Key)>()
    + 2 * size_of::<Key>()
    + size_of::<Joint>()
    + 2 * size_of::<usize>();

/// The bounds of a cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of nonces and answers.
    pub(super) memory: usize,
    /// For how long a nonce is remembered after its answer.
    pub(super) keep: Duration,
    /// Requests that run at once.
    pub(super) running: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { memory: 64 << 20, keep: Duration::from_secs(300), running: 4096 }
    }
}

/// What is known of a nonce.
pub(super) enum Found {
    /// Nothing: it is to run, and this records its answer.
    New(Recorder),
    /// It runs.
    Runs(Arc<Joint>),
    Answered(Payload),
    /// It was answered, and nobody knows what.
    Forgotten,
    /// Nothing, and there is no room for it.
    Full {
        what: &'static str,
        limit: usize,
    },
}

/// The nonces of a service. Invariant of its state: `memory` is [`ENTRY`] for each entry and the lengths of the
/// answers that are remembered, and at most `limits.memory`.
pub(crate) struct Cache {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry, foldhash::fast::RandomState>,
    /// When each was answered, oldest first.
    answered: VecDeque<(Instant, Key)>,
    /// Those whose answers are remembered, oldest first.
    remembered: VecDeque<Key>,
    memory: usize,
    running: usize,
}

enum Entry {
    Running(Arc<Joint>),
    Answered(Payload),
    Forgotten,
}

impl Cache {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Cache { limits, state: Mutex::default() })
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// What is known of a nonce; if it is nothing, it runs from now on.
    pub(super) fn find(self: &Arc<Self>, now: Instant, key: Key) -> Found {
        let mut state = lock(&self.state);
        state.expire(now, self.limits.keep);
        match state.entries.get(&key) {
            Some(Entry::Running(joint)) => return Found::Runs(Arc::clone(joint)),
            Some(Entry::Answered(payload)) => return Found::Answered(Arc::clone(payload)),
            Some(Entry::Forgotten) => return Found::Forgotten,
            None => {}
        }
        if state.running >= self.limits.running {
            return Found::Full { what: "Deduplicate::max_running", limit: self.limits.running };
        }
        if !state.make_room(ENTRY, self.limits.memory) {
            return Found::Full { what: "Deduplicate::memory", limit: self.limits.memory };
        }
        let joint = Arc::new(Joint::default());
        state.memory += ENTRY;
        state.running += 1;
        state.entries.insert(key, Entry::Running(Arc::clone(&joint)));
        Found::New(Recorder { cache: Arc::clone(self), key, joint, open: true })
    }

    /// Remembers an answer, or, if there is no room for it, that there was one.
    fn record(&self, key: Key, payload: &Payload) {
        let mut state = lock(&self.state);
        state.running -= 1;
        state.answered.push_back((now(), key));
        let fits = state.make_room(payload.len(), self.limits.memory);
        let entry = if fits {
            state.memory += payload.len();
            state.remembered.push_back(key);
            Entry::Answered(Arc::clone(payload))
        } else {
            Entry::Forgotten
        };
        state.entries.insert(key, entry);
    }

    /// It never ran: forgets that it came.
    fn withdraw(&self, key: Key) {
        let mut state = lock(&self.state);
        state.running -= 1;
        state.memory -= ENTRY;
        state.entries.remove(&key);
    }
}

impl State {
    /// Forgets what was answered long ago.
    fn expire(&mut self, now: Instant, keep: Duration) {
        while let Some((at, key)) = self.answered.front().copied()
            && now.saturating_duration_since(at) >= keep
        {
            self.answered.pop_front();
            self.memory -= ENTRY;
            if let Some(Entry::Answered(payload)) = self.entries.remove(&key) {
                self.memory -= payload.len();
                // In the order of the answers, so it is the first.
                self.remembered.pop_front();
            }
        }
    }

    /// Forgets the oldest answers until `more` bytes find room. `false`: they cannot.
    fn make_room(&mut self, more: usize, limit: usize) -> bool {
        let needed = self.entries.len().saturating_mul(ENTRY).saturating_add(more);
        if needed > limit {
            return false; // also with no answer left
        }
        while self.memory.saturating_add(more) > limit {
            let Some(key) = self.remembered.pop_front() else { return false };
            if let Some(entry) = self.entries.get_mut(&key)
                && let Entry::Answered(payload) = std::mem::replace(entry, Entry::Forgotten)
            {
                self.memory -= payload.len();
            }
        }
        true
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("Cache")
            .field("limits", &self.limits)
            .field("nonces", &state.entries.len())
            .field("memory", &state.memory)
            .finish_non_exhaustive()
    }
}

/// Where those wait that came while the first one ran.
#[derive(Default)]
pub(crate) struct Joint {
    payload: OnceLock<Payload>,
    told: Notify,
}

impl Joint {
    /// The one answer.
    pub(crate) async fn answer(&self) -> Payload {
        loop {
            let mut told = pin!(self.told.notified());
            told.as_mut().enable(); // from here on nothing is missed
            if let Some(payload) = self.payload.get() {
                return Arc::clone(payload);
            }
            told.await;
        }
    }

    fn tell(&self, payload: Payload) {
        let _ = self.payload.set(payload);
        self.told.notify_waiters();
    }
}

/// Records the answer of a request that runs, once. Dropped without (its handler was stopped, or panicked), it
/// records Cancelled: what was done by then is not known.
pub(crate) struct Recorder {
    cache: Arc<Cache>,
    key: Key,
    joint: Arc<Joint>,
    open: bool,
}

impl Recorder {
    /// The request was answered with this.
    pub(crate) fn record(mut self, payload: &Payload) {
        self.close(payload);
    }

    /// The request was refused before it ran.
    pub(crate) fn withdraw(mut self, verdict: Verdict) {
        self.open = false;
        self.cache.withdraw(self.key);
        self.joint.tell(verdict.bytes().into());
    }

    fn close(&mut self, payload: &Payload) {
        self.open = false;
        self.cache.record(self.key, payload);
        self.joint.tell(Arc::clone(payload));
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.open {
            self.close(&Verdict::Cancelled.bytes().into());
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
