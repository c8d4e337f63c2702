//! How a link with roam ends, from either side.

use std::{pin::pin, time::Duration};

use adjoin::{CallError, LinkEnd, Violation, channel};
use roam_session::{CallError as TheirCallError, HandshakeConfig};

use crate::{
    interface::{StrangerClient, id},
    link::{Initiator, Link, alone, begun, link, serving, sockets},
    theirs::{Theirs, call},
};

whoever_connects! {
    our_goodbye_fails_their_calls_and_ends_their_driver
    their_end_of_the_socket_fails_our_calls
    their_goodbye_arrives_with_its_rule
    an_id_that_roam_uses_for_two_channels_ends_the_link
}

/// Waits until roam's side is over, which it takes for a good end.
async fn over(driver: tokio::task::JoinHandle<Result<(), roam_session::ConnectionError>>) {
    driver.await.unwrap().unwrap();
}

async fn our_goodbye_fails_their_calls_and_ends_their_driver(link: Link) {
    let mut hangs = pin!(call::<_, ()>(&link.theirs, id::HANG, ()));
    begun(hangs.as_mut()).await;
    call::<_, i32>(&link.theirs, id::ADD, (1, 2)).await.unwrap(); // arrives behind it
    link.ours.close().await;
    assert!(matches!(link.ours.end(), Some(LinkEnd::Closed)), "{:?}", link.ours.end());
    let failed = hangs.await;
    // Had the socket ended without a Goodbye, roam would say that its driver is gone.
    assert!(matches!(failed, Err(TheirCallError::ConnectionClosed)), "{failed:?}");
    over(link.driver).await;
}

async fn their_end_of_the_socket_fails_our_calls(link: Link) {
    let mut hangs = pin!(link.client.hang());
    begun(hangs.as_mut()).await;
    link.driver.abort();
    let failed = hangs.await;
    assert!(matches!(failed, Err(CallError::Ended(LinkEnd::Gone))), "{failed:?}");
    assert!(matches!(link.ours.closed().await, LinkEnd::Gone));
}

/// What roam says to elements of a call whose method it does not know.
async fn their_goodbye_arrives_with_its_rule(link: Link) {
    // The answer and the Goodbye race on roam's side; and on ours the answer and the element, which is not sent behind it.
    loop {
        let (tx, rx) = channel();
        tx.send(1).await.unwrap();
        drop(tx);
        match StrangerClient::new(&link.ours).nobodys_sum(rx).await {
            Err(CallError::UnknownMethod) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(CallError::Ended(LinkEnd::Goodbye { .. })) => break,
            other => panic!("{other:?}"),
        }
    }
    let end = link.ours.closed().await;
    assert!(matches!(&end, LinkEnd::Goodbye { reason } if &**reason == "channeling.unknown"), "{end:?}");
}

/// roam counts the channels that it passes and those that it returns apart, and both from the first id of its
/// parity. The n-th of either on one connection have the same id.
async fn an_id_that_roam_uses_for_two_channels_ends_the_link(link: Link) {
    let mut hangs = pin!(call::<_, ()>(&link.theirs, id::HANG, ()));
    begun(hangs.as_mut()).await;
    let (tx, rx) = roam_session::channel::<u64>();
    drop(tx);
    assert_eq!(call::<_, u64>(&link.theirs, id::SUM, (rx,)).await.unwrap(), 0);
    match link.client.later().await.map(drop) {
        Err(CallError::Ended(LinkEnd::Violation(Violation::UnknownChannel { channel_id: 1 | 2 }))) => {}
        other => panic!("{other:?}"),
    }
    let failed = hangs.await;
    assert!(matches!(failed, Err(TheirCallError::ConnectionClosed)), "roam was told: {failed:?}");
    over(link.driver).await;
}

/// roam neither waits for credit nor looks at what it is granted.
#[test]
fn a_stream_beyond_its_credit_ends_the_link() {
    for initiator in [Initiator::Adjoin, Initiator::Roam] {
        alone(async {
            let link = link(initiator, 1000).await;
            let _unread = link.client.later().await.unwrap();
            let gone = link.client.go(1000).await;
            match gone {
                Err(CallError::Ended(LinkEnd::Violation(Violation::CreditOverrun {
                    granted: 1000, ..
                }))) => {}
                other => panic!("{other:?}"),
            }
            let _ = link.driver.await.unwrap(); // it may have been about to write
        });
    }
}

#[test]
fn the_lower_limits_of_both_sides_hold() {
    alone(async {
        for (theirs, agreed) in [((5000, 70_000), (5000, 10_000)), ((2 << 20, 3000), (1 << 20, 3000))] {
            let (connected, accepted) = sockets().await;
            let hello = HandshakeConfig { max_payload_size: theirs.0, initial_channel_credit: theirs.1 };
            let (ours, roam) = tokio::join!(
                adjoin::stream::connect(connected, serving(10_000).0),
                roam_stream::accept(accepted, hello, Theirs::default()),
            );
            assert_eq!(ours.unwrap().limits(), agreed);
            drop(roam.unwrap());
        }
    });
}
