//! roam calls adjoin.

use roam_session::{CallError, RoamError};
use roam_wire::MetadataValue;

use crate::{
    interface::{MathError, Noted, Shapes, id},
    link::{Link, MAX_PAYLOAD},
    theirs::{call, call_fallible, call_with_metadata},
};

whoever_connects! {
    a_method_is_called_by_its_pinned_id
    answers_are_those_of_the_protocol_to_the_byte
    values_of_every_shape_come_back_the_same
    an_error_of_the_service_arrives_as_such
    an_unknown_method_is_told_and_the_link_goes_on
    arguments_that_do_not_decode_are_told_and_the_link_goes_on
    metadata_arrives_in_order_with_its_duplicates
    a_payload_as_long_as_both_agreed_on_passes
    a_thousand_calls_at_once_are_all_answered
    calls_of_both_sides_with_the_same_ids_do_not_meet
}

async fn a_method_is_called_by_its_pinned_id(link: Link) {
    assert_eq!(call::<_, i32>(&link.theirs, id::ADD, (2, -5)).await.unwrap(), -3);
    assert_eq!(call::<_, i32>(&link.theirs, id::ADD, (i32::MAX, 1)).await.unwrap(), i32::MIN);
}

async fn answers_are_those_of_the_protocol_to_the_byte(link: Link) {
    let raw = async |id, payload: &[u8]| link.theirs.call_raw(id, payload.to_vec()).await.unwrap();
    assert_eq!(raw(id::ADD, &[4, 9]).await, [0, 5], "2 and -5, zigzag, make -3");
    assert_eq!(raw(id::DIVIDE, &[14, 0]).await, [1, 0, 1, 14], "the service's error, its second variant");
    assert_eq!(raw(id::NOBODYS, &[]).await, [1, 1], "an unknown method");
    assert_eq!(raw(id::ADD, &[4]).await, [1, 2], "too few arguments");
    assert_eq!(raw(id::ADD, &[4, 9, 0]).await, [1, 2], "a trailing byte");
    assert_eq!(raw(id::STOPPED, &[]).await, [0, 0], "no arguments");
}

async fn values_of_every_shape_come_back_the_same(link: Link) {
    let shapes: Shapes = call(&link.theirs, id::ECHO, (Shapes::extremes(),)).await.unwrap();
    assert_eq!(shapes, Shapes::extremes());
}

async fn an_error_of_the_service_arrives_as_such(link: Link) {
    let divide =
        async |a: i32, b: i32| call_fallible::<_, i32, MathError>(&link.theirs, id::DIVIDE, (a, b)).await;
    assert_eq!(divide(7, -2).await.unwrap(), -3);
    match divide(7, 0).await {
        Err(CallError::Roam(RoamError::User(MathError::DividedByZero { dividend: 7 }))) => {}
        other => panic!("{other:?}"),
    }
    match divide(i32::MIN, -1).await {
        Err(CallError::Roam(RoamError::User(MathError::Overflow))) => {}
        other => panic!("{other:?}"),
    }
}

async fn an_unknown_method_is_told_and_the_link_goes_on(link: Link) {
    let unknown = call::<_, u32>(&link.theirs, id::NOBODYS, ()).await;
    assert!(matches!(unknown, Err(CallError::Roam(RoamError::UnknownMethod))), "{unknown:?}");
    assert_eq!(call::<_, i32>(&link.theirs, id::ADD, (1, 2)).await.unwrap(), 3);
}

async fn arguments_that_do_not_decode_are_told_and_the_link_goes_on(link: Link) {
    let half = call::<_, i32>(&link.theirs, id::ADD, (1,)).await;
    assert!(matches!(half, Err(CallError::Roam(RoamError::InvalidPayload))), "{half:?}");
    assert_eq!(call::<_, i32>(&link.theirs, id::ADD, (1, 2)).await.unwrap(), 3);
}

async fn metadata_arrives_in_order_with_its_duplicates(link: Link) {
    let metadata = vec![
        ("key".into(), MetadataValue::String("text".into())),
        ("Key".into(), MetadataValue::U64(1)),
        ("key".into(), MetadataValue::Bytes(vec![0, 255])),
        ("key".into(), MetadataValue::U64(u64::MAX)),
    ];
    let noted: Vec<Noted> =
        call_with_metadata(&link.theirs, id::NOTE, ("key".to_string(),), metadata).await.unwrap();
    assert_eq!(noted, [Noted::String("text".into()), Noted::Bytes(vec![0, 255]), Noted::U64(u64::MAX)]);
}

async fn a_payload_as_long_as_both_agreed_on_passes(link: Link) {
    let len = MAX_PAYLOAD as usize - 3; // the length before it takes three
    for byte in [0u8, 1] {
        assert_eq!(call::<_, u64>(&link.theirs, id::LEN, (vec![byte; len],)).await.unwrap(), len as u64);
    }
}

async fn a_thousand_calls_at_once_are_all_answered(link: Link) {
    let calls: Vec<_> = (0..1000)
        .map(|number: i32| {
            let theirs = link.theirs.clone();
            tokio::spawn(async move {
                assert_eq!(call::<_, i32>(&theirs, id::ADD, (number, 1)).await.unwrap(), number + 1);
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
}

async fn calls_of_both_sides_with_the_same_ids_do_not_meet(link: Link) {
    for number in 0..100 {
        let (ours, theirs) =
            tokio::join!(link.client.add(number, 1), call::<_, i32>(&link.theirs, id::ADD, (number, 2)),);
        assert_eq!((ours.unwrap(), theirs.unwrap()), (number + 1, number + 2));
    }
}
