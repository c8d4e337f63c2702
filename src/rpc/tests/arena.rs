//! Links whose arenas are small, and whose applications keep what they were lent.

use std::{
    any::Any,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use adjoin_shm_layout::Geometry;
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeTuple};
use tokio::task::JoinHandle;

use super::{NOP, nop, poll, settle, until, within};
use crate::{
    link::{ChannelRef, Message, Parts, Sink},
    rpc::{
        bytes::Bytes,
        connection::Connection,
        dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
        errors::Never,
        loan::Loan,
        method::{Method, Service, method, service},
        method_id::MethodId,
        options::Options,
        rx::Rx,
        tx::Tx,
        waiters::lock,
    },
    segments::pair_for_test,
    settings::Waiting,
};

const LENGTH: Method = method("Arena", "length", MethodId::new(11), false, false);
const KEEP: Method = method("Arena", "keep", MethodId::new(12), false, false);

const FIRSTS: Method = method("Arena", "firsts", MethodId::new(13), false, false);

/// Says how long what it is sent is, or how it begins, and keeps streams without reading them.
#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<Vec<Box<dyn Any + Send>>>>);

impl ServiceDispatcher for Keeper {
    fn service(&self) -> &'static Service {
        static ARENA: Service = service("Arena", &[LENGTH, KEEP, FIRSTS, NOP]);
        &ARENA
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        let kept = Arc::clone(&self.0);
        match request.method_id() {
            id if id == LENGTH.id => {
                request.serve(&LENGTH, |(bytes,): (Vec<u8>,)| async move { bytes.len() as u64 })
            }
            id if id == KEEP.id => request.serve(&KEEP, move |(rx,): (Rx<Vec<u8>>,)| {
                lock(&kept).push(Box::new(rx));
                async {}
            }),
            id if id == FIRSTS.id => {
                request.serve(&FIRSTS, |((a, b),): ((Bytes, Bytes),)| async move { (a[0], b[0]) })
            }
            id if id == NOP.id => request.serve(&NOP, |()| async {}),
            _ => request.unknown_method(),
        }
    }
}

/// Four blocks, and a payload's length of pages in each region.
const SMALL: Geometry = Geometry {
    ring_bytes: 1 << 16,
    channel_slots: 16,
    max_payload_size: 1 << 16,
    initial_channel_credit: 1 << 16,
    arena_blocks: 4,
    arena_bytes: 2 << 16,
};

/// A length for which a payload takes a block.
const LONG: usize = 20_000;

/// The caller, and its peer with what that keeps.
async fn pair(geometry: &Geometry) -> (Connection, Connection, Keeper) {
    let (ours, theirs) = pair_for_test(geometry, Waiting::Adaptive).await;
    let keeper = Keeper::default();
    let peer = Connection::start(ours, &Options::new().serve(keeper.clone()));
    (Connection::start(theirs, &Options::new()), peer, keeper)
}

async fn length(connection: &Connection, len: usize) {
    let call = connection.call::<(Vec<u8>,), u64, Never>(&LENGTH, (vec![7; len],));
    assert_eq!(within(call).await.unwrap(), len as u64);
}

/// A stream that the peer does not read.
async fn unread(connection: &Connection) -> Tx<Vec<u8>> {
    let (tx, rx) = crate::channel::<Vec<u8>>();
    connection.call::<(Rx<Vec<u8>>,), (), Never>(&KEEP, (rx,)).await.unwrap();
    tx
}

/// As many loans of a byte as there are.
fn all_loans(connection: &Connection) -> Vec<Loan> {
    std::iter::from_fn(|| connection.try_loan(1).unwrap()).collect()
}

/// Fails, as a hang, where loans can take all numbers (`PASSING_SHARE`).
#[tokio::test]
async fn loans_that_take_all_numbers_leave_one_to_a_message() {
    for geometry in [SMALL, Geometry::default()] {
        let (client, _peer, _) = pair(&geometry).await;
        let loans = all_loans(&client);
        assert_eq!(loans.len(), geometry.arena_blocks as usize * 3 / 4);
        length(&client, geometry.max_payload_size.min(1 << 20) as usize - 100).await;
        length(&client, LONG).await;
    }
}

/// The same of elements that lie in their blocks, unread.
#[tokio::test]
async fn elements_that_nobody_reads_leave_a_number_to_a_message() {
    let geometry = Geometry {
        ring_bytes: 4096,
        arena_blocks: 8,
        max_payload_size: 1 << 18,
        arena_bytes: 1 << 20,
        initial_channel_credit: 1 << 18,
        ..SMALL
    };
    let (client, _peer, _keeper) = pair(&geometry).await;
    let tx = unread(&client).await;
    for _ in 0..20 {
        within(tx.send(vec![1; 3000])).await.unwrap();
    }
    length(&client, 3000).await;
    assert_eq!(client.blocks_in_use().unwrap(), 2, "a quarter of them");
}

/// An element with a permit is sent, or parked for no longer than it takes the peer to read.
#[tokio::test]
async fn an_element_that_has_a_permit_does_not_stop_its_link() {
    let (client, _peer, _keeper) = pair(&SMALL).await;
    let tx = unread(&client).await;
    let loans = all_loans(&client);
    for _ in 0..3 {
        let permit = tx.try_reserve(LONG + 10).expect("there is credit");
        permit.send(vec![1; LONG]).expect("it has a permit");
        within(nop(&client)).await.unwrap();
    }
    drop(loans);
}

/// With a single block there is nothing to lend, which is said at once.
#[tokio::test]
async fn a_link_with_one_block_lends_nothing_and_carries_messages() {
    let (client, _peer, _) = pair(&Geometry { arena_blocks: 1, ..SMALL }).await;
    let refused = within(client.loan(1)).await.unwrap_err();
    assert!(refused.to_string().contains("arena_blocks"), "{refused}");
    length(&client, LONG).await;
}

/// A peer that reads nothing by itself.
async fn silent() -> (Connection, Parts) {
    let (peer, ours) = pair_for_test(&SMALL, Waiting::Sleep).await;
    (Connection::start(ours, &Options::new()), peer)
}

/// A call that gets no answer.
async fn unanswered(client: &Connection) -> JoinHandle<()> {
    let client = client.clone();
    let call = tokio::spawn(async move {
        let _ = client.call::<(Vec<u8>,), u64, Never>(&LENGTH, (vec![7; LONG],)).await;
    });
    settle().await;
    call
}

/// Fails where what this side gives back wakes those alone that wait for a loan.
#[tokio::test]
async fn a_message_that_waits_for_a_block_is_woken_when_this_side_gives_one_back() {
    for frozen in [false, true] {
        let (client, _peer) = silent().await;
        let mut loans = all_loans(&client);
        let calls = [unanswered(&client).await, unanswered(&client).await];
        assert_eq!(client.blocks_in_use().unwrap(), 4, "one call has what passes, the other waits");
        let loan = loans.pop().unwrap();
        if frozen {
            drop(loan.freeze())
        } else {
            drop(loan)
        };
        assert_eq!(client.blocks_in_use().unwrap(), 3);
        until(|| client.blocks_in_use().unwrap() == 4).await;
        calls.iter().for_each(JoinHandle::abort);
    }
}

/// The same of an element that is parked.
#[tokio::test]
async fn an_element_that_is_parked_for_a_block_is_sent_when_this_side_gives_one_back() {
    let (client, mut peer) = silent().await;
    let (tx, rx) = crate::channel::<Vec<u8>>();
    let mut call = pin!(client.call::<(Rx<Vec<u8>>,), (), Never>(&KEEP, (rx,)));
    assert!(poll(call.as_mut()).is_pending());
    let mut opened = Opened::default();
    while peer.receiver.drain(&mut opened).unwrap() == 0 {
        settle().await;
    }
    peer.credit.as_ref().unwrap().open(opened.0[0].slot, 1 << 16);

    let mut loans = all_loans(&client);
    let first = unanswered(&client).await;
    let permit = tx.try_reserve(LONG + 10).expect("there is credit");
    permit.send(vec![1; LONG]).expect("it has a permit");
    settle().await;
    assert_eq!(client.blocks_in_use().unwrap(), 4, "the element is parked");
    drop(loans.pop());
    assert_eq!(client.blocks_in_use().unwrap(), 3);
    until(|| client.blocks_in_use().unwrap() == 4).await;
    first.abort();
}

/// Remembers channels.
#[derive(Default)]
struct Opened(Vec<ChannelRef>);

impl Sink for Opened {
    fn message(&mut self, message: Message<'_>) -> bool {
        self.0.extend(message.channels);
        true
    }
}

/// Encodes to a payload for a block, and panics at the second time.
struct Bomb(AtomicUsize);

impl Serialize for Bomb {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let done = serializer.serialize_bytes(&[1; LONG])?;
        // Relaxed: one thread counts.
        if self.0.fetch_add(1, Ordering::Relaxed) == 1 {
            std::panic::resume_unwind(Box::new("it is asked a second time"));
        }
        Ok(done)
    }
}

impl<'de> Deserialize<'de> for Bomb {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        unreachable!("it is sent only")
    }
}

/// Fails where a block is lost with the stack that encoded into it (`impl Drop for Writing`).
#[tokio::test]
async fn a_serialize_that_panics_gives_its_block_back() {
    let (client, _peer, _) = pair(&SMALL).await;
    for _ in 0..6 {
        let caller = client.clone();
        let call = tokio::spawn(async move {
            let bomb = Bomb(AtomicUsize::new(0));
            caller.call::<(Bomb,), u64, Never>(&LENGTH, (bomb,)).await.is_ok()
        });
        assert!(call.await.unwrap_err().is_panic());
        assert_eq!(client.blocks_in_use().unwrap(), 0);
    }
    length(&client, LONG).await;
}

/// Renders itself into a loan, twice, and keeps the last rendering alone: the second has the place of the first.
struct Views {
    connection: Connection,
    last: Mutex<Option<Bytes>>,
}

impl Serialize for Views {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(2)?;
        for view in [1, 2] {
            drop(lock(&self.last).take());
            let mut loan = self.connection.try_loan(3000).unwrap().unwrap();
            loan.fill(view);
            let bytes = loan.freeze();
            tuple.serialize_element(&if view == 1 { bytes.clone() } else { bytes.slice(..100) })?;
            *lock(&self.last) = Some(bytes);
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Views {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        unreachable!("it is sent only")
    }
}

/// Fails where bytes that were left where they lie are known by that alone (`Lent::frozen_before`): the second view
/// arrived twice.
#[tokio::test]
async fn bytes_that_a_serialize_drops_arrive_as_they_were() {
    let (client, _peer, _) = pair(&SMALL).await;
    let views = Views { connection: client.clone(), last: Mutex::default() };
    let call = client.call::<(Views,), (u8, u8), Never>(&FIRSTS, (views,));
    assert_eq!(within(call).await.unwrap(), (1, 2));
}

/// Fails where the shortest loan that is waited for is served first.
#[tokio::test]
async fn loans_are_had_in_the_order_in_which_they_were_asked_for() {
    let (client, _peer, _) = pair(&SMALL).await;
    let held = client.try_loan(1).unwrap().unwrap();
    let all = (1 << 16) - 512;
    let mut long = pin!(client.loan(all));
    let mut short = pin!(client.loan(1));
    assert!(poll(long.as_mut()).is_pending() && poll(short.as_mut()).is_pending());
    assert!(client.try_loan(1).unwrap().is_none(), "the long one came first");
    assert!(client.loan(all + 1).await.is_err(), "what can never be had does not wait");
    drop(held);
    settle().await;
    assert!(poll(short.as_mut()).is_pending(), "the long one is about to have its loan");
    let loan = within(long).await.unwrap();
    settle().await;
    assert!(poll(short.as_mut()).is_pending(), "all is lent");
    drop(loan);
    drop(within(short).await.unwrap());
    assert_eq!(client.blocks_in_use().unwrap(), 0);
    assert!(client.try_loan(all).unwrap().is_some(), "nobody waits any more");
}

/// Fails, as a hang, where who gives up waiting does not wake the next.
#[tokio::test]
async fn who_waits_behind_a_loan_that_is_given_up_is_next() {
    let (client, _peer, _) = pair(&SMALL).await;
    let _held = client.try_loan(1).unwrap().unwrap();
    let waiting = |len| {
        let client = client.clone();
        tokio::spawn(async move { client.loan(len).await.unwrap().len() })
    };
    let long = waiting((1 << 16) - 512);
    settle().await;
    let short = waiting(1);
    settle().await;
    assert!(!short.is_finished());
    long.abort();
    assert_eq!(within(short).await.unwrap(), 1);
}

/// Fails where messages are put into the lending region though somebody waits for all of it.
#[tokio::test]
async fn messages_leave_the_lending_region_to_a_loan_that_is_waited_for() {
    let (client, _peer) = silent().await;
    let held = client.try_loan(1).unwrap().unwrap();
    let mut long = pin!(client.loan((1 << 16) - 512));
    assert!(poll(long.as_mut()).is_pending());
    let call = unanswered(&client).await;
    assert_eq!(client.blocks_in_use().unwrap(), 2);
    drop(held);
    drop(within(long).await.unwrap());
    assert!(client.try_loan((1 << 16) - 512).unwrap().is_some());
    call.abort();
}

/// The same with many that hold what they have for a while.
#[tokio::test(start_paused = true)]
async fn a_long_loan_is_had_among_short_ones() {
    let (client, _peer, _) = pair(&Geometry { arena_blocks: 64, ..SMALL }).await;
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let client = client.clone();
            tokio::spawn(async move {
                loop {
                    let loan = client.loan(6000).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(3 + task)).await;
                    drop(loan);
                }
            })
        })
        .collect();
    settle().await;
    for _ in 0..3 {
        drop(within(client.loan(60_000)).await.unwrap());
    }
    tasks.iter().for_each(JoinHandle::abort);
}

/// Fails where a loan that was shortened keeps all of its pages while it is with the peer.
#[tokio::test]
async fn what_of_a_loan_is_not_used_is_given_back_when_it_is_frozen() {
    let (client, _peer, _) = pair(&SMALL).await;
    let all = (1 << 16) - 512;
    let mut loan = client.loan(all).await.unwrap();
    let mut next = pin!(client.loan(all - 8192));
    assert!(poll(next.as_mut()).is_pending());
    loan.fill(3);
    loan.truncate(3000);
    let bytes = loan.freeze();
    drop(within(next).await.expect("the rest is free, and whoever waits for it is woken"));
    assert_eq!(bytes, [3; 3000][..]);
    assert_eq!(client.blocks_in_use().unwrap(), 1);
}
