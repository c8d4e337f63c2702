//! What is known of the connection that calls go out on, for those who want to watch.

use tokio::sync::watch;

/// Where a [`Reconnecting`](super::Reconnecting) client stands.
///
/// ```text
///   Idle ──call──> Connecting ────> Connected ──lost──> Idle ──call──> Reconnecting ──> Connected
///                      └──────────────> Gone <───────────────────────────┘
///                                        └──call──> Connecting, Reconnecting
/// ```
///
/// An [eager](super::Builder::eager) client does not wait for a call, neither at first nor after a loss.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// There is no connection, and none is being made. The next call makes one.
    Idle,
    /// The first connection is being made.
    Connecting {
        /// The attempt that runs, or is waited for: 1 for the first.
        attempt: u32,
    },
    /// Calls go out.
    Connected,
    /// The connection was lost, and another one is being made.
    Reconnecting {
        /// The attempt that runs, or is waited for: 1 for the first after the loss.
        attempt: u32,
    },
    /// No connection could be made, and all calls that waited have failed. The next call tries again.
    Gone {
        /// How often it was tried.
        attempts: u32,
        /// What the last attempt failed with.
        why: String,
    },
    /// The client was closed. For good.
    Closed,
}

/// Follows the [`State`] of a client, without keeping it alive. Made by
/// [`Reconnecting::watch`](super::Reconnecting::watch).
#[derive(Clone, Debug)]
pub struct Watch {
    states: watch::Receiver<State>,
    /// `Closed` was told.
    over: bool,
}

impl Watch {
    pub(super) fn new(states: watch::Receiver<State>) -> Self {
        let over = *states.borrow() == State::Closed;
        Watch { states, over }
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        self.states.borrow().clone()
    }

    /// Waits until the state is another one than this watch has returned last, or was made at, and returns it. States
    /// that came and went meanwhile are not told. `None`: there will be no other, since the client is closed or
    /// dropped.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the change is told next time.
    pub async fn changed(&mut self) -> Option<State> {
        if self.over {
            return None;
        }
        self.states.changed().await.ok()?;
        let state = self.states.borrow_and_update().clone();
        self.over = state == State::Closed;
        Some(state)
    }
}
