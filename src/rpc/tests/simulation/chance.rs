//! Chance: everything random of a seed comes from the thread's one generator, in the order in which it is asked for.

use std::{
    future::{Future, poll_fn},
    ops::RangeInclusive,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use crate::rpc::waiters::lock;

/// Whether something happens that happens once in `n` times.
pub(super) fn one_in(n: u32) -> bool {
    fastrand::u32(..n) == 0
}

/// One of these.
pub(super) fn pick<T: Copy>(of: &[T]) -> T {
    of[fastrand::usize(..of.len())]
}

pub(super) fn millis(range: RangeInclusive<u64>) -> Duration {
    Duration::from_millis(fastrand::u64(range))
}

/// Lets nothing, some turns of the other tasks, or some time go by.
pub(super) async fn dawdle() {
    match fastrand::u32(..16) {
        0..8 => {}
        8..13 => yield_often(fastrand::u32(1..4)).await,
        13 | 14 => tokio::time::sleep(millis(1..=10)).await,
        _ => tokio::time::sleep(millis(1..=80)).await,
    }
}

/// Lets those run who are to run already, so many times. (`yield_now` would wait for all whom they wake, too.)
pub(super) async fn yield_often(mut turns: u32) {
    poll_fn(|cx| {
        if turns == 0 {
            return Poll::Ready(());
        }
        turns -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A future that, whenever it is polled, may let the other tasks run first.
pub(super) struct Tardy<F> {
    future: Pin<Box<F>>,
}

impl<F> Tardy<F> {
    pub(super) fn new(future: F) -> Self {
        Tardy { future: Box::pin(future) }
    }
}

impl<F: Future> Future for Tardy<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if one_in(6) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.future.as_mut().poll(cx)
    }
}

/// One of several futures of a task that is polled as if it had a task of its own: not when another one of them is
/// woken. That would hide that it was forgotten itself.
pub(super) struct Apart<F> {
    future: Pin<Box<F>>,
    woken: Arc<Woken>,
}

struct Woken {
    is: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl<F> Apart<F> {
    pub(super) fn new(future: F) -> Self {
        let woken = Woken { is: AtomicBool::new(true), task: Mutex::new(None) };
        Apart { future: Box::pin(future), woken: Arc::new(woken) }
    }
}

impl<F: Future> Future for Apart<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        *lock(&self.woken.task) = Some(cx.waker().clone());
        if !self.woken.is.swap(false, Relaxed) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(&self.woken));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.is.store(true, Relaxed); // Relaxed, as above: one thread
        if let Some(task) = lock(&self.task).clone() {
            task.wake();
        }
    }
}

/// How long somebody waits for a future before it is dropped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    Endless,
    /// So many polls that are in vain.
    Polls(u32),
    Time(Duration),
}

impl Patience {
    /// Mostly endless.
    pub(super) fn random() -> Self {
        match fastrand::u32(..10) {
            0 => Patience::Polls(fastrand::u32(..4)),
            1 | 2 => Patience::Time(millis(0..=80)),
            _ => Patience::Endless,
        }
    }
}

/// Runs a future until it is done, or drops it when patience is over. It may have been polled by somebody else
/// before, who is not there any more.
pub(super) async fn endure<F: Future>(patience: Patience, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    if one_in(8)
        && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    {
        return Some(output);
    }
    match patience {
        Patience::Endless => Some(future.await),
        Patience::Time(time) => tokio::time::timeout(time, future).await.ok(),
        Patience::Polls(polls) => {
            let mut left = polls;
            poll_fn(|cx| {
                if left == 0 {
                    return Poll::Ready(None);
                }
                left -= 1;
                match future.as_mut().poll(cx) {
                    Poll::Pending if left == 0 => Poll::Ready(None),
                    polled => polled.map(Some),
                }
            })
            .await
        }
    }
}
