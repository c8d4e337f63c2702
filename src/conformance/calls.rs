//! Calls: protocol section 4.

use super::{
    cases,
    links::{Ground, MAX_PAYLOAD, settings},
    note::{Note, Text, Value},
    rig::{CANCELLED, INVALID_PAYLOAD, OK, UNKNOWN_METHOD, USER_7, element, of, value},
    service::{ECHO, Event, FAIL, GATED, HANG, NOP, PANIC, THEIRS},
};
use crate::{
    error::Violation,
    rpc::errors::{CallError, Refusal},
};

cases! {
    "Calls (protocol section 4)" on connections;
    ["call.request-id.duplicate-detection"] a_request_with_the_id_of_one_that_runs_costs_the_connection: everywhere;
    ["call.request-id.duplicate-detection"] a_request_with_the_id_of_a_cancelled_one_before_its_answer_costs_the_connection: everywhere;
    [] the_id_of_an_answered_request_may_be_used_again: everywhere;
    ["flow.call.payload-limit"] a_request_longer_than_the_limit_costs_the_connection: everywhere;
    ["flow.call.payload-limit"] a_response_longer_than_the_limit_costs_the_connection: everywhere;
    ["flow.call.payload-limit"] payloads_of_the_limit_pass_both_ways: everywhere;
    ["flow.call.payload-limit"] a_call_beyond_the_limit_is_refused_here_with_both_numbers: everywhere;
    ["flow.call.payload-limit"] a_result_beyond_the_limit_is_answered_cancelled: everywhere;
    [] our_request_ids_start_at_one_and_grow: everywhere;
    [] responses_may_come_in_any_order: everywhere;
    [] what_the_callee_says_no_with_is_told_apart: everywhere;
    [] what_the_caller_hears_when_no_handler_succeeds: everywhere;
    [] a_response_for_an_unknown_id_is_ignored: everywhere;
    [] the_second_response_to_a_call_is_ignored: everywhere;
    [] a_cancel_for_an_unknown_id_is_ignored: everywhere;
    [] a_cancel_right_behind_its_request_is_answered_once: everywhere;
    [] a_cancel_stops_the_handler_and_is_answered_once: everywhere;
    [] a_cancel_said_twice_is_answered_once: everywhere;
    [] a_cancel_behind_the_answer_is_ignored: everywhere;
    [] a_call_that_is_dropped_sends_cancel_and_ignores_the_answer: everywhere;
    [] a_timeout_travels_with_the_request_and_cancels_it: everywhere;
    [] a_request_whose_time_is_over_is_stopped_and_answered_once: everywhere;
    [] a_request_beyond_the_limit_of_those_that_run_is_answered_cancelled: everywhere;
}

async fn a_request_with_the_id_of_one_that_runs_costs_the_connection(ground: Ground) {
    ground
        .costs_the_connection(async |rig| {
            let request_id = rig.peer_calls(&GATED, &[]).await;
            assert!(matches!(rig.event().await, Event::Started));
            rig.say(Note::request(rig.conn, request_id, &NOP, &[])).await;
            Violation::DuplicateRequest { request_id }
        })
        .await;
}

/// "A request is in flight until its Response arrives. Cancel does not end that."
async fn a_request_with_the_id_of_a_cancelled_one_before_its_answer_costs_the_connection(ground: Ground) {
    ground
        .costs_the_connection(async |rig| {
            let (conn_id, request_id) = (rig.conn, rig.fresh_request());
            let request = Note::request(conn_id, request_id, &GATED, &[]);
            let cancel = Note::Cancel { conn_id, request_id };
            rig.peer.say_together(&[request.clone(), cancel, request]).await;
            Violation::DuplicateRequest { request_id }
        })
        .await;
}

async fn the_id_of_an_answered_request_may_be_used_again(ground: Ground) {
    let mut rig = ground.rig().await;
    for _ in 0..3 {
        rig.say(Note::request(rig.conn, 5, &NOP, &[])).await;
        rig.hears_answer(5, OK).await;
    }
    rig.goes_on().await;
}

async fn a_request_longer_than_the_limit_costs_the_connection(ground: Ground) {
    ground
        .costs_the_connection(async |rig| {
            let len = MAX_PAYLOAD as usize + 1;
            rig.peer_calls(&ECHO, &element(len)).await;
            Violation::PayloadLimit { len, limit: MAX_PAYLOAD as usize }
        })
        .await;
}

async fn a_response_longer_than_the_limit_costs_the_connection(ground: Ground) {
    ground
        .costs_the_connection(async |rig| {
            let (_, request_id) = rig.calling().await;
            let len = MAX_PAYLOAD as usize + 1;
            rig.answer(request_id, &vec![0; len]).await;
            Violation::PayloadLimit { len, limit: MAX_PAYLOAD as usize }
        })
        .await;
}

async fn payloads_of_the_limit_pass_both_ways(ground: Ground) {
    let mut rig = ground.rig().await;
    // The answer is longer than the request by its verdict.
    let payload = element(MAX_PAYLOAD as usize - 1);
    let request_id = rig.peer_calls(&ECHO, &payload).await;
    rig.hears_answer(request_id, &[OK, &payload].concat()).await;
    let request_id = rig.peer_calls(&HANG, &vec![0; MAX_PAYLOAD as usize]).await;
    rig.hears_answer(request_id, INVALID_PAYLOAD).await;
    // And as many bytes in a call of ours; its answer has room for one byte of value less.
    let (argument, result) = (value(MAX_PAYLOAD as usize), value(MAX_PAYLOAD as usize - 1));
    let call = tokio::spawn(rig.ours.call::<(Vec<u8>,), Vec<u8>, u8>(&THEIRS, (argument,)));
    let Note::Request { request_id, payload, .. } = rig.hear().await else { panic!("no request") };
    assert_eq!(payload, element(MAX_PAYLOAD as usize));
    rig.answer(request_id, &[OK, &element(MAX_PAYLOAD as usize - 1)].concat()).await;
    assert_eq!(of(call).await.expect("it was answered"), result);
    rig.goes_on().await;
}

async fn a_call_beyond_the_limit_is_refused_here_with_both_numbers(ground: Ground) {
    let mut rig = ground.rig().await;
    let value = vec![7; MAX_PAYLOAD as usize - 1];
    let refused = rig.ours.call::<(Vec<u8>,), (), u8>(&THEIRS, (value,)).await;
    let Err(CallError::Refused(Refusal::PayloadTooLarge { len, limit })) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((len, limit), (MAX_PAYLOAD as usize + 1, MAX_PAYLOAD as usize));
    rig.goes_on().await;
}

/// The handler's mistake is its caller's to hear of, and costs nobody else.
async fn a_result_beyond_the_limit_is_answered_cancelled(ground: Ground) {
    let mut rig = ground.rig().await;
    let request_id = rig.peer_calls(&ECHO, &element(MAX_PAYLOAD as usize)).await;
    rig.hears_answer(request_id, CANCELLED).await;
    rig.goes_on().await;
}

async fn our_request_ids_start_at_one_and_grow(ground: Ground) {
    let mut rig = ground.rig().await;
    let mut calls = Vec::new();
    for expected in 1..5 {
        let (call, request_id) = rig.calling().await;
        assert_eq!(request_id, expected);
        calls.push(call);
    }
    for (request_id, call) in (1..5).zip(calls) {
        rig.answer(request_id, OK).await;
        of(call).await.expect("it was answered");
    }
    assert_eq!(rig.calling().await.1, 5, "an id is not used again");
}

async fn responses_may_come_in_any_order(ground: Ground) {
    let mut rig = ground.rig().await;
    let calls = [rig.calling().await, rig.calling().await, rig.calling().await];
    let ids = [calls[2].1, calls[0].1, calls[1].1];
    for (index, request_id) in ids.into_iter().enumerate() {
        rig.answer(request_id, &[1, 0, index as u8]).await;
    }
    for ((call, _), expected) in calls.into_iter().zip([1, 2, 0]) {
        let answer = of(call).await;
        assert!(matches!(answer, Err(CallError::User(index)) if index == expected), "{answer:?}");
    }
    let slow = rig.peer_calls(&GATED, &[]).await;
    assert!(matches!(rig.event().await, Event::Started));
    rig.goes_on().await;
    rig.gate.add_permits(1);
    rig.hears_answer(slow, OK).await;
}

/// Both directions of each error: what our caller makes of it, and that it costs nothing.
async fn what_the_callee_says_no_with_is_told_apart(ground: Ground) {
    let mut rig = ground.rig().await;
    for (payload, name) in [
        (OK, "Ok(())"),
        (USER_7, "Err(User(7))"),
        (UNKNOWN_METHOD, "Err(UnknownMethod)"),
        (INVALID_PAYLOAD, "Err(InvalidPayload)"),
        (CANCELLED, "Err(Cancelled)"),
        // Not of the protocol: the caller's own, and no violation.
        (&[][..], "Err(InvalidResponse("),
        (&[0, 1], "Err(InvalidResponse("),
        (&[1], "Err(InvalidResponse("),
        (&[1, 0], "Err(InvalidResponse("),
        (&[1, 0, 7, 8], "Err(InvalidResponse("),
        (&[1, 2, 0], "Err(InvalidResponse("),
        (&[1, 4], "Err(InvalidResponse("),
        (&[2], "Err(InvalidResponse("),
    ] {
        let (call, request_id) = rig.calling().await;
        rig.answer(request_id, payload).await;
        let told = format!("{:?}", of(call).await);
        assert!(told.starts_with(name), "{payload:?}: {told}");
    }
    rig.goes_on().await;
}

async fn what_the_caller_hears_when_no_handler_succeeds(ground: Ground) {
    let mut rig = ground.rig().await;
    for (method, arguments, answer) in [
        (&FAIL, &[][..], USER_7),
        (&THEIRS, &[1, 2, 3], UNKNOWN_METHOD),
        (&ECHO, &[], INVALID_PAYLOAD),
        (&ECHO, &[5, 1], INVALID_PAYLOAD),
        (&ECHO, &[1, 1, 1], INVALID_PAYLOAD),
        (&NOP, &[0], INVALID_PAYLOAD),
        (&PANIC, &[], CANCELLED),
    ] {
        let request_id = rig.peer_calls(method, arguments).await;
        rig.hears_answer(request_id, answer).await;
    }
    rig.goes_on().await;
}

async fn a_response_for_an_unknown_id_is_ignored(ground: Ground) {
    let mut rig = ground.rig().await;
    for request_id in [0, 1, 77, u64::MAX] {
        rig.answer(request_id, OK).await;
    }
    rig.goes_on().await;
}

async fn the_second_response_to_a_call_is_ignored(ground: Ground) {
    let mut rig = ground.rig().await;
    let (call, request_id) = rig.calling().await;
    rig.answer(request_id, USER_7).await;
    rig.answer(request_id, OK).await;
    let answer = of(call).await;
    assert!(matches!(answer, Err(CallError::User(7))), "{answer:?}");
    rig.goes_on().await;
}

async fn a_cancel_for_an_unknown_id_is_ignored(ground: Ground) {
    let mut rig = ground.rig().await;
    for request_id in [0, 1, 77, u64::MAX] {
        rig.say(Note::Cancel { conn_id: rig.conn, request_id }).await;
    }
    rig.goes_on().await;
}

/// Its handler never starts.
async fn a_cancel_right_behind_its_request_is_answered_once(ground: Ground) {
    let mut rig = ground.rig().await;
    let (conn_id, request_id) = (rig.conn, rig.fresh_request());
    let request = Note::request(conn_id, request_id, &HANG, &[]);
    rig.peer.say_together(&[request, Note::Cancel { conn_id, request_id }]).await;
    rig.hears_answer(request_id, CANCELLED).await;
    rig.goes_on().await;
}

async fn a_cancel_stops_the_handler_and_is_answered_once(ground: Ground) {
    let mut rig = ground.rig().await;
    let request_id = rig.peer_calls(&HANG, &[]).await;
    assert!(matches!(rig.event().await, Event::Started));
    rig.say(Note::Cancel { conn_id: rig.conn, request_id }).await;
    rig.hears_answer(request_id, CANCELLED).await;
    assert!(matches!(rig.event().await, Event::Stopped));
    rig.goes_on().await;
}

async fn a_cancel_said_twice_is_answered_once(ground: Ground) {
    let mut rig = ground.rig().await;
    let request_id = rig.peer_calls(&HANG, &[]).await;
    assert!(matches!(rig.event().await, Event::Started));
    let cancel = Note::Cancel { conn_id: rig.conn, request_id };
    rig.peer.say_together(&[cancel.clone(), cancel]).await;
    rig.hears_answer(request_id, CANCELLED).await;
    assert!(matches!(rig.event().await, Event::Stopped));
    rig.goes_on().await;
}

async fn a_cancel_behind_the_answer_is_ignored(ground: Ground) {
    let mut rig = ground.rig().await;
    for method in [&NOP, &GATED] {
        let request_id = rig.peer_calls(method, &[]).await;
        if method == &GATED {
            assert!(matches!(rig.event().await, Event::Started));
            rig.gate.add_permits(1);
        }
        rig.hears_answer(request_id, OK).await;
        rig.say(Note::Cancel { conn_id: rig.conn, request_id }).await;
        rig.goes_on().await;
    }
}

async fn a_call_that_is_dropped_sends_cancel_and_ignores_the_answer(ground: Ground) {
    let mut rig = ground.rig().await;
    drop(rig.ours.call::<(), (), u8>(&THEIRS, ())); // never polled: never sent
    for payload in [OK, CANCELLED] {
        let (call, request_id) = rig.calling().await;
        call.abort();
        rig.hears(Note::Cancel { conn_id: rig.conn, request_id }).await;
        rig.answer(request_id, payload).await;
        rig.goes_on().await;
    }
}

async fn a_timeout_travels_with_the_request_and_cancels_it(ground: Ground) {
    let mut rig = ground.rig().await;
    let timeout = std::time::Duration::from_millis(5);
    let call = tokio::spawn(rig.ours.call::<(), (), u8>(&THEIRS, ()).with_timeout(timeout));
    let Note::Request { request_id, metadata, .. } = rig.hear().await else { panic!("no request") };
    assert_eq!(metadata, [(Text::from("timeout-ns"), Value::U64(5_000_000))]);
    rig.hears(Note::Cancel { conn_id: rig.conn, request_id }).await;
    let error = of(call).await.expect_err("nobody answers");
    assert!(matches!(error, CallError::TimedOut { after } if after == timeout), "{error:?}");
    rig.answer(request_id, OK).await;
    rig.goes_on().await;
}

async fn a_request_whose_time_is_over_is_stopped_and_answered_once(ground: Ground) {
    let mut rig = ground.rig().await;
    for nanos in [0, 1, 5_000_000] {
        let request_id = rig.fresh_request();
        let timeout = vec![(Text::from("timeout-ns"), Value::U64(nanos))];
        rig.say(Note::request(rig.conn, request_id, &HANG, &[]).with(timeout)).await;
        rig.hears_answer(request_id, CANCELLED).await;
        while let Some(event) = rig.unseen() {
            assert!(matches!(event, Event::Started | Event::Stopped), "{event:?}");
        }
        rig.goes_on().await;
    }
}

async fn a_request_beyond_the_limit_of_those_that_run_is_answered_cancelled(ground: Ground) {
    let mut rig = ground.rig_with(settings().max_concurrent_requests(2)).await;
    let first = rig.peer_calls(&GATED, &[]).await;
    rig.peer_calls(&GATED, &[]).await;
    for _ in 0..2 {
        assert!(matches!(rig.event().await, Event::Started));
    }
    let beyond = rig.peer_calls(&NOP, &[]).await;
    rig.hears_answer(beyond, CANCELLED).await;
    rig.gate.add_permits(1);
    rig.hears_answer(first, OK).await;
    rig.goes_on().await;
}
