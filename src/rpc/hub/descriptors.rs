//! What a link does about descriptors: how many a message may carry, and what to do while the system passes none.

use std::{
    future::Future,
    pin::Pin,
    sync::Mutex,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use tokio::time::{Sleep, sleep};

use super::Hub;
use crate::{
    error::LinkEnd,
    link::{EncodeFault, SendFault, descriptors::MOST_DESCRIPTORS},
    rpc::{
        clock::now,
        errors::{Obstacle, Refusal, sort},
        waiters::lock,
    },
    settings::Settings,
};

/// The limits of a link.
pub(crate) struct DescriptorLimits {
    /// Of one message; 0 on a link that carries none.
    each: usize,
    timeout: Duration,
    /// When the system was asked last by a message that waits for it.
    asked: Mutex<Option<Instant>>,
}

impl DescriptorLimits {
    pub(crate) fn new(settings: &Settings, carried: bool) -> Self {
        let each = if carried { (settings.max_descriptors as usize).min(MOST_DESCRIPTORS) } else { 0 };
        DescriptorLimits { each, timeout: settings.descriptor_timeout, asked: Mutex::default() }
    }

    /// The system is asked now.
    fn asked(&self) {
        *lock(&self.asked) = Some(now());
    }

    /// Whether the system may be asked again: it is, then.
    fn may_ask(&self) -> bool {
        let (mut asked, now) = (lock(&self.asked), now());
        let may = asked.is_none_or(|asked| now.saturating_duration_since(asked) >= PAUSE);
        if may {
            *asked = Some(now);
        }
        may
    }

    /// It has passed some: the next may be asked for at once.
    pub(crate) fn passed(&self) {
        *lock(&self.asked) = None;
    }

    /// Whether messages carry any.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.each > 0
    }

    /// How many descriptors a message may carry.
    pub(crate) fn check(&self, count: usize) -> Result<(), EncodeFault> {
        match self.each {
            0 => Err(EncodeFault::NoDescriptors { count }),
            limit if count > limit => Err(EncodeFault::TooManyDescriptors { count, limit }),
            _ => Ok(()),
        }
    }
}

/// Whether a message waits longer for the system to pass its descriptors: see [`Settings::descriptor_timeout`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    Left,
    Over,
}

impl Hub {
    /// As [`sort`], for a message that may carry descriptors.
    pub(crate) fn sort<E: From<Refusal> + From<LinkEnd>>(
        &self,
        fault: SendFault,
        patience: Patience,
    ) -> Obstacle<E> {
        match (fault, patience) {
            (SendFault::Encode(EncodeFault::Crowded), Patience::Over) => {
                let (limit, after) = (open_limit(), self.descriptors.timeout);
                Obstacle::Final(Refusal::DescriptorsCrowded { limit, after }.into())
            }
            (fault, _) => sort(fault),
        }
    }
}

/// A wait for the system to pass descriptors again. It tells nobody, so that it is asked again and again; by one message of
/// a link at a time, since each asks with all that it has.
pub(super) struct Crowd {
    since: Instant,
    again: Pin<Box<Sleep>>,
}

/// How long to wait before the system is asked again, by whichever message of the link.
const PAUSE: Duration = Duration::from_millis(5);

impl Crowd {
    pub(super) fn new(hub: &Hub) -> Self {
        hub.descriptors.asked();
        Crowd { since: now(), again: pause(hub) }
    }

    pub(super) fn patience(&self, hub: &Hub) -> Patience {
        let over = now().saturating_duration_since(self.since) >= hub.descriptors.timeout;
        if over { Patience::Over } else { Patience::Left }
    }

    /// Whether it is too early to ask again. The task is woken when it is not.
    pub(super) fn goes_on(&mut self, hub: &Hub, waker: &Waker) -> bool {
        if self.again.as_mut().poll(&mut Context::from_waker(waker)).is_pending() {
            return true;
        }
        let early = matches!(self.patience(hub), Patience::Left) && !hub.descriptors.may_ask();
        if early {
            self.wait(hub, waker);
        }
        early
    }

    /// Wakes a task when it is time to ask again.
    pub(super) fn wait(&mut self, hub: &Hub, waker: &Waker) {
        let mut cx = Context::from_waker(waker);
        if self.again.as_mut().poll(&mut cx).is_ready() {
            self.again = pause(hub);
            let _ = self.again.as_mut().poll(&mut cx); // it has just begun
        }
    }
}

fn pause(hub: &Hub) -> Pin<Box<Sleep>> {
    let _inside = hub.runtime.enter();
    Box::pin(sleep(PAUSE))
}

/// `RLIMIT_NOFILE` of this process.
#[cfg(target_os = "linux")]
fn open_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Where the system is another one, no socket of a link carries descriptors.
#[cfg(not(target_os = "linux"))]
fn open_limit() -> u64 {
    u64::MAX
}
