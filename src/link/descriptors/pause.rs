//! How a task waits for a [`Closer`](super::Closer).

use std::{pin::Pin, task::Context, time::Duration};

use tokio::time::{Sleep, sleep};

/// For how long to wait before one looks again.
pub(crate) const PAUSE: Duration = Duration::from_millis(1);

/// The time until a task looks again whether it is still held up. By the clock: it is a peer's doing, or a machine's that has
/// much to do, and not worth a way by which a closing thread tells who waits.
#[derive(Debug, Default)]
pub(crate) struct Pause(Option<Pin<Box<Sleep>>>);

impl Pause {
    /// Has the task of `cx` woken after a [`PAUSE`], at the latest.
    pub(crate) fn begin(&mut self, cx: &mut Context<'_>) {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep(PAUSE)));
        if sleep.as_mut().poll(cx).is_ready() {
            self.0 = None;
            cx.waker().wake_by_ref();
        }
    }
}
