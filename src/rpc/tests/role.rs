//! The receive role, between the driver and another thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver as Signals, Sender as Signal, channel},
    },
    task::{Context, Poll},
    thread,
};

use super::{settle, until};
use crate::{
    error::LinkEnd,
    link::{Body, Head, Interrupt, Limits, Parts, Publish, Receiver, Role, SendFault, Sender, Sink},
    rpc::{connection::Connection, options::Options, waiters::lock},
};

/// Takes nothing.
struct Mute;

impl Sender for Mute {
    fn send(&mut self, _: &Head<'_>, _: &mut dyn Body) -> Result<usize, SendFault> {
        Err(SendFault::Full)
    }

    fn publish(&mut self) -> Publish {
        Publish::Done
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LinkEnd>> {
        Poll::Ready(Ok(()))
    }

    fn has_room(&mut self) -> Result<bool, LinkEnd> {
        Ok(false)
    }
}

/// Counts the driver's looks. Handed back, it says so, and waits before it lets go.
struct Watched {
    looks: Arc<AtomicUsize>,
    handed_back: Signal<()>,
    go_on: Signals<()>,
}

impl Receiver for Watched {
    fn drain(&mut self, _: &mut dyn Sink) -> Result<usize, LinkEnd> {
        Ok(0)
    }

    fn poll_receive(&mut self, _: &mut Context<'_>, _: &mut dyn Sink) -> Poll<Result<usize, LinkEnd>> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        Poll::Pending
    }

    /// It has looked, and nothing had arrived.
    fn hand_back(&mut self) -> bool {
        self.handed_back.send(()).unwrap();
        self.go_on.recv().unwrap();
        false
    }
}

struct Asleep;

impl Interrupt for Asleep {
    fn interrupt(&self) {}
}

/// What arrives behind the last look of the one who returns the role wakes the driver, which finds the role taken.
/// Fails when `return_role` wakes it for what that look saw alone: a call over shared memory waited for an answer
/// that lay in the ring, for good.
#[tokio::test]
async fn a_driver_that_finds_the_role_taken_looks_again_when_it_is_returned() {
    let looks = Arc::new(AtomicUsize::new(0));
    let ((handed_back, is_handed_back), (go_on, may_go_on)) = (channel(), channel());
    let receiver = Watched { looks: Arc::clone(&looks), handed_back, go_on: may_go_on };
    let parts = Parts {
        role: Role::Initiator,
        limits: Limits { max_payload_size: 1000, initial_channel_credit: 1000 },
        sender: Box::new(Mute),
        receiver: Box::new(receiver),
        credit: None,
        lending: None,
        watcher: None,
        interrupt: Some(Arc::new(Asleep)),
    };
    let connection = Connection::start(parts, &Options::new());
    settle().await; // the driver sleeps
    let hub = Arc::clone(connection.hub());
    let other = thread::spawn(move || hub.return_role(lock(&hub.receive)));
    is_handed_back.recv().unwrap();
    let before = looks.load(Ordering::SeqCst);
    connection.hub().wake_driver(); // something has arrived
    settle().await;
    assert_eq!(looks.load(Ordering::SeqCst), before, "the role is taken");
    go_on.send(()).unwrap();
    other.join().unwrap();
    until(|| looks.load(Ordering::SeqCst) > before).await;
}
