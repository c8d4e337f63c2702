//! adjoin calls roam.

use std::{future::IntoFuture, pin::pin, time::Duration};

use adjoin::{CallError, Metadata};

use crate::{
    interface::{MathError, Noted, Shapes, StrangerClient},
    link::{Link, MAX_PAYLOAD, begun},
};

whoever_connects! {
    a_method_is_called_by_its_pinned_id
    values_of_every_shape_come_back_the_same
    an_error_of_the_service_arrives_as_such
    an_unknown_method_is_told_and_the_link_goes_on
    arguments_that_do_not_decode_are_told_and_the_link_goes_on
    metadata_arrives_in_order_with_its_duplicates
    a_payload_as_long_as_both_agreed_on_passes
    a_thousand_calls_at_once_are_all_answered
    a_dropped_call_stops_its_handler
    a_call_that_takes_too_long_stops_its_handler
}

async fn a_method_is_called_by_its_pinned_id(link: Link) {
    assert_eq!(link.client.add(2, -5).await.unwrap(), -3);
    assert_eq!(link.client.add(i32::MAX, 1).await.unwrap(), i32::MIN);
}

async fn values_of_every_shape_come_back_the_same(link: Link) {
    assert_eq!(link.client.echo(Shapes::extremes()).await.unwrap(), Shapes::extremes());
}

async fn an_error_of_the_service_arrives_as_such(link: Link) {
    assert_eq!(link.client.divide(7, -2).await.unwrap(), -3);
    let by_zero = link.client.divide(7, 0).await;
    assert!(matches!(by_zero, Err(CallError::User(MathError::DividedByZero { dividend: 7 }))), "{by_zero:?}");
    let overflow = link.client.divide(i32::MIN, -1).await;
    assert!(matches!(overflow, Err(CallError::User(MathError::Overflow))), "{overflow:?}");
}

async fn an_unknown_method_is_told_and_the_link_goes_on(link: Link) {
    let unknown = StrangerClient::new(&link.ours).nobodys().await;
    assert!(matches!(unknown, Err(CallError::UnknownMethod)), "{unknown:?}");
    assert_eq!(link.client.add(1, 2).await.unwrap(), 3);
}

async fn arguments_that_do_not_decode_are_told_and_the_link_goes_on(link: Link) {
    let half = StrangerClient::new(&link.ours).half_an_add(1).await;
    assert!(matches!(half, Err(CallError::InvalidPayload)), "{half:?}");
    assert_eq!(link.client.add(1, 2).await.unwrap(), 3);
}

async fn metadata_arrives_in_order_with_its_duplicates(link: Link) {
    let mut metadata = Metadata::new();
    metadata.push("key", "text");
    metadata.push("Key", 1);
    metadata.push("key", vec![0, 255]);
    metadata.push("key", u64::MAX);
    let noted = link.client.note("key".into()).with_metadata(metadata).await.unwrap();
    assert_eq!(noted, [Noted::String("text".into()), Noted::Bytes(vec![0, 255]), Noted::U64(u64::MAX)]);
}

async fn a_payload_as_long_as_both_agreed_on_passes(link: Link) {
    let len = MAX_PAYLOAD as usize - 3; // the length before it takes three
    for byte in [0, 1] {
        assert_eq!(link.client.len(vec![byte; len]).await.unwrap(), len as u64);
    }
}

async fn a_thousand_calls_at_once_are_all_answered(link: Link) {
    let calls: Vec<_> = (0..1000)
        .map(|number| {
            let client = link.client.clone();
            tokio::spawn(async move { assert_eq!(client.add(number, 1).await.unwrap(), number + 1) })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
}

/// Waits until roam has stopped a handler.
async fn stopped(link: &Link) {
    while link.client.stopped().await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn a_dropped_call_stops_its_handler(link: Link) {
    {
        let mut call = pin!(link.client.hang().into_future());
        begun(call.as_mut()).await;
    }
    stopped(&link).await;
    assert_eq!(link.client.add(1, 2).await.unwrap(), 3);
}

async fn a_call_that_takes_too_long_stops_its_handler(link: Link) {
    let late = link.client.hang().with_timeout(Duration::from_millis(20)).await;
    assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
    stopped(&link).await;
    assert_eq!(link.client.add(1, 2).await.unwrap(), 3);
}
