//! What is known of a supervised cell, for those who want to watch.

use std::sync::Arc;

use tokio::sync::watch;

/// Where a [`Supervised`](super::Supervised) cell stands. See the [module](super) for how one leads to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// No process runs: none was needed yet, or it was stopped.
    Idle,
    /// A process is being started.
    Starting,
    /// A process serves.
    Serving {
        /// Its id.
        process: u32,
    },
    /// The process is being stopped; or its link has ended, and it has yet to exit, or to be killed.
    Stopping,
    /// The process ended unasked, or could not be started.
    Ended {
        /// How, in words.
        why: Arc<str>,
    },
    /// It was closed. For good.
    Closed,
}

/// Follows the [`State`] of a cell, without keeping it alive. Made by [`Supervised::watch`](super::Supervised::watch).
#[derive(Clone, Debug)]
pub struct Watch(watch::Receiver<State>);

impl Watch {
    pub(super) fn new(states: watch::Receiver<State>) -> Self {
        Watch(states)
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        self.0.borrow().clone()
    }

    /// Waits until the state is another one than this watch has returned last, or was made at, and returns it. States
    /// that came and went meanwhile are not told. `None`: there will be no other, since the cell is closed or dropped.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the change is told next time.
    pub async fn changed(&mut self) -> Option<State> {
        if *self.0.borrow() == State::Closed && !self.0.has_changed().unwrap_or(false) {
            return None;
        }
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().clone())
    }
}
