//! The peer's requests that run here.

use std::time::Instant;

use super::{MAX_REQUESTS, Scene, Seen, accepted, rule};
use crate::{
    error::Violation,
    session::{connections::ConnKey, serving::Attached},
};

// call.request-id.duplicate-detection
#[test]
fn a_request_with_an_id_in_flight_is_a_violation() {
    let mut scene = Scene::new();
    assert_eq!(scene.request(1, &[]), accepted());
    let twice = Violation::DuplicateRequest { request_id: 1 };
    assert_eq!(twice.rule(), "call.request-id.duplicate-detection");
    assert_eq!(scene.request(1, &[]), Err(twice));
}

#[test]
fn a_cancelled_request_keeps_its_id_until_it_is_answered() {
    let mut scene = Scene::new();
    scene.request(1, &[]).unwrap();
    scene.cancel(1).unwrap();
    assert_eq!(rule(&scene.request(1, &[])), Some("call.request-id.duplicate-detection"));
}

#[test]
fn an_id_may_come_again_once_its_request_was_answered() {
    let mut scene = Scene::new();
    scene.request(1, &[]).unwrap();
    assert_eq!(scene.session.root.serving.finish(1), Some(None));
    assert_eq!(scene.request(1, &[]), accepted());
}

#[test]
fn a_request_is_answered_once() {
    let mut scene = Scene::new();
    let deadline = Some(Instant::now());
    scene.session.root.serving.start(1, deadline);
    assert_eq!(scene.session.root.serving.finish(1), Some(deadline));
    assert_eq!(scene.session.root.serving.finish(1), None);
}

#[test]
fn cancel_for_an_unknown_id_is_ignored() {
    assert_eq!(Scene::new().cancel(7), Ok(Seen::Nothing));
}

#[test]
fn cancel_stops_a_handler_once() {
    let mut scene = Scene::new();
    scene.request(1, &[]).unwrap();
    assert_eq!(scene.session.root.serving.attach(1, 10), Attached::Running);
    assert_eq!(scene.cancel(1), Ok(Seen::Cancel { handler: 10 }));
    assert_eq!(scene.cancel(1), Ok(Seen::Nothing));
    assert!(scene.session.root.serving.is_running(1), "it is still to be answered");
}

#[test]
fn cancel_before_the_handler_is_known_stops_it_when_it_is() {
    let mut scene = Scene::new();
    scene.request(1, &[]).unwrap();
    assert_eq!(scene.cancel(1), Ok(Seen::Nothing));
    assert_eq!(scene.session.root.serving.attach(1, 10), Attached::Stop(10));
}

#[test]
fn cancel_for_a_request_that_was_answered_is_ignored() {
    let mut scene = Scene::new();
    scene.request(1, &[]).unwrap();
    assert_eq!(scene.session.root.serving.attach(1, 10), Attached::Running);
    scene.session.finish(ConnKey::ROOT, 1);
    assert_eq!(scene.cancel(1), Ok(Seen::Nothing));
}

#[test]
fn a_handler_whose_request_is_gone_before_it_was_known_is_given_back_to_be_stopped() {
    let mut scene = Scene::new();
    scene.request(1, &[]).unwrap();
    scene.session.finish(ConnKey::ROOT, 1);
    assert_eq!(scene.session.root.serving.attach(1, 10), Attached::Gone(10));
    assert!(scene.left_open().2.is_empty());
}

#[test]
fn requests_beyond_the_limit_are_refused_until_one_is_answered() {
    let mut scene = Scene::new();
    for request_id in 1..=u64::from(MAX_REQUESTS) {
        assert_eq!(scene.request(request_id, &[]), accepted());
    }
    assert_eq!(scene.request(8, &[]), Ok(Seen::Refused { request_id: 8 }));
    assert_eq!(scene.request(8, &[]), Ok(Seen::Refused { request_id: 8 }), "it is not in flight here");
    scene.cancel(1).unwrap();
    assert_eq!(scene.request(8, &[]), Ok(Seen::Refused { request_id: 8 }), "Cancel makes no room");
    scene.session.finish(ConnKey::ROOT, 1);
    assert_eq!(scene.request(9, &[]), accepted());
}

#[test]
fn the_channels_of_a_refused_request_are_spent() {
    let mut scene = Scene::new();
    for request_id in 1..=u64::from(MAX_REQUESTS) {
        scene.request(request_id, &[]).unwrap();
    }
    assert_eq!(scene.request(9, &[1, 3]), Ok(Seen::Refused { request_id: 9 }));
    assert_eq!(scene.data(1, b"x"), Ok(Seen::Nothing));
    assert_eq!(scene.close(3), Ok(Seen::Nothing));
}

#[test]
fn a_flood_of_requests_and_cancels_leaves_nothing_behind() {
    let mut scene = Scene::new();
    for request_id in 1..=10_000 {
        scene.request(request_id, &[2 * request_id - 1]).unwrap();
        scene.cancel(request_id).unwrap();
    }
    for request_id in 1..=u64::from(MAX_REQUESTS) {
        scene.session.finish(ConnKey::ROOT, request_id);
    }
    let (calls, channels, handlers) = scene.left_open();
    assert_eq!((calls.len(), handlers.len()), (0, 0));
    assert_eq!(channels.len(), MAX_REQUESTS as usize, "those of the accepted ones");
}
