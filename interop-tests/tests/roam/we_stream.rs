//! adjoin calls methods of roam that have streams.

use std::pin::pin;

use adjoin::{CallError, SendError, channel};

use crate::{
    interface::StrangerClient,
    link::{Initiator, Link, alone, begun, link},
};

whoever_connects! {
    the_caller_sends
    the_callee_sends
    streams_go_both_ways_at_once
    what_was_sent_before_the_call_arrives_first
    a_returned_stream_arrives
    a_thousand_streams_come_and_go
    a_stream_that_is_read_no_more_costs_itself_alone
    a_stream_to_an_unknown_method_says_nothing_after_the_answer
}

async fn the_caller_sends(link: Link) {
    let (tx, rx) = channel();
    let send = async {
        for number in 0..1000 {
            tx.send(number).await.unwrap();
        }
        drop(tx);
    };
    let (sum, ()) = tokio::join!(link.client.sum(rx), send);
    assert_eq!(sum.unwrap(), (0..1000).sum::<u64>());
}

async fn the_callee_sends(link: Link) {
    let (tx, mut rx) = channel();
    let receive = async {
        for expected in 0..1000 {
            assert_eq!(rx.recv().await.unwrap(), Some(expected));
        }
        assert_eq!(rx.recv().await.unwrap(), None);
    };
    let (counted, ()) = tokio::join!(link.client.count(1000, tx), receive);
    counted.unwrap();
}

async fn streams_go_both_ways_at_once(link: Link) {
    let (words, input) = channel();
    let (output, mut loud) = channel();
    let talk = async {
        for number in 0..1000 {
            words.send(format!("word {number}")).await.unwrap();
            assert_eq!(loud.recv().await.unwrap(), Some(format!("WORD {number}")));
        }
        drop(words);
        assert_eq!(loud.recv().await.unwrap(), None);
    };
    let (shouted, ()) = tokio::join!(link.client.shout(input, output), talk);
    shouted.unwrap();
}

async fn what_was_sent_before_the_call_arrives_first(link: Link) {
    let (words, input) = channel();
    let (output, mut loud) = channel();
    for number in 0..100 {
        words.send(format!("word {number}")).await.unwrap();
    }
    let talk = async {
        for number in 100..200 {
            words.send(format!("word {number}")).await.unwrap();
        }
        drop(words);
        for number in 0..200 {
            assert_eq!(loud.recv().await.unwrap(), Some(format!("WORD {number}")));
        }
    };
    let (shouted, ()) = tokio::join!(link.client.shout(input, output), talk);
    shouted.unwrap();
}

async fn a_returned_stream_arrives(link: Link) {
    for upto in [0, 1, 1000] {
        let mut numbers = link.client.later().await.unwrap();
        link.client.go(upto).await.unwrap();
        for expected in 0..upto {
            assert_eq!(numbers.recv().await.unwrap(), Some(expected));
        }
        assert_eq!(numbers.recv().await.unwrap(), None);
    }
}

async fn a_thousand_streams_come_and_go(link: Link) {
    for number in 0..500 {
        let (tx, rx) = channel();
        tx.send(number).await.unwrap();
        drop(tx);
        assert_eq!(link.client.sum(rx).await.unwrap(), number);
        let (tx, mut rx) = channel();
        link.client.count(1, tx).await.unwrap();
        assert_eq!(rx.recv().await.unwrap(), Some(0));
        assert_eq!(rx.recv().await.unwrap(), None);
    }
}

/// roam goes on sending after a Reset.
async fn a_stream_that_is_read_no_more_costs_itself_alone(link: Link) {
    let (tx, mut rx) = channel();
    let receive = async {
        assert_eq!(rx.recv().await.unwrap(), Some(0));
        drop(rx);
    };
    let (counted, ()) = tokio::join!(link.client.count(10_000, tx), receive);
    counted.unwrap();
    assert_eq!(link.client.add(1, 2).await.unwrap(), 3);
}

/// roam knows nothing of the channels of a method that it does not know: a Close would end the link.
async fn a_stream_to_an_unknown_method_says_nothing_after_the_answer(link: Link) {
    let (tx, rx) = channel();
    let unknown = StrangerClient::new(&link.ours).nobodys_sum(rx).await;
    assert!(matches!(unknown, Err(CallError::UnknownMethod)), "{unknown:?}");
    let sent = tx.send(1).await;
    assert!(matches!(sent, Err(SendError::Closed)), "{sent:?}");
    drop(tx);
    assert_eq!(link.client.add(1, 2).await.unwrap(), 3);
}

/// One hundred elements of one hundred bytes, their lengths included, are the whole window.
#[test]
fn a_sender_uses_up_the_initial_credit_and_then_waits() {
    for initiator in [Initiator::Adjoin, Initiator::Roam] {
        alone(async {
            let link = link(initiator, 10_000).await;
            let (tx, rx) = channel();
            let send = async {
                for _ in 0..100 {
                    tx.send(vec![0; 99]).await.unwrap();
                }
                {
                    let mut one_more = pin!(tx.send(vec![]));
                    begun(one_more.as_mut()).await;
                }
                drop(tx); // Close costs nothing
            };
            let (gathered, ()) = tokio::join!(link.client.gather(rx), send);
            assert_eq!(gathered.unwrap(), 100 * 99);
            assert!(link.ours.end().is_none());
        });
    }
}
