//! roam's codec, driven by hand: its frames, and the messages that its session never sends.

use std::pin::pin;

use adjoin::{
    CallError, ConnectOptions, Connection, ConnectionEnd, LinkEnd, RecvError, SendError, Violation, channel,
    stream,
};
use roam_stream::CobsFramed;
use roam_wire::{ConnectionId, Hello, Message, MetadataValue};
use tokio::{io::AsyncReadExt, net::UnixStream, sync::mpsc};

use crate::{
    interface::{InteropClient, id},
    link::{MAX_PAYLOAD, alone, begun, serving, sockets},
};

/// A peer that says what it is told to, and has connected.
type Peer = CobsFramed<UnixStream>;

const ROOT: ConnectionId = ConnectionId::ROOT;

/// Greets; our side serves, with this window.
async fn greeted(window: u32) -> (Peer, Connection, InteropClient) {
    let (peer, ours, _) = greeted_taking_connections(window).await;
    let client = InteropClient::new(&ours);
    (peer, ours, client)
}

/// As [`greeted`], with the virtual connections that our side accepts.
async fn greeted_taking_connections(window: u32) -> (Peer, Connection, mpsc::UnboundedReceiver<Connection>) {
    let (options, opened) = serving(window);
    let (connected, accepted) = sockets().await;
    let mut peer = CobsFramed::new(connected);
    let greet = async {
        let limits = (MAX_PAYLOAD, window);
        let hello = Hello::V2 { max_payload_size: limits.0, initial_channel_credit: limits.1 };
        peer.send(&Message::Hello(hello.clone())).await.unwrap();
        assert_eq!(peer.recv().await.unwrap(), Some(Message::Hello(hello)));
    };
    let (ours, ()) = tokio::join!(stream::accept(accepted, options), greet);
    (peer, ours.unwrap(), opened)
}

fn request(request_id: u64, method_id: u64, channels: &[u64], payload: &[u8]) -> Message {
    Message::Request {
        conn_id: ROOT,
        request_id,
        method_id,
        metadata: Vec::new(),
        channels: channels.to_vec(),
        payload: payload.to_vec(),
    }
}

fn response(request_id: u64, channels: &[u64], payload: &[u8]) -> Message {
    Message::Response {
        conn_id: ROOT,
        request_id,
        metadata: Vec::new(),
        channels: channels.to_vec(),
        payload: payload.to_vec(),
    }
}

fn data(channel_id: u64, payload: &[u8]) -> Message {
    Message::Data { conn_id: ROOT, channel_id, payload: payload.to_vec() }
}

async fn heard(peer: &mut Peer) -> Message {
    peer.recv().await.unwrap().expect("the link is open")
}

/// Nothing more comes, not even bytes.
async fn silent(mut peer: Peer) {
    assert_eq!(peer.recv().await.unwrap(), None);
}

/// The frames that the library's own tests take for roam's are roam's.
#[test]
fn the_captured_frames_are_what_roam_writes() {
    let captured: [(Message, &[u8]); 5] = [
        (
            Message::Hello(Hello::V2 { max_payload_size: 1_048_576, initial_channel_credit: 65_536 }),
            &[0x01, 0x08, 0x01, 0x80, 0x80, 0x40, 0x80, 0x80, 0x04, 0x00],
        ),
        (
            request(1, id::ADD, &[], &[1, 2, 3]),
            &[
                0x02, 0x05, 0x0b, 0x01, 0x88, 0xef, 0x99, 0xab, 0xc5, 0xe8, 0x8c, 0x91, 0x11, 0x01, 0x05,
                0x03, 0x01, 0x02, 0x03, 0x00,
            ],
        ),
        (response(1, &[], &[1, 1]), &[0x02, 0x06, 0x02, 0x01, 0x01, 0x04, 0x02, 0x01, 0x01, 0x00]),
        (data(1, &[2, 1, 2]), &[0x02, 0x08, 0x06, 0x01, 0x03, 0x02, 0x01, 0x02, 0x00]),
        (Message::Close { conn_id: ROOT, channel_id: 1 }, &[0x02, 0x09, 0x02, 0x01, 0x00]),
    ];
    alone(async {
        let (ours, mut theirs) = sockets().await;
        let mut framed = CobsFramed::new(ours);
        for (message, expected) in captured {
            framed.send(&message).await.unwrap();
            let mut bytes = vec![0; expected.len()];
            theirs.read_exact(&mut bytes).await.unwrap();
            assert_eq!(bytes, expected, "{message:?}");
        }
        drop(framed);
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0, "nothing more was written");
    });
}

#[test]
fn what_we_send_is_what_roam_reads() {
    alone(async {
        let (mut peer, ours, client) = greeted(1000).await;
        let mut metadata = adjoin::Metadata::new();
        metadata.push("key", "text");
        let (tx, rx) = channel();
        let call = tokio::spawn(client.sum(rx).with_metadata(metadata).into_future());
        let expected = Message::Request {
            conn_id: ROOT,
            request_id: 1,
            method_id: id::SUM,
            metadata: vec![("key".into(), MetadataValue::String("text".into()))],
            channels: vec![2],
            payload: vec![2],
        };
        assert_eq!(heard(&mut peer).await, expected);
        tx.send(300).await.unwrap();
        assert_eq!(heard(&mut peer).await, data(2, &[0xac, 2]));
        drop(tx);
        assert_eq!(heard(&mut peer).await, Message::Close { conn_id: ROOT, channel_id: 2 });
        call.abort();
        assert_eq!(heard(&mut peer).await, Message::Cancel { conn_id: ROOT, request_id: 1 });
        peer.send(&response(1, &[], &[1, 3])).await.unwrap();
        peer.send(&request(1, id::ADD, &[], &[2, 4])).await.unwrap();
        assert_eq!(heard(&mut peer).await, response(1, &[], &[0, 6]));
        ours.close().await;
        assert_eq!(heard(&mut peer).await, Message::Goodbye { conn_id: ROOT, reason: String::new() });
        silent(peer).await;
    });
}

#[test]
fn the_last_handle_says_goodbye() {
    alone(async {
        let (mut peer, ours, client) = greeted(1000).await;
        let (tx, rx) = channel();
        let call = tokio::spawn(client.sum(rx).into_future());
        assert_eq!(heard(&mut peer).await, request(1, id::SUM, &[2], &[2]));
        drop((ours, client));
        peer.send(&response(1, &[], &[0, 0])).await.unwrap();
        assert_eq!(call.await.unwrap().unwrap(), 0);
        tx.send(1).await.unwrap();
        assert_eq!(heard(&mut peer).await, data(2, &[1]), "a stream is a handle, too");
        drop(tx);
        assert_eq!(heard(&mut peer).await, Message::Close { conn_id: ROOT, channel_id: 2 });
        assert_eq!(heard(&mut peer).await, Message::Goodbye { conn_id: ROOT, reason: String::new() });
        silent(peer).await;
    });
}

#[test]
fn a_goodbye_ends_the_link_with_its_reason() {
    for reason in ["", "going home"] {
        alone(async {
            let (mut peer, ours, client) = greeted(1000).await;
            let hangs = tokio::spawn(async move { client.hang().await });
            assert_eq!(heard(&mut peer).await, request(1, id::HANG, &[], &[]));
            peer.send(&Message::Goodbye { conn_id: ROOT, reason: reason.into() }).await.unwrap();
            let failed = hangs.await.unwrap();
            match failed {
                Err(CallError::Ended(LinkEnd::Goodbye { reason: said })) => assert_eq!(&*said, reason),
                other => panic!("{other:?}"),
            }
            assert!(matches!(ours.closed().await, LinkEnd::Goodbye { reason: said } if &*said == reason));
            silent(peer).await;
        });
    }
}

#[test]
fn a_violation_is_answered_with_a_goodbye_that_names_its_rule() {
    alone(async {
        let (mut peer, ours, _client) = greeted(1000).await;
        peer.send(&data(1, &[0])).await.unwrap();
        let reason = "channeling.unknown".into();
        assert_eq!(heard(&mut peer).await, Message::Goodbye { conn_id: ROOT, reason });
        silent(peer).await;
        let end = ours.closed().await;
        assert!(matches!(end, LinkEnd::Violation(Violation::UnknownChannel { channel_id: 1 })), "{end:?}");
    });
}

/// roam's session closes no virtual connection by itself.
#[test]
fn a_goodbye_for_a_virtual_connection_costs_that_one_alone() {
    alone(async {
        let (mut peer, ours, mut opened) = greeted_taking_connections(1000).await;
        peer.send(&Message::Connect { request_id: 7, metadata: Vec::new() }).await.unwrap();
        let theirs = opened.recv().await.unwrap();
        let conn_id = ConnectionId(theirs.id());
        assert_eq!(heard(&mut peer).await, Message::Accept { request_id: 7, conn_id, metadata: Vec::new() });
        let mut hangs = pin!(ours.connect(ConnectOptions::new()));
        begun(hangs.as_mut()).await;
        assert_eq!(heard(&mut peer).await, Message::Connect { request_id: 1, metadata: Vec::new() });
        let accepted = ConnectionId(1);
        let accept = Message::Accept { request_id: 1, conn_id: accepted, metadata: Vec::new() };
        peer.send(&accept).await.unwrap();
        let asked = hangs.await.unwrap();

        for (connection, conn_id, reason) in [(theirs, conn_id, ""), (asked, accepted, "going home")] {
            assert_eq!(connection.id(), conn_id.raw());
            let client = InteropClient::new(&connection);
            let mut hangs = pin!(client.hang());
            begun(hangs.as_mut()).await;
            match heard(&mut peer).await {
                Message::Request { conn_id: named, request_id: 1, method_id: id::HANG, .. } => {
                    assert_eq!(named, conn_id);
                }
                other => panic!("{other:?}"),
            }
            peer.send(&Message::Goodbye { conn_id, reason: reason.into() }).await.unwrap();
            match hangs.await {
                Err(CallError::Ended(LinkEnd::Connection(ConnectionEnd::Goodbye { reason: said }))) => {
                    assert_eq!(&*said, reason);
                }
                other => panic!("{other:?}"),
            }
        }
        peer.send(&request(1, id::ADD, &[], &[2, 4])).await.unwrap();
        assert_eq!(heard(&mut peer).await, response(1, &[], &[0, 6]));
    });
}

#[test]
fn a_cancel_stops_the_handler_and_is_answered_once() {
    alone(async {
        let (mut peer, _ours, _client) = greeted(1000).await;
        peer.send(&request(1, id::HANG, &[], &[])).await.unwrap();
        peer.send(&Message::Cancel { conn_id: ROOT, request_id: 1 }).await.unwrap();
        assert_eq!(heard(&mut peer).await, response(1, &[], &[1, 3]));
        peer.send(&Message::Cancel { conn_id: ROOT, request_id: 1 }).await.unwrap();
        peer.send(&request(2, id::ADD, &[], &[2, 4])).await.unwrap();
        assert_eq!(heard(&mut peer).await, response(2, &[], &[0, 6]));
    });
}

#[test]
fn a_sender_goes_on_when_it_is_granted_credit() {
    alone(async {
        let (mut peer, _ours, client) = greeted(10).await;
        let (tx, rx) = channel();
        let _call = tokio::spawn(client.gather(rx).into_future());
        assert_eq!(heard(&mut peer).await, request(1, id::GATHER, &[2], &[2]));
        tx.send(vec![7; 9]).await.unwrap();
        assert_eq!(heard(&mut peer).await, data(2, &[9, 7, 7, 7, 7, 7, 7, 7, 7, 7]));
        {
            let mut more = pin!(tx.send(vec![8]));
            begun(more.as_mut()).await;
            peer.send(&Message::Credit { conn_id: ROOT, channel_id: 2, bytes: 2 }).await.unwrap();
            more.await.unwrap();
        }
        assert_eq!(heard(&mut peer).await, data(2, &[1, 8]));
    });
}

/// A whole window each time. The reader grants what it took, and more when its window grows.
#[test]
fn a_reader_grants_what_it_took() {
    alone(async {
        let (mut peer, _ours, _client) = greeted(10).await;
        peer.send(&request(1, id::GATHER, &[1], &[1])).await.unwrap();
        let mut credit = 10;
        for _ in 0..10 {
            while credit < 10 {
                match heard(&mut peer).await {
                    Message::Credit { conn_id: ROOT, channel_id: 1, bytes } => credit += bytes,
                    other => panic!("{other:?}"),
                }
            }
            peer.send(&data(1, &[9, 7, 7, 7, 7, 7, 7, 7, 7, 7])).await.unwrap();
            credit -= 10;
        }
        peer.send(&Message::Close { conn_id: ROOT, channel_id: 1 }).await.unwrap();
        let answer = loop {
            match heard(&mut peer).await {
                Message::Credit { conn_id: ROOT, channel_id: 1, .. } => {}
                other => break other,
            }
        };
        assert_eq!(answer, response(1, &[], &[0, 90]));
    });
}

#[test]
fn a_reset_breaks_a_stream_off_from_either_end() {
    alone(async {
        let (mut peer, _ours, client) = greeted(1000).await;
        let (tx, rx) = channel();
        let (out, mut numbers) = channel();
        let _sum = tokio::spawn(client.sum(rx).into_future());
        assert_eq!(heard(&mut peer).await, request(1, id::SUM, &[2], &[2]));
        let _count = tokio::spawn(client.count(3, out).into_future());
        assert_eq!(heard(&mut peer).await, request(2, id::COUNT, &[4], &[3, 4]));
        for channel_id in [2, 4] {
            peer.send(&Message::Reset { conn_id: ROOT, channel_id }).await.unwrap();
        }
        tx.closed().await;
        assert!(matches!(tx.send(1).await, Err(SendError::Closed)));
        assert!(matches!(numbers.recv().await, Err(RecvError::Reset)));
        drop((tx, numbers));

        let (out, numbers) = channel::<u32>();
        let _count = tokio::spawn(client.count(3, out).into_future());
        assert_eq!(heard(&mut peer).await, request(3, id::COUNT, &[6], &[3, 6]), "nothing after a Reset");
        drop(numbers);
        assert_eq!(heard(&mut peer).await, Message::Reset { conn_id: ROOT, channel_id: 6 });
    });
}
