//! What a receiver keeps of payloads that came in blocks: no more memory than they have, no block that others need, and
//! nothing of a segment whose link has ended.

use std::{
    any::Any,
    sync::{Arc, Mutex},
    time::Duration,
};

use adjoin_shm_layout::Geometry;

use super::{NOP, nop};
use crate::{
    rpc::{
        bytes::Bytes,
        connection::Connection,
        dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
        errors::Never,
        method::{Method, Service, method, service},
        method_id::MethodId,
        options::Options,
        rx::Rx,
        waiters::lock,
    },
    segments::pair_for_test,
    settings::Waiting,
};

const KEEP: Method = method("Keep", "keep", MethodId::new(12), false, false);
const STORE: Method = method("Keep", "store", MethodId::new(13), false, false);
const UNKNOWN: Method = method("Keep", "unknown", MethodId::new(14), false, false);

/// Keeps streams that it does not read, and short payloads.
#[derive(Clone, Default)]
struct Keep(Arc<Mutex<Vec<Box<dyn Any + Send>>>>);

impl ServiceDispatcher for Keep {
    fn service(&self) -> &'static Service {
        static KEPT: Service = service("Keep", &[KEEP, STORE, NOP]);
        &KEPT
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        let kept = self.0.clone();
        let keep = move |what: Box<dyn Any + Send>| lock(&kept).push(what);
        match request.method_id() {
            id if id == KEEP.id => request.serve(&KEEP, move |(rx,): (Rx<Vec<u8>>,)| {
                keep(Box::new(rx));
                async {}
            }),
            id if id == STORE.id => request.serve(&STORE, move |(_, bytes): (u8, Bytes)| {
                if bytes.len() < 5000 {
                    keep(Box::new(bytes));
                }
                async {}
            }),
            id if id == NOP.id => request.serve(&NOP, |()| async {}),
            _ => request.unknown_method(),
        }
    }
}

const GEOMETRY: Geometry = Geometry {
    ring_bytes: 1 << 20,
    channel_slots: 16,
    max_payload_size: 8 << 20,
    initial_channel_credit: 1 << 18,
    arena_blocks: 256,
    arena_bytes: 16 << 20,
};

/// A client, and the service that keeps what it sends.
async fn linked(geometry: &Geometry) -> (Connection, Connection, Keep) {
    let (ours, theirs) = pair_for_test(geometry, Waiting::Adaptive).await;
    let kept = Keep::default();
    let server = Connection::start(ours, &Options::new().serve(kept.clone()));
    (Connection::start(theirs, &Options::new()), server, kept)
}

/// A stream to the service, which does not read it.
async fn unread_stream(client: &Connection) -> crate::Tx<Bytes> {
    let (tx, rx) = crate::channel::<Bytes>();
    client.call::<(Rx<Bytes>,), (), Never>(&KEEP, (rx,)).await.unwrap();
    tx
}

/// MiB of private memory that this process has.
fn private_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Fails where a short payload is kept in the memory that a long one needed: that is 200 MiB then, and other tests of this
/// process come and go with less.
#[tokio::test]
async fn a_short_payload_that_is_kept_does_not_keep_a_long_ones_memory() {
    let (client, _server, _kept) = linked(&GEOMETRY).await;
    let tx = unread_stream(&client).await;
    let before = private_memory();
    for round in 0..100 {
        // No vector, and nobody keeps it.
        let long = (1_u8, vec![1; (1 << 20) - 100]);
        let _ = client.call::<(u8, Vec<u8>), (), Never>(&UNKNOWN, long).await;
        let mut short = client.loan(if round % 2 == 0 { 300 } else { 4000 }).await.unwrap();
        short.fill(0);
        let short = short.freeze();
        if round % 4 == 0 {
            tx.send(short).await.unwrap();
        } else {
            client.call::<(u8, Bytes), (), Never>(&STORE, (1, short)).await.unwrap();
        }
        nop(&client).await.unwrap();
    }
    let now = private_memory();
    assert!(now < before + 60, "{before} MiB before, {now} MiB now");
}

/// Mappings of segments that this process has, which other tests of it make, too: of this length.
fn mappings(geometry: &Geometry) -> usize {
    let len = usize::try_from(geometry.half_len()).unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let length = |line: &str| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        Some(usize::from_str_radix(end, 16).ok()? - usize::from_str_radix(start, 16).ok()?)
    };
    maps.lines().filter(|line| line.contains("memfd:") && length(line) == Some(len)).count()
}

#[tokio::test]
async fn a_stream_that_nobody_reads_does_not_keep_the_segment_and_can_be_read_to_its_end() {
    let geometry = Geometry { arena_bytes: (16 << 20) + (3 << 12), ..GEOMETRY }; // as no other test has
    let (client, server, kept) = linked(&geometry).await;
    let tx = unread_stream(&client).await;
    for fill in 0..5 {
        let mut loan = client.loan(30_000).await.unwrap();
        loan.fill(fill);
        tx.send(loan.freeze()).await.unwrap();
    }
    nop(&client).await.unwrap();
    assert!(client.blocks_in_use().unwrap() >= 5, "nothing was left where it lies");
    assert_eq!(mappings(&geometry), 4);
    client.close().await;
    drop((client, server, tx));
    while mappings(&geometry) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await; // what hangs here was kept
    }
    let stream = lock(&kept.0).pop().unwrap();
    let mut stream = *stream.downcast::<Rx<Vec<u8>>>().unwrap();
    for fill in 0..5 {
        assert_eq!(stream.recv().await.unwrap(), Some(vec![fill; 30_000]));
    }
    assert!(stream.recv().await.is_err(), "the link's end");
}

#[tokio::test]
async fn a_stream_that_nobody_reads_takes_a_quarter_of_what_can_be_lent_and_no_more() {
    let geometry = Geometry { arena_blocks: 258, arena_bytes: 8 << 21, ..GEOMETRY };
    let lending = geometry.arena_bytes as usize - geometry.max_payload_size as usize;
    // Many that are short, and fewer that are long.
    for len in [2100, 30_000] {
        let (client, _server, _kept) =
            linked(&Geometry { initial_channel_credit: 8 << 20, ..geometry }).await;
        let tx = unread_stream(&client).await;
        for _ in 0..250 {
            let mut loan = client.loan(len).await.unwrap();
            loan.fill(1);
            tx.send(loan.freeze()).await.unwrap();
        }
        nop(&client).await.unwrap();
        let left = client.blocks_in_use().unwrap();
        let most = (lending / 4 / len.next_multiple_of(4096)).min(258 / 4);
        assert!((most - 10..=most).contains(&left), "{left} of {most} at {len} bytes");
    }
}
