use std::{future::poll_fn, os::unix::net::UnixStream, task::Poll, thread, time::Duration};

use adjoin_shm_layout::Geometry;
use rustix::{
    fd::OwnedFd,
    process::{PidfdFlags, getpid, pidfd_open},
};

use super::*;
use crate::{
    error::LinkEnd,
    link::{
        Body, Brought, ChannelRef, CreditSlot, EncodeFault, Encoder, Head, Message, SendFault, Sink,
        descriptors::End::Own,
        testing::{Collector, DATA, message},
    },
    segments::{
        control::Control,
        handshake::{self, Halves},
    },
};

const GEOMETRY: Geometry = Geometry {
    ring_bytes: 4096,
    channel_slots: 16,
    max_payload_size: 1024,
    initial_channel_credit: 1024,
    arena_blocks: 8,
    arena_bytes: 2 << 12,
};

pub(super) fn myself() -> OwnedFd {
    pidfd_open(getpid(), PidfdFlags::NONBLOCK).unwrap()
}

/// Both sides of a link, in one process: the host's and the guest's.
pub(crate) async fn pair_for_test(geometry: &Geometry, waiting: Waiting) -> (Parts, Parts) {
    let (host, guest) = ends_for_test(geometry, myself).await;
    (host.link(waiting), guest.link(waiting))
}

/// A side of a link that belongs to no runtime yet.
pub(crate) struct End {
    socket: UnixStream,
    halves: Halves,
    role: Role,
    /// What stands for the peer's process.
    peer: OwnedFd,
}

/// The sides of a link. `process` makes what stands for this process, which is the peer on either side.
pub(crate) async fn ends_for_test(geometry: &Geometry, process: impl Fn() -> OwnedFd) -> (End, End) {
    let (host, guest) = UnixStream::pair().unwrap();
    let (host, guest) = (Control::new(host, Own).unwrap(), Control::new(guest, Own).unwrap());
    let (hosts, guests) =
        tokio::join!(handshake::host(&host, geometry, process()), handshake::guest(&guest, |_, _| Ok(())));
    // Another one than the handshake had: that is of the runtime that runs this.
    let (host, guest) = UnixStream::pair().unwrap();
    let (guests, _host) = guests.unwrap();
    let end = |socket, halves, role| End { socket, halves, role, peer: process() };
    (end(host, hosts.unwrap(), Role::Acceptor), end(guest, guests, Role::Initiator))
}

impl End {
    /// Makes it the runtime's.
    pub(crate) fn link(self, waiting: Waiting) -> Parts {
        let ways = Ways { waiting, ..Ways::from(&Settings::default()) };
        let bell = Bell::new(Control::new(self.socket, Own).unwrap().into_socket());
        parts(self.halves, bell, Peer::other(self.peer).unwrap(), self.role, ways).unwrap()
    }
}

const ALL_WAYS: [Waiting; 3] = [Waiting::Adaptive, Waiting::Sleep, Waiting::Spin];

/// Receives as a driver does: asleep, it counts on the watcher.
async fn hear(parts: &mut Parts, sink: &mut Collector) -> Result<usize, LinkEnd> {
    poll_fn(|cx| {
        loop {
            match parts.receiver.poll_receive(cx, sink) {
                Poll::Ready(Ok(0)) => continue,
                Poll::Ready(received) => return Poll::Ready(received),
                Poll::Pending => {}
            }
            match parts.watcher.as_mut().unwrap().poll_rung(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// A payload and channels.
struct Opening<'a>(&'a [u8], &'a [ChannelRef]);

impl Body for Opening<'_> {
    fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        out.extend(self.0);
        self.1.iter().for_each(|channel| out.channel(*channel));
        Ok(())
    }
}

#[tokio::test]
async fn a_request_arrives_with_its_metadata_its_payload_and_its_channels() {
    let (mut host, mut guest) = pair_for_test(&GEOMETRY, Waiting::Sleep).await;
    assert_eq!((host.limits, host.limits.max_payload_size), (guest.limits, 1024));
    let head = Head::Request { conn_id: 1, request_id: 2, method_id: 3, metadata: b"meta" };
    let channel = ChannelRef { id: 7, slot: CreditSlot { index: 1, generation: 2 } };
    assert_eq!(host.sender.send(&head, &mut Opening(b"payload", &[channel; 3])).unwrap(), 7);
    assert_eq!(host.sender.publish(), crate::link::Publish::Done);
    let mut heard = Expected(Message { head, channels: &[channel; 3], payload: Brought::Here(b"payload") });
    assert_eq!(guest.receiver.drain(&mut heard).unwrap(), 1);
}

/// Knows what comes.
struct Expected<'a>(Message<'a>);

impl Sink for Expected<'_> {
    fn message(&mut self, message: Message<'_>) -> bool {
        assert_eq!(message, self.0);
        true
    }
}

#[tokio::test]
async fn nothing_is_seen_before_it_is_published_and_a_batch_is_bounded() {
    let (mut host, mut guest) =
        pair_for_test(&Geometry { ring_bytes: 1 << 16, ..GEOMETRY }, Waiting::Sleep).await;
    let mut heard = Collector::all();
    for _ in 0..300 {
        host.sender.send(&DATA, &mut Opening(b"", &[])).unwrap();
    }
    assert_eq!(guest.receiver.drain(&mut heard).unwrap(), 0);
    let _ = host.sender.publish();
    assert_eq!(guest.receiver.drain(&mut heard).unwrap(), 256);
    heard.wants = heard.messages.len() + 1;
    assert_eq!(guest.receiver.drain(&mut heard).unwrap(), 1, "the sink said stop");
}

#[tokio::test]
async fn every_length_up_to_the_limit_arrives_and_the_next_is_refused_by_name() {
    let limit = 4096; // a page
    let geometry = Geometry { max_payload_size: limit as u32, ..GEOMETRY };
    let (mut host, mut guest) = pair_for_test(&geometry, Waiting::Sleep).await;
    for len in 0..=limit {
        let payload = vec![len as u8; len];
        let mut heard = Collector::all();
        let _ = host.say(&DATA, &payload).unwrap();
        while guest.receiver.drain(&mut heard).unwrap() == 0 {}
        assert!(heard.messages == [message(&DATA, &payload)], "{len}");
        assert!(!guest.receiver.spin());
    }
    let error = host.say(&DATA, &vec![0; limit + 1]).unwrap_err();
    let SendFault::TooLarge { len, limit: most, setting } = error else { panic!("{error:?}") };
    assert_eq!((len, most, setting), (limit + 1, limit, "Settings::arena_bytes"));
    let _ = host.say(&DATA, b"goes on").unwrap();
}

/// Blocks run out long before the ring does, and come back as they are read. One that is longer than the others has its
/// turn although shorter ones go on. Fails when `allot_message` ignores who waits.
#[tokio::test]
async fn a_payload_that_finds_no_block_waits_for_one_and_is_not_overtaken_for_good() {
    // Nothing to be lent, and four pages for what passes.
    let geometry = Geometry { max_payload_size: 4 << 12, arena_bytes: 4 << 12, ..GEOMETRY };
    let (mut host, mut guest) = pair_for_test(&geometry, Waiting::Sleep).await;
    let (short, long) = (vec![1; 4096], vec![2; 4 * 4096]);
    for _ in 0..4 {
        let _ = host.say(&DATA, &short).unwrap();
    }
    assert!(matches!(host.say(&DATA, &long), Err(SendFault::Full)));
    assert!(!host.sender.has_room().unwrap());
    let mut heard = Collector { messages: Vec::new(), wants: 1 };
    assert_eq!(guest.receiver.drain(&mut heard).unwrap(), 1);
    assert!(matches!(host.say(&DATA, &short), Err(SendFault::Full)), "the page is kept for the longer one");
    let _ = host.say(&DATA, b"in the ring").unwrap();
    assert!(!host.sender.has_room().unwrap());
    let mut heard = Collector::all();
    assert_eq!(guest.receiver.drain(&mut heard).unwrap(), 4);
    assert!(host.sender.has_room().unwrap());
    let _ = host.say(&DATA, &long).unwrap();
    let mut heard = Collector::all();
    guest.receiver.drain(&mut heard).unwrap();
    assert_eq!(heard.messages, [message(&DATA, &long)]);
    let _ = host.say(&DATA, &short).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sides_that_wait_for_each_other_in_tasks_go_on() {
    for waiting in ALL_WAYS {
        let (mut host, mut guest) = pair_for_test(&GEOMETRY, waiting).await;
        let echo = tokio::spawn(async move {
            for _ in 0..2000 {
                let mut heard = Collector::all();
                hear(&mut guest, &mut heard).await.unwrap();
                let _ = guest.say(&DATA, b"pong").unwrap();
            }
            guest
        });
        for _ in 0..2000 {
            let mut heard = Collector::all();
            let _ = host.say(&DATA, b"ping").unwrap();
            hear(&mut host, &mut heard).await.unwrap();
            assert_eq!(heard.messages, [message(&DATA, b"pong")]);
        }
        drop(echo.await.unwrap());
    }
}

/// Waits on this thread for the next message.
fn block(parts: &mut Parts) {
    let mut heard = Collector::all();
    while parts.receiver.drain(&mut heard).unwrap() == 0 {
        if !parts.receiver.spin() {
            assert!(parts.receiver.sleep(None).unwrap());
        }
    }
    assert_eq!(heard.messages.len(), 1);
}

#[tokio::test]
async fn two_sides_that_wait_for_each_other_in_threads_go_on() {
    for waiting in ALL_WAYS {
        let (mut host, mut guest) = pair_for_test(&GEOMETRY, waiting).await;
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2000 {
                    block(&mut guest);
                    let _ = guest.say(&DATA, b"pong").unwrap();
                }
            });
            for _ in 0..2000 {
                let _ = host.say(&DATA, b"ping").unwrap();
                block(&mut host);
            }
        });
    }
}

/// Sends so many messages of varying length while there is room, receives whatever comes, as a driver does.
async fn flood(mut parts: Parts, count: usize) -> Parts {
    let (mut sent, mut heard) = (0, Collector::all());
    let payload = [7; 900];
    poll_fn(|cx| {
        loop {
            let received = parts.receiver.poll_receive(cx, &mut heard);
            while sent < count {
                match parts.sender.send(&DATA, &mut Opening(&payload[..(sent * 37) % 900], &[])) {
                    Ok(_) => sent += 1,
                    Err(SendFault::Full) if parts.sender.has_room().unwrap() => {}
                    Err(SendFault::Full) => break,
                    Err(fault) => panic!("{fault:?}"),
                }
            }
            let _ = parts.sender.publish();
            if sent == count && heard.messages.len() == count {
                return Poll::Ready(());
            }
            if received.is_ready() {
                continue;
            }
            match parts.watcher.as_mut().unwrap().poll_rung(cx) {
                Poll::Ready(rung) => rung.unwrap(),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    for (index, heard) in heard.messages.iter().enumerate() {
        assert!(*heard == message(&DATA, &payload[..(index * 37) % 900]), "{index}");
    }
    parts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sides_that_flood_each_other_through_small_rings_go_on() {
    for waiting in ALL_WAYS {
        let (host, guest) = pair_for_test(&GEOMETRY, waiting).await;
        let (host, guest) = tokio::join!(tokio::spawn(flood(host, 5000)), tokio::spawn(flood(guest, 5000)));
        drop((host.unwrap(), guest.unwrap()));
    }
}

#[tokio::test]
async fn an_interrupt_ends_a_sleep_also_if_it_came_before() {
    let (_host, mut guest) = pair_for_test(&GEOMETRY, Waiting::Sleep).await;
    let interrupt = guest.interrupt.clone().unwrap();
    interrupt.interrupt();
    assert!(guest.receiver.sleep(None).unwrap());
    thread::scope(|scope| {
        scope.spawn(|| interrupt.interrupt());
        assert!(guest.receiver.sleep(None).unwrap());
    });
    let deadline = std::time::Instant::now() + Duration::from_millis(2);
    assert!(guest.receiver.sleep(Some(deadline)).unwrap());
}

#[tokio::test]
async fn what_arrives_while_a_thread_has_the_role_is_told_when_it_hands_it_back() {
    let (mut host, mut guest) = pair_for_test(&GEOMETRY, Waiting::Sleep).await;
    assert!(!guest.receiver.hand_back());
    assert!(guest.receiver.asleep());
    let _ = host.say(&DATA, b"").unwrap();
    assert!(guest.receiver.hand_back());
    let mut heard = Collector::all();
    assert_eq!(hear(&mut guest, &mut heard).await.unwrap(), 1);
    assert!(!guest.receiver.hand_back());
    let _ = host.say(&DATA, b"").unwrap();
    poll_fn(|cx| guest.watcher.as_mut().unwrap().poll_rung(cx)).await.unwrap();
}

#[tokio::test]
async fn credit_is_seen_by_the_sender_and_wakes_it() {
    let (host, mut guest) = pair_for_test(&GEOMETRY, Waiting::Sleep).await;
    let (granting, sending) = (host.credit.clone().unwrap(), guest.credit.clone().unwrap());
    let slot = sending.allot().unwrap();
    granting.check(slot).unwrap();
    assert_eq!(sending.granted(slot, 0).unwrap(), None);
    granting.open(slot, 100);
    assert_eq!(sending.granted(slot, 0).unwrap(), Some(100));
    sending.await_credit(slot);
    let mut heard = Collector::all();
    poll_fn(|cx| {
        // Somebody waits for credit: once more before the sleep, and then asleep.
        assert!(matches!(guest.receiver.poll_receive(cx, &mut heard), Poll::Ready(Ok(0))));
        assert!(guest.receiver.poll_receive(cx, &mut heard).is_pending());
        Poll::Ready(())
    })
    .await;
    granting.grant(slot, 250);
    poll_fn(|cx| guest.watcher.as_mut().unwrap().poll_rung(cx)).await.unwrap();
    assert_eq!(sending.granted(slot, 0).unwrap(), Some(250));
    // A total that goes backwards is nonsense.
    assert!(matches!(sending.granted(slot, 251), Err(LinkEnd::Corrupt { value: 250, .. })));
    sending.stop_waiting(slot);
    sending.give_back(slot);
    let next = sending.allot().unwrap();
    assert_eq!(
        (next.index, sending.granted(next, 0).unwrap()),
        (slot.index, None),
        "a new incarnation has no credit"
    );
}

#[tokio::test]
async fn a_ring_that_was_heard_is_followed_by_another_look_and_another_ring() {
    let (host, mut guest) = pair_for_test(&GEOMETRY, Waiting::Sleep).await;
    let (granting, sending) = (host.credit.clone().unwrap(), guest.credit.clone().unwrap());
    let slot = sending.allot().unwrap();
    sending.await_credit(slot);
    let mut heard = Collector::all();
    for total in 1..4 {
        poll_fn(|cx| {
            assert!(matches!(guest.receiver.poll_receive(cx, &mut heard), Poll::Ready(Ok(0))), "{total}");
            for _ in 0..3 {
                assert!(guest.receiver.poll_receive(cx, &mut heard).is_pending(), "asked once");
            }
            Poll::Ready(())
        })
        .await;
        // The second rings no more, and what it grants is seen with the first.
        granting.open(slot, total);
        granting.grant(slot, total + 1);
        let rung = poll_fn(|cx| guest.watcher.as_mut().unwrap().poll_rung(cx));
        tokio::time::timeout(Duration::from_secs(5), rung).await.expect("it rings each time").unwrap();
        let again = poll_fn(|cx| Poll::Ready(guest.watcher.as_mut().unwrap().poll_rung(cx))).await;
        assert!(again.is_pending(), "and once");
        assert_eq!(sending.granted(slot, 0).unwrap(), Some(total + 1));
    }
}

#[tokio::test]
async fn each_side_allots_half_of_the_slots_and_the_peer_checks_them() {
    let (host, guest) = pair_for_test(&GEOMETRY, Waiting::Sleep).await;
    let (host, guest) = (host.credit.unwrap(), guest.credit.unwrap());
    let slots: Vec<_> = std::iter::from_fn(|| host.allot()).collect();
    assert_eq!(slots.len(), 8);
    for slot in slots {
        guest.check(slot).unwrap();
        assert!(matches!(host.check(slot), Err(LinkEnd::Corrupt { field: "channel.slot", .. })));
    }
    let absurd = CreditSlot { index: u32::MAX, generation: 1 };
    guest.open(absurd, 1);
    guest.await_credit(absurd);
    guest.give_back(absurd);
    assert_eq!(guest.granted(absurd, 0).unwrap(), None);
}

#[tokio::test]
async fn a_side_that_lets_go_is_gone_after_what_it_said() {
    let (mut host, mut guest) = pair_for_test(&GEOMETRY, Waiting::Sleep).await;
    let _ = host.say(&Head::Goodbye { conn_id: 0, reason: "done" }, b"").unwrap();
    drop(host);
    let mut heard = Collector::all();
    assert_eq!(hear(&mut guest, &mut heard).await.unwrap(), 1);
    assert!(matches!(hear(&mut guest, &mut heard).await, Err(LinkEnd::Gone)));
}
