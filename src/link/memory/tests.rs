use std::{sync::atomic, thread};

use super::*;
use crate::link::testing::{Collector, DATA, message};

fn defaults() -> (Parts, Parts) {
    pair(&Settings::default(), &Settings::default())
}

/// A driver's task that counts how often it was woken.
#[derive(Default)]
struct Task(atomic::AtomicUsize);

impl std::task::Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, atomic::Ordering::Relaxed); // Relaxed: counted and read by one thread
    }
}

impl Task {
    fn woken(&self) -> usize {
        self.0.swap(0, atomic::Ordering::Relaxed) // Relaxed: as above
    }
}

fn task() -> (Arc<Task>, Waker) {
    let task = Arc::new(Task::default());
    (task.clone(), Waker::from(task))
}

#[test]
fn the_ends_take_opposite_roles_and_the_lower_limits() {
    let small = Settings::default().max_payload_size(1000).initial_channel_credit(70_000);
    let wide = Settings::default().max_payload_size(2000).initial_channel_credit(60_000);
    let (a, b) = pair(&small, &wide);
    let limits = Limits { max_payload_size: 1000, initial_channel_credit: 60_000 };
    assert_eq!((a.role, a.limits, b.role, b.limits), (Role::Initiator, limits, Role::Acceptor, limits));
}

#[test]
fn messages_arrive_in_order_on_both_directions() {
    let (mut one, mut other) = defaults();
    for _ in 0..2 {
        for payload in [&[1][..], &[2, 2], &[]] {
            one.say(&DATA, payload).map(drop).expect("there is room");
        }
        let mut sink = Collector { messages: Vec::new(), wants: 2 };
        assert_eq!(other.receiver.drain(&mut sink).expect("the link lives"), 2);
        sink.wants = 3;
        assert_eq!(other.receiver.drain(&mut sink).expect("the link lives"), 1);
        assert_eq!(other.receiver.drain(&mut sink).expect("the link lives"), 0);
        assert_eq!(sink.messages, [message(&DATA, &[1]), message(&DATA, &[2, 2]), message(&DATA, &[])]);
        mem::swap(&mut one, &mut other);
    }
}

#[test]
fn a_receiver_that_sleeps_is_woken_at_publish_and_once() {
    let (mut a, mut b) = defaults();
    let (task, waker) = task();
    let mut cx = Context::from_waker(&waker);
    let mut sink = Collector::all();
    assert!(b.receiver.poll_receive(&mut cx, &mut sink).is_pending());
    let mut body = crate::link::testing::Raw(&[1]);
    for _ in 0..3 {
        a.sender.send(&DATA, &mut body).expect("there is room");
    }
    assert_eq!(task.woken(), 0);
    assert_eq!(a.sender.publish(), Publish::Done);
    assert_eq!(task.woken(), 1);
    let polled = b.receiver.poll_receive(&mut cx, &mut sink);
    assert!(matches!(polled, Poll::Ready(Ok(3))));
}

#[test]
fn a_full_queue_refuses_until_it_is_read_and_the_driver_learns_of_it() {
    let (mut a, mut b) = pair(&Settings::default().send_buffer(10_000), &Settings::default());
    let mut sent = 0;
    while a.say(&DATA, &[7; 1000]).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 9);
    let (task, waker) = task();
    assert!(a.sender.poll_flush(&mut Context::from_waker(&waker)).is_ready());
    assert!(!a.sender.has_room().expect("the link lives"));
    assert_eq!(task.woken(), 0);
    assert_eq!(b.receiver.drain(&mut Collector::all()).expect("the link lives"), sent);
    assert_eq!(task.woken(), 1);
    assert!(a.sender.has_room().expect("the link lives"));
    assert!(a.say(&DATA, &[7; 1000]).is_ok());
}

#[test]
fn a_driver_that_comes_after_a_sender_asked_for_room_asks_again() {
    let (mut a, mut b) = pair(&Settings::default().send_buffer(100), &Settings::default());
    while a.say(&DATA, &[7; 10]).is_ok() {}
    assert!(!a.sender.has_room().expect("the link lives"));
    b.receiver.drain(&mut Collector::all()).expect("the link lives");
    let (task, waker) = task();
    assert!(a.sender.poll_flush(&mut Context::from_waker(&waker)).is_ready());
    assert_eq!(task.woken(), 1);
}

#[test]
fn a_message_longer_than_the_queue_passes_when_nothing_waits() {
    let settings = Settings::default().send_buffer(100).max_payload_size(1 << 20);
    let (mut a, mut b) = pair(&settings, &settings);
    let longest = vec![7; 1 << 20];
    a.say(&DATA, &longest).map(drop).expect("nothing waits");
    assert!(matches!(a.say(&DATA, &[1]), Err(SendFault::Full)));
    let mut sink = Collector::all();
    b.receiver.drain(&mut sink).expect("the link lives");
    assert_eq!(sink.messages, [message(&DATA, &longest)]);
    let beyond = vec![7; message_limit(1 << 20)];
    assert!(matches!(a.say(&DATA, &beyond), Err(SendFault::TooLarge { .. })));
}

#[test]
fn the_end_is_seen_behind_what_was_sent_and_wakes_whoever_sleeps() {
    let (mut a, mut b) = defaults();
    let (task, waker) = task();
    let mut cx = Context::from_waker(&waker);
    assert!(b.receiver.poll_receive(&mut cx, &mut Collector::all()).is_pending());
    a.sender.send(&DATA, &mut crate::link::testing::Raw(&[1])).expect("there is room");
    drop(a);
    assert_eq!(task.woken(), 1);
    assert!(matches!(b.receiver.poll_receive(&mut cx, &mut Collector::all()), Poll::Ready(Ok(1))));
    let polled = b.receiver.poll_receive(&mut cx, &mut Collector::all());
    assert!(matches!(polled, Poll::Ready(Err(LinkEnd::Gone))));
    assert!(matches!(b.say(&DATA, &[1]), Err(SendFault::Ended(LinkEnd::Gone))));
    assert!(matches!(b.sender.has_room(), Err(LinkEnd::Gone)));
}

#[test]
fn a_driver_whose_wake_up_was_spent_on_a_borrower_is_woken_for_the_next() {
    let (mut a, mut b) = defaults();
    let (task, waker) = task();
    assert!(b.receiver.hand_back(), "no driver is known yet");
    let polled = b.receiver.poll_receive(&mut Context::from_waker(&waker), &mut Collector::all());
    assert!(polled.is_pending());

    a.say(&DATA, &[1]).map(drop).expect("there is room");
    assert_eq!(b.receiver.drain(&mut Collector::all()).expect("the link lives"), 1);
    assert_eq!(task.woken(), 1);
    assert!(!b.receiver.hand_back());
    a.say(&DATA, &[2]).map(drop).expect("there is room");
    assert_eq!(task.woken(), 1);
    assert!(b.receiver.hand_back(), "something is there");
}

#[test]
fn two_threads_exchange_a_hundred_thousand_messages_both_ways_through_small_queues() {
    const COUNT: usize = 100_000;
    let settings = Settings::default().send_buffer(1000);
    let (a, b) = pair(&settings, &settings);
    let len = |index: usize| index * 7919 % 120;
    let side = move |mut parts: Parts| {
        let (mut sink, mut sent, mut received) = (Collector::all(), 0, 0);
        let exchange = std::future::poll_fn(|cx| {
            loop {
                let _ = parts.sender.poll_flush(cx).map(|flushed| flushed.expect("the link lives"));
                let room = parts.sender.has_room().expect("the link lives");
                while room && sent < COUNT && parts.say(&DATA, &vec![7; len(sent)]).is_ok() {
                    sent += 1;
                }
                let polled = parts.receiver.poll_receive(cx, &mut sink).map(|n| n.expect("the link lives"));
                for arrived in sink.messages.drain(..) {
                    assert_eq!(arrived, message(&DATA, &vec![7; len(received)]));
                    received += 1;
                }
                if sent == COUNT && received == COUNT {
                    return Poll::Ready(());
                }
                if polled.is_pending() && (sent == COUNT || !parts.sender.has_room().expect("the link lives"))
                {
                    return Poll::Pending;
                }
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("the system has threads").block_on(exchange);
        parts
    };
    let ends = [a, b].map(|parts| thread::spawn(move || side(parts)));
    let ends = ends.map(|end| end.join().expect("it met no error"));
    drop(ends);
}
