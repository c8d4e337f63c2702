use proptest::{collection::vec, prelude::*};

use super::*;
use crate::link::{
    codec,
    message::{Brought, ChannelRef, CreditSlot, Head, Message},
};

const MAX: usize = 4 << 20;

fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    push_frame(&mut out, message, &[]);
    out
}

/// Bytes with no, few or many zeros, in lengths around those of runs and of the buffer.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0u8), any::<u8>()];
    prop_oneof![
        vec(byte, 1..600),
        (1..1100usize).prop_map(|len| vec![7; len]),
        (1..1100usize).prop_map(|len| vec![0; len]),
        vec(1..=255u8, 250..260),
        (READ_ROOM - 300..3 * READ_ROOM, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
    ]
}

/// Gives `stream` to `deframer` in pieces, each as long as `pieces` says in turn.
fn feed(deframer: &mut Deframer, mut stream: &[u8], pieces: &[usize]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    for piece in pieces.iter().cycle() {
        while let Some(message) = deframer.next_frame().expect("all of it is well formed") {
            messages.push(message.to_vec());
        }
        let room = deframer.room();
        let len = room.len().min(*piece).min(stream.len());
        room[..len].copy_from_slice(&stream[..len]);
        stream = &stream[len..];
        deframer.arrived(len);
        if len == 0 {
            break;
        }
    }
    messages
}

proptest! {
    #[test]
    fn a_frame_is_what_the_cobs_crate_makes_of_the_message(message in message(), cut in any::<prop::sample::Index>()) {
        let (head, payload) = message.split_at(cut.index(message.len() + 1));
        let mut out = vec![9];
        push_frame(&mut out, head, payload);
        let mut expected = vec![0; cobs::max_encoding_length(message.len())];
        let len = cobs::encode(&message, &mut expected);
        expected.truncate(len);
        expected.push(END);
        prop_assert_eq!(&out[1..], expected);
        prop_assert!(out.len() - 2 <= max_frame_len(message.len()));
    }

    #[test]
    fn frames_survive_being_split_at_any_byte(
        messages in vec(message(), 1..8),
        pieces in vec(prop_oneof![1..8usize, 1..5000usize, Just(usize::MAX)], 1..6),
    ) {
        let mut stream = Vec::new();
        messages.iter().for_each(|message| push_frame(&mut stream, message, &[]));
        prop_assert_eq!(feed(&mut Deframer::new(MAX), &stream, &pieces), messages);
    }

    #[test]
    fn arbitrary_bytes_are_decoded_as_the_cobs_crate_does_or_refused(frame in vec(prop_oneof![1..6u8, 1..=255u8], 1..40)) {
        let mut expected = frame.clone();
        let expected = cobs::decode_in_place(&mut expected).map(|len| expected[..len].to_vec()).ok();
        let mut frame = frame;
        let found = unstuff(&mut frame).ok().map(|len| frame[..len].to_vec());
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn an_empty_frame_is_refused() {
    let mut deframer = Deframer::new(MAX);
    for (bytes, len) in [(&[END][..], 0), (&framed(&[]), 1)] {
        deframer.room()[..bytes.len()].copy_from_slice(bytes);
        deframer.arrived(bytes.len());
        assert_eq!(deframer.next_frame(), Err(FrameFault::Malformed { len }));
    }
}

#[test]
fn a_frame_at_the_limit_passes_and_one_above_is_refused_before_its_end() {
    let limit = 100_000;
    for byte in [0, 7] {
        let mut deframer = Deframer::new(limit);
        let whole = vec![byte; limit];
        assert_eq!(feed(&mut deframer, &framed(&whole), &[1000]), [whole]);
    }

    let mut deframer = Deframer::new(limit);
    let mut sent = 0;
    let prefix = loop {
        let room = deframer.room();
        let len = room.len().min(1000);
        room[..len].fill(1);
        deframer.arrived(len);
        sent += len;
        match deframer.next_frame() {
            Ok(None) => assert!(sent <= max_frame_len(limit), "{sent} bytes were taken"),
            Ok(Some(_)) => panic!("it never ends"),
            Err(FrameFault::TooLong { prefix }) => break prefix,
            Err(fault) => panic!("{fault:?}"),
        }
    };
    assert!(prefix.len() > limit);
}

#[test]
fn the_buffer_grows_with_what_arrives_and_not_with_what_may_arrive() {
    let mut deframer = Deframer::new(1 << 30);
    let message = vec![7; 200_000];
    assert_eq!(feed(&mut deframer, &framed(&message), &[usize::MAX]).len(), 1);
    assert!(deframer.buffer.len() <= 2 * message.len() + READ_ROOM);
}

#[test]
fn the_buffer_never_exceeds_the_longest_frame_and_one_read() {
    let limit = 100_000;
    let mut deframer = Deframer::new(limit);
    let (small, large) = (framed(b"small"), framed(&vec![7; limit]));
    let stream: Vec<u8> =
        (0..200).flat_map(|n| if n % 3 == 0 { small.clone() } else { large.clone() }).collect();
    assert_eq!(feed(&mut deframer, &stream, &[30_001, 7, usize::MAX]).len(), 200);
    assert!(deframer.buffer.len() <= max_frame_len(limit) + READ_ROOM);
}

/// Frames that were captured from `roam` 0.6, with what they say.
#[test]
fn captured_frames_encode_and_decode_to_the_byte() {
    let captured: [(Head<'_>, &[u8], &[u8]); 5] = [
        (
            Head::Hello { max_payload_size: 1 << 20, initial_channel_credit: 1 << 16 },
            &[],
            &[0x01, 0x08, 0x01, 0x80, 0x80, 0x40, 0x80, 0x80, 0x04, 0x00],
        ),
        (
            Head::Request { conn_id: 0, request_id: 1, method_id: 0x1122_3344_5566_7788, metadata: &[] },
            &[1, 2, 3],
            &[
                0x02, 0x05, 0x0b, 0x01, 0x88, 0xef, 0x99, 0xab, 0xc5, 0xe8, 0x8c, 0x91, 0x11, 0x01, 0x05,
                0x03, 0x01, 0x02, 0x03, 0x00,
            ],
        ),
        (
            Head::Response { conn_id: 0, request_id: 1, metadata: &[] },
            &[1, 1],
            &[0x02, 0x06, 0x02, 0x01, 0x01, 0x04, 0x02, 0x01, 0x01, 0x00],
        ),
        (
            Head::Data { conn_id: 0, channel_id: 1 },
            &[2, 1, 2],
            &[0x02, 0x08, 0x06, 0x01, 0x03, 0x02, 0x01, 0x02, 0x00],
        ),
        (Head::Close { conn_id: 0, channel_id: 1 }, &[], &[0x02, 0x09, 0x02, 0x01, 0x00]),
    ];
    for (head, payload, bytes) in captured {
        let (mut message, mut frame) = (Vec::new(), Vec::new());
        codec::encode_head(&head, &[], payload.len(), &mut message);
        push_frame(&mut frame, &message, payload);
        assert_eq!(frame, bytes);

        let mut deframer = Deframer::new(MAX);
        deframer.room()[..bytes.len()].copy_from_slice(bytes);
        deframer.arrived(bytes.len());
        let mut channels: Vec<ChannelRef> = vec![ChannelRef { id: 9, slot: CreditSlot::NONE }];
        let frame = deframer.next_frame().expect("well formed").expect("complete");
        let message = codec::decode_message(frame, &mut channels).expect("a message");
        assert_eq!(message, Message { head, channels: &[], payload: Brought::Here(payload) });
    }
}
