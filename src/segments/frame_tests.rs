use super::*;

/// The body and the tag of a message, as the sender lays them out.
fn framed(head: &Head<'_>, payload: &[u8], channels: &[ChannelRef]) -> (u32, Vec<u8>) {
    let framed = Framed::new(head);
    let mut body = framed.head.to_bytes().to_vec();
    body.extend_from_slice(framed.metadata);
    body.extend_from_slice(framed.reason.as_bytes());
    body.extend_from_slice(payload);
    channels.iter().for_each(|channel| body.extend_from_slice(&channel_bytes(channel)));
    let channels = u16::try_from(channels.len()).unwrap();
    (Tag { kind: framed.kind, flags: 0, channels }.to_u32(), body)
}

fn heads() -> [Head<'static>; 11] {
    let (conn_id, request_id, channel_id, metadata) = (1 << 40, 2 << 40, 3 << 40, b"meta".as_slice());
    [
        Head::Connect { request_id, metadata },
        Head::Accept { request_id, conn_id, metadata },
        Head::Reject { request_id, reason: "not listening", metadata },
        Head::Goodbye { conn_id, reason: "message.decode-error" },
        Head::Request { conn_id, request_id, method_id: u64::MAX, metadata },
        Head::Response { conn_id, request_id, metadata },
        Head::Cancel { conn_id, request_id },
        Head::Data { conn_id, channel_id },
        Head::Close { conn_id, channel_id },
        Head::Reset { conn_id, channel_id },
        Head::Credit { conn_id, channel_id, bytes: 77 },
    ]
}

#[test]
fn every_kind_is_read_as_it_was_written_and_numbered_as_the_protocol_numbers_it() {
    let channel = ChannelRef { id: 9 << 40, slot: CreditSlot { index: 5, generation: 6 } };
    // In the order of the protocol's table; Hello, number 0, is not sent here.
    for (number, head) in (1..).zip(heads()) {
        let (payload, channels): (&[u8], &[ChannelRef]) = match head {
            Head::Request { .. } | Head::Response { .. } => (b"payload", &[channel, channel]),
            Head::Data { .. } => (b"payload", &[]),
            _ => (b"", &[]),
        };
        let (tag, body) = framed(&head, payload, channels);
        let mut list = Vec::new();
        assert_eq!(
            parse(tag, &body, &mut list, None).unwrap(),
            Message { head, channels, payload: Brought::Here(payload) }
        );
        assert_eq!(Tag::from_u32(tag).kind, number);
    }
}

#[test]
fn a_part_that_a_kind_does_not_have_is_refused_by_its_name() {
    let field = |head: &Head<'_>, change: &dyn Fn(&mut Tag, &mut FrameHead, &mut Vec<u8>)| {
        let (tag, mut body) = framed(head, b"", &[]);
        let mut tag = Tag::from_u32(tag);
        let mut frame = FrameHead::from_bytes(body.first_chunk().unwrap());
        change(&mut tag, &mut frame, &mut body);
        body[..FrameHead::BYTES].copy_from_slice(&frame.to_bytes());
        match parse(tag.to_u32(), &body, &mut Vec::new(), None) {
            Err(LinkEnd::Corrupt { field, value }) => (field, value),
            other => panic!("{other:?}"),
        }
    };
    let close = Head::Close { conn_id: 1, channel_id: 1 };
    let goodbye = Head::Goodbye { conn_id: 1, reason: "" };
    let connect = Head::Connect { request_id: 1, metadata: b"" };
    assert_eq!(field(&close, &|tag, _, _| tag.flags = 3), ("frame.flags", 3));
    assert_eq!(field(&connect, &|_, head, _| head.conn_id = 4), ("frame.conn_id", 4));
    assert_eq!(field(&goodbye, &|_, head, _| head.id = 5), ("frame.id", 5));
    assert_eq!(field(&close, &|_, head, _| head.method_id = 6), ("frame.method_id", 6));
    assert_eq!(field(&close, &|_, head, _| head.extra = 7), ("frame.extra", 7));
    assert_eq!(field(&close, &|_, _, body| body.push(1)), ("frame.len", 1));
    let metadata = field(&close, &|_, head, body| {
        head.metadata_len = 1;
        body.push(1);
    });
    assert_eq!(metadata, ("frame.metadata_len", 1));
    let channels = field(&close, &|tag, _, body| {
        tag.channels = 1;
        body.extend_from_slice(&[0; 16]);
    });
    assert_eq!(channels, ("frame.channels", 1));
    assert_eq!(field(&close, &|_, head, _| head.metadata_len = 9).0, "frame.metadata_len");
}

#[test]
fn a_kind_that_does_not_exist_and_a_late_hello_are_violations() {
    let body = [0; FrameHead::BYTES];
    for kind in 12..=u8::MAX {
        let tag = Tag { kind, flags: 0, channels: 0 }.to_u32();
        let end = parse(tag, &body, &mut Vec::new(), None).unwrap_err();
        assert!(
            matches!(end, LinkEnd::Violation(Violation::UnknownVariant { kind: k }) if k == u64::from(kind)),
            "{end:?}"
        );
    }
    let end = parse(0, &body, &mut Vec::new(), None).unwrap_err();
    assert!(matches!(end, LinkEnd::Violation(Violation::HelloOrdering)));
}

#[test]
fn a_reason_that_is_no_text_is_a_violation() {
    let (tag, mut body) = framed(&Head::Goodbye { conn_id: 0, reason: "" }, b"", &[]);
    body.extend_from_slice(&[0xFF, 0xFE]);
    let end = parse(tag, &body, &mut Vec::new(), None).unwrap_err();
    assert!(matches!(end, LinkEnd::Violation(Violation::Decode { len: 2 })));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_end(
        tag: u32,
        body in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
    ) {
        let _ = parse(tag, &body, &mut Vec::new(), None);
    }
}
