//! roam calls methods of adjoin that have streams.

use roam_session::{Rx, channel};

use crate::{
    interface::id,
    link::{Initiator, Link, alone, link},
    theirs::call,
};

whoever_connects! {
    the_caller_sends
    the_callee_sends
    streams_go_both_ways_at_once
    a_returned_stream_arrives
    a_thousand_streams_come_and_go
    streams_of_both_sides_do_not_meet
}

async fn the_caller_sends(link: Link) {
    let (tx, rx) = channel::<u64>();
    let send = async {
        for number in 0..1000 {
            tx.send(&number).await.unwrap();
        }
        drop(tx);
    };
    let (sum, ()) = tokio::join!(call::<_, u64>(&link.theirs, id::SUM, (rx,)), send);
    assert_eq!(sum.unwrap(), (0..1000).sum::<u64>());
}

async fn the_callee_sends(link: Link) {
    let (tx, mut rx) = channel::<u32>();
    let receive = async {
        for expected in 0..1000 {
            assert_eq!(rx.recv().await.unwrap(), Some(expected));
        }
        assert_eq!(rx.recv().await.unwrap(), None);
    };
    let (counted, ()) = tokio::join!(call::<_, ()>(&link.theirs, id::COUNT, (1000u32, tx)), receive);
    counted.unwrap();
}

async fn streams_go_both_ways_at_once(link: Link) {
    let (words, input) = channel::<String>();
    let (output, mut loud) = channel::<String>();
    let talk = async {
        for number in 0..1000 {
            words.send(&format!("word {number}")).await.unwrap();
            assert_eq!(loud.recv().await.unwrap(), Some(format!("WORD {number}")));
        }
        drop(words);
        assert_eq!(loud.recv().await.unwrap(), None);
    };
    let (shouted, ()) = tokio::join!(call::<_, ()>(&link.theirs, id::SHOUT, (input, output)), talk);
    shouted.unwrap();
}

async fn a_returned_stream_arrives(link: Link) {
    for upto in [0, 1, 1000] {
        let mut numbers: Rx<u32> = call(&link.theirs, id::LATER, ()).await.unwrap();
        call::<_, ()>(&link.theirs, id::GO, (upto,)).await.unwrap();
        for expected in 0..upto {
            assert_eq!(numbers.recv().await.unwrap(), Some(expected));
        }
        assert_eq!(numbers.recv().await.unwrap(), None);
    }
}

async fn a_thousand_streams_come_and_go(link: Link) {
    for number in 0..500u64 {
        let (tx, rx) = channel::<u64>();
        tx.send(&number).await.unwrap();
        drop(tx);
        assert_eq!(call::<_, u64>(&link.theirs, id::SUM, (rx,)).await.unwrap(), number);
        let (tx, mut rx) = channel::<u32>();
        call::<_, ()>(&link.theirs, id::COUNT, (1u32, tx)).await.unwrap();
        assert_eq!(rx.recv().await.unwrap(), Some(0));
        assert_eq!(rx.recv().await.unwrap(), None);
    }
}

/// Each side passes the first channel of its parity, in either direction.
async fn streams_of_both_sides_do_not_meet(link: Link) {
    for _ in 0..100 {
        let (our_tx, mut our_rx) = adjoin::channel();
        let (their_tx, mut their_rx) = channel::<u32>();
        let receive = async {
            for expected in 0..10 {
                assert_eq!(our_rx.recv().await.unwrap(), Some(expected));
                assert_eq!(their_rx.recv().await.unwrap(), Some(expected));
            }
        };
        let (ours, theirs, ()) = tokio::join!(
            link.client.count(10, our_tx),
            call::<_, ()>(&link.theirs, id::COUNT, (10u32, their_tx)),
            receive,
        );
        ours.unwrap();
        theirs.unwrap();
    }
}

/// One hundred elements of one hundred bytes, their lengths included, are the whole window. What we grant
/// meanwhile does not disturb roam.
#[test]
fn a_sender_may_use_up_the_initial_credit() {
    for initiator in [Initiator::Adjoin, Initiator::Roam] {
        alone(async {
            let link = link(initiator, 10_000).await;
            let (tx, rx) = channel::<Vec<u8>>();
            let send = async {
                for _ in 0..100 {
                    tx.send(&vec![0; 99]).await.unwrap();
                }
                drop(tx);
            };
            let (gathered, ()) = tokio::join!(call::<_, u64>(&link.theirs, id::GATHER, (rx,)), send);
            assert_eq!(gathered.unwrap(), 100 * 99);
            assert!(link.ours.end().is_none());
        });
    }
}
