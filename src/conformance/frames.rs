//! Bytes on a byte stream: protocol section 2. What is refused here cannot be laid to a connection, and costs the
//! link on whichever it happens.

use super::{
    cases,
    links::{Ground, MAX_PAYLOAD},
    note::Note,
    peer::socket::{frame, frame_of},
    rig::{OK, element},
    service::{ECHO, LISTEN, NOP},
};
use crate::error::Violation;

cases! {
    "Frames on a byte stream (protocol section 2)" on connections;
    [] frames_may_be_split_at_every_byte: streams;
    [] many_messages_may_arrive_at_once: streams;
    ["message.decode-error"] a_frame_that_is_none_costs_the_link: streams;
    ["message.decode-error"] a_message_that_is_cut_or_has_more_behind_it_costs_the_link: streams;
    ["message.decode-error"] a_message_in_another_encoding_than_the_shortest_costs_the_link: streams;
    ["message.decode-error"] a_count_beyond_the_bytes_that_are_there_costs_the_link: streams;
    ["message.decode-error"] a_reason_that_is_no_text_costs_the_link: streams;
    ["message.unknown-variant"] a_message_of_a_kind_that_does_not_exist_costs_the_link: streams;
    ["flow.call.payload-limit" "channeling.data.size-limit" "message.decode-error"]
        a_frame_beyond_what_the_limits_allow_is_refused_while_it_arrives: streams;
}

async fn frames_may_be_split_at_every_byte(ground: Ground) {
    let mut rig = ground.rig().await;
    let payload = element(40);
    let len = frame(&Note::request(rig.conn, 1, &ECHO, &payload)).len();
    for at in 1..len {
        let request_id = rig.fresh_request();
        let frame = frame(&Note::request(rig.conn, request_id, &ECHO, &payload));
        for part in [&frame[..at], &frame[at..]] {
            rig.peer.socket().write(part).await;
            for _ in 0..100 {
                tokio::task::yield_now().await; // it is read
            }
        }
        rig.hears_answer(request_id, &[OK, &payload].concat()).await;
    }
    rig.goes_on().await;
}

async fn many_messages_may_arrive_at_once(ground: Ground) {
    let mut rig = ground.rig().await;
    let ids: Vec<_> = (0..2000).map(|_| rig.fresh_request()).collect();
    let requests: Vec<_> = ids.iter().map(|id| Note::request(rig.conn, *id, &NOP, &[])).collect();
    let mut bytes: Vec<_> = requests.iter().flat_map(frame).collect();
    // The last one's end comes alone.
    let end = bytes.pop().expect("there are many");
    rig.peer.socket().write(&bytes).await;
    for request_id in &ids[..1999] {
        rig.hears_answer(*request_id, OK).await;
    }
    rig.peer.socket().write(&[end]).await;
    rig.hears_answer(ids[1999], OK).await;
    rig.goes_on().await;
}

/// Each of these, written to a busy link, costs it as bytes that are no message, `len` of which are told of.
async fn undecodable(ground: Ground, cases: &[(&[u8], usize)]) {
    for (bytes, len) in cases {
        ground
            .costs_the_link(async |rig| {
                rig.peer.socket().write(bytes).await;
                Violation::Decode { len: *len }
            })
            .await;
    }
}

/// Each of these, in a frame, is no message.
async fn no_message(ground: Ground, messages: &[Vec<u8>]) {
    for message in messages {
        undecodable(ground, &[(&frame_of(message), message.len())]).await;
    }
}

async fn a_frame_that_is_none_costs_the_link(ground: Ground) {
    // Nothing in it; a run beyond its end; a run that the end cuts.
    undecodable(ground, &[(&[0], 0), (&[0, 0, 0], 0), (&[3, 7, 0], 2), (&[1, 2, 0], 2)]).await;
}

async fn a_message_that_is_cut_or_has_more_behind_it_costs_the_link(ground: Ground) {
    for note in [
        Note::request(1, 300, &NOP, &[1, 2]).naming(&[301]),
        Note::response(0, 300, OK),
        Note::Cancel { conn_id: 0, request_id: 300 },
        Note::data(0, 301, &element(3)),
        Note::Credit { conn_id: 0, channel_id: 301, bytes: 300 },
        Note::goodbye(0, "a"),
    ] {
        let message = note.to_bytes();
        no_message(ground, &[message[..message.len() - 1].to_vec(), [&message[..], &[0]].concat()]).await;
    }
    no_message(ground, &[vec![7], vec![7, 0], vec![5, 0, 1, 1, 0, 0]]).await;
}

async fn a_message_in_another_encoding_than_the_shortest_costs_the_link(ground: Ground) {
    let cancel = |request: &[u8]| [&[7, 0][..], request].concat();
    no_message(
        ground,
        &[
            vec![0x87, 0, 0, 1],
            cancel(&[0x81, 0]),
            cancel(&[0x80, 0x80, 0]),
            // Eleven bytes, and ten that are more than 64 bits.
            cancel(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1]),
            cancel(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
            // A Credit of more than 32 bits.
            vec![11, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x10],
        ],
    )
    .await;
}

/// Costs no memory: it is refused before anything is set aside for it.
async fn a_count_beyond_the_bytes_that_are_there_costs_the_link(ground: Ground) {
    const HUGE: [u8; 10] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let request = |rest: &[&[u8]]| [&[5, 0, 1, 1][..], &rest.concat()].concat();
    no_message(
        ground,
        &[
            request(&[&HUGE]),                   // entries of metadata
            request(&[&[1], &HUGE]),             // bytes of a key
            request(&[&[1, 1, b'k', 1], &HUGE]), // bytes of a value
            request(&[&[0], &HUGE]),             // channels
            request(&[&[0, 0], &HUGE]),          // bytes of payload
            request(&[&[0, 3, 1, 3]]),           // fewer channels than counted
            [&[8, 0, 1][..], &HUGE].concat(),    // bytes of an element
            [&[4, 0][..], &HUGE].concat(),       // bytes of a reason
        ],
    )
    .await;
}

async fn a_reason_that_is_no_text_costs_the_link(ground: Ground) {
    no_message(ground, &[vec![4, 0, 1, 0xff], vec![3, 1, 2, b'a', 0xc3, 0]]).await;
}

async fn a_message_of_a_kind_that_does_not_exist_costs_the_link(ground: Ground) {
    for (kind, encoded) in [
        (12_u64, &[12][..]),
        (13, &[13]),
        (127, &[127]),
        (128, &[0x80, 1]),
        (u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
    ] {
        for rest in [&[][..], &[0, 1, 2, 0xff]] {
            let message = [encoded, rest].concat();
            ground
                .costs_the_link(async |rig| {
                    rig.peer.socket().write(&frame_of(&message)).await;
                    Violation::UnknownVariant { kind }
                })
                .await;
        }
    }
}

/// One MiB where a message may have less than 200 KiB: told by what its beginning says that it would have been.
async fn a_frame_beyond_what_the_limits_allow_is_refused_while_it_arrives(ground: Ground) {
    const LEN: usize = 1 << 20;
    let limit = MAX_PAYLOAD as usize;
    for (note, violation) in [
        (Note::request(0, 1000, &ECHO, &vec![7; LEN]), Violation::PayloadLimit { len: LEN, limit }),
        (Note::response(0, 1, &vec![7; LEN]), Violation::PayloadLimit { len: LEN, limit }),
        (Note::data(0, 1, &vec![7; LEN]), Violation::DataSizeLimit { len: LEN, limit }),
        (Note::goodbye(0, &"g".repeat(LEN)), Violation::Decode { len: 0 }),
        (Note::request(0, 1000, &LISTEN, &[0]).naming(&vec![7; LEN]), Violation::Decode { len: 0 }),
    ] {
        let mut rig = ground.rig().await;
        let peer = rig.peer.socket();
        let frame = frame(&note);
        // All but its end: it is refused for what is there.
        peer.write(&frame[..frame.len() - 1]).await;
        let end = rig.ours.closed().await;
        let crate::error::LinkEnd::Violation(found) = end else { panic!("{end:?}") };
        assert_eq!(found.rule(), violation.rule());
        if !matches!(violation, Violation::Decode { .. }) {
            assert_eq!(found, violation);
        }
    }
}
