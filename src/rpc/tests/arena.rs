//! Links whose arenas are small, and whose applications keep what they were lent.

use std::{
    any::Any,
    sync::{Arc, Mutex},
    time::Duration,
};

use adjoin_shm_layout::Geometry;

use super::{NOP, nop};
use crate::{
    rpc::{
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

/// Says how long what it is sent is, and keeps streams without reading them.
#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<Vec<Box<dyn Any + Send>>>>);

impl ServiceDispatcher for Keeper {
    fn service(&self) -> &'static Service {
        static ARENA: Service = service("Arena", &[LENGTH, KEEP, NOP]);
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

/// Within a time that is a hang if it is over.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it hangs")
}

async fn length(connection: &Connection, len: usize) {
    let call = connection.call::<(Vec<u8>,), u64, Never>(&LENGTH, (vec![7; len],));
    assert_eq!(soon(call).await.unwrap(), len as u64);
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
        soon(tx.send(vec![1; 3000])).await.unwrap();
    }
    length(&client, 3000).await;
    assert!(client.blocks_in_use().unwrap() >= 6);
}

/// An element with a permit is sent, or parked for no longer than it takes the peer to read.
#[tokio::test]
async fn an_element_that_has_a_permit_does_not_stop_its_link() {
    let (client, _peer, _keeper) = pair(&SMALL).await;
    let tx = unread(&client).await;
    let loans = all_loans(&client);
    for _ in 0..3 {
        let permit = tx.try_reserve(LONG + 10).ok().expect("there is credit");
        permit.send(vec![1; LONG]).ok().expect("it has a permit");
        soon(nop(&client)).await.unwrap();
    }
    drop(loans);
}

/// With a single block there is nothing to lend, which is said at once.
#[tokio::test]
async fn a_link_with_one_block_lends_nothing_and_carries_messages() {
    let (client, _peer, _) = pair(&Geometry { arena_blocks: 1, ..SMALL }).await;
    let refused = soon(client.loan(1)).await.unwrap_err();
    assert!(refused.to_string().contains("arena_blocks"), "{refused}");
    length(&client, LONG).await;
}
