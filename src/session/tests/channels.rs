//! Channels: which ids may be opened, and what a message for each of them does.

use super::{MAX_PAYLOAD, Scene, Seen, accepted, rule};
use crate::{error::Violation, session::connections::ConnKey};

fn element(channel: u32) -> Result<Seen, Violation> {
    Ok(Seen::Element { channel, payload: b"x".to_vec() })
}

// channeling.id.zero-reserved
#[test]
fn channel_zero_is_a_violation_wherever_it_stands() {
    let mut scene = Scene::new();
    let call = scene.call(&[]);
    for seen in [
        scene.request(1, &[0]),
        scene.request(1, &[1, 0]),
        scene.response(call, &[0]),
        scene.data(0, b""),
        scene.close(0),
        scene.reset(0),
        scene.credit(0),
    ] {
        assert_eq!(rule(&seen), Some("channeling.id.zero-reserved"));
    }
}

// channeling.unknown
#[test]
fn a_peer_cannot_open_ids_of_our_parity() {
    let mut scene = Scene::new();
    let call = scene.call(&[]);
    let wrong = Err(Violation::UnknownChannel { channel_id: 2 });
    assert_eq!(scene.request(1, &[2]), wrong);
    assert_eq!(scene.response(call, &[2]), wrong);
}

// channeling.unknown
#[test]
fn a_peer_cannot_open_an_id_twice() {
    let mut scene = Scene::new();
    let call = scene.call(&[]);
    scene.request(1, &[1]).unwrap();
    assert_eq!(rule(&scene.request(2, &[1])), Some("channeling.unknown"), "while it is open");
    scene.reset(1).unwrap();
    assert_eq!(rule(&scene.response(call, &[1])), Some("channeling.unknown"), "when it is spent");
    assert_eq!(rule(&scene.request(3, &[3, 3])), Some("channeling.unknown"), "in one message");
}

#[test]
fn calls_that_race_may_open_their_channels_out_of_order() {
    let mut scene = Scene::new();
    assert_eq!(scene.request(2, &[7, 5]), accepted());
    assert_eq!(scene.request(1, &[1]), accepted());
    assert_eq!(scene.data(5, b"x"), element(5));
    assert_eq!(scene.data(1, b"x"), element(1));
    assert_eq!(rule(&scene.data(3, b"x")), Some("channeling.unknown"), "it was passed over");
    assert_eq!(scene.request(3, &[3]), accepted());
}

// channeling.unknown
#[test]
fn a_message_for_a_channel_that_was_never_opened_is_a_violation() {
    let mut scene = Scene::new();
    scene.request(1, &[1]).unwrap();
    scene.call(&[20]);
    for never in [3, 4, u64::MAX, u64::MAX - 1] {
        let unknown = Err(Violation::UnknownChannel { channel_id: never });
        assert_eq!(scene.data(never, b"x"), unknown);
        assert_eq!(scene.close(never), unknown);
        assert_eq!(scene.reset(never), unknown);
        assert_eq!(scene.credit(never), unknown);
    }
}

#[test]
fn data_right_behind_a_request_finds_its_channel() {
    let mut scene = Scene::new();
    scene.request(1, &[1, 3]).unwrap();
    assert_eq!(scene.data(3, b"x"), element(3));
    assert_eq!(scene.data(1, b"x"), element(1));
}

#[test]
fn data_right_behind_a_response_finds_its_channel() {
    let mut scene = Scene::new();
    let call = scene.call(&[]);
    scene.response(call, &[1]).unwrap();
    assert_eq!(scene.data(1, b"x"), element(1));
}

#[test]
fn data_may_come_for_a_channel_that_we_opened() {
    let mut scene = Scene::new();
    scene.call(&[20, 30]);
    assert_eq!(scene.data(4, b"x"), element(30));
    assert_eq!(scene.credit(2), Ok(Seen::Credit { channel: 20, bytes: 7 }));
}

// channeling.data.size-limit
#[test]
fn an_element_at_the_limit_passes_and_one_above_is_a_violation() {
    let mut scene = Scene::new();
    scene.request(1, &[1]).unwrap();
    assert!(scene.data(1, &[0; MAX_PAYLOAD]).is_ok());
    let too_long = Violation::DataSizeLimit { len: MAX_PAYLOAD + 1, limit: MAX_PAYLOAD };
    assert_eq!(too_long.rule(), "channeling.data.size-limit");
    assert_eq!(scene.data(1, &[0; MAX_PAYLOAD + 1]), Err(too_long));
}

// channeling.data-after-close
#[test]
fn data_after_close_is_a_violation() {
    let mut scene = Scene::new();
    scene.request(1, &[1]).unwrap();
    assert_eq!(scene.close(1), Ok(Seen::Closed { channel: 1 }));
    let late = Violation::DataAfterClose { channel_id: 1 };
    assert_eq!(late.rule(), "channeling.data-after-close");
    assert_eq!(scene.data(1, b"x"), Err(late.clone()));
    assert_eq!(scene.close(1), Err(late), "a second Close is no better");
}

#[test]
fn what_comes_for_a_closed_channel_whose_reader_is_done_is_ignored() {
    let mut scene = Scene::new();
    scene.request(1, &[1]).unwrap();
    scene.close(1).unwrap();
    assert!(scene.session.forget_channel(ConnKey::ROOT, 1), "it was open until its reader was done");
    assert_eq!(scene.data(1, b"x"), Ok(Seen::Nothing));
}

#[test]
fn whatever_comes_after_the_peers_reset_is_ignored() {
    let mut scene = Scene::new();
    scene.request(1, &[1]).unwrap();
    assert_eq!(scene.reset(1), Ok(Seen::Reset { channel: 1 }));
    assert!(!scene.session.forget_channel(ConnKey::ROOT, 1), "it is over");
    for seen in [scene.data(1, b"x"), scene.close(1), scene.reset(1), scene.credit(1)] {
        assert_eq!(seen, Ok(Seen::Nothing));
    }
}

#[test]
fn whatever_comes_after_our_reset_is_ignored() {
    let mut scene = Scene::new();
    scene.call(&[20]);
    assert!(scene.session.forget_channel(ConnKey::ROOT, 2));
    for seen in [scene.data(2, b"x"), scene.close(2), scene.reset(2), scene.credit(2)] {
        assert_eq!(seen, Ok(Seen::Nothing));
    }
}

#[test]
fn a_reset_ends_a_channel_that_was_closed() {
    let mut scene = Scene::new();
    scene.request(1, &[1]).unwrap();
    scene.close(1).unwrap();
    assert_eq!(scene.reset(1), Ok(Seen::Reset { channel: 1 }));
}

#[test]
fn our_channels_have_the_ids_of_our_role() {
    let mut scene = Scene::new();
    assert_eq!(scene.session.root.channels.next_id(), 2);
    scene.call(&[20, 30]);
    assert_eq!(scene.session.root.channels.next_id(), 6);
}

#[test]
fn channels_that_come_and_go_leave_nothing_behind() {
    let mut scene = Scene::new();
    for number in 0..10_000 {
        let call = scene.call(&[20]);
        scene.response(call, &[2 * number + 1]).unwrap();
        scene.reset(2 * number + 1).unwrap();
        scene.session.forget_channel(ConnKey::ROOT, 2 * number + 2);
    }
    assert!(scene.left_open().1.is_empty());
}
