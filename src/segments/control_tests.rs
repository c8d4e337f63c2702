use std::{fs, io::IoSlice, mem::MaybeUninit, time::Duration};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;

use super::*;
use crate::error::LinkEnd;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note(u64);

fn pair() -> (Control, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Control::new(ours, End::Own).unwrap(), theirs)
}

fn both() -> (Control, Control) {
    let (ours, theirs) = pair();
    (ours, Control::new(theirs, End::Own).unwrap())
}

/// Descriptors of this process that are pipes: what these tests send, and nothing else in this process has.
fn is_open(pipe: &str) -> bool {
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .any(|target| target.to_str() == Some(pipe))
}

/// Waits until nobody has it any more: what nobody takes is closed apart.
async fn closes(pipe: &str) {
    let closed = async {
        while is_open(pipe) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), closed).await.expect("leaked");
}

/// A pipe's writing end, closed here already, on its way as often as `times`.
fn send_pipe(control: &UnixStream, bytes: &[u8], times: usize) -> String {
    use rustix::fd::AsRawFd;
    let (_reader, writer) = io::pipe().unwrap();
    let name = fs::read_link(format!("/proc/self/fd/{}", writer.as_raw_fd())).unwrap();
    let rights = vec![writer.as_fd(); times];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(times))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&rights)));
    sendmsg(control, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty()).unwrap();
    name.to_str().unwrap().to_owned()
}

/// A message as it goes over the socket.
fn frame(note: &Note) -> Vec<u8> {
    let body = postcard::to_slice(note, &mut [0; LONGEST]).unwrap().to_vec();
    [head(body.len()).as_slice(), &body].concat()
}

#[tokio::test]
async fn messages_and_their_descriptors_arrive_and_nothing_behind_is_read() {
    let (mine, peers) = both();
    let (reader, writer) = io::pipe().unwrap();
    mine.send(&Note(7), &[writer.as_fd(), reader.as_fd()]).await.unwrap();
    mine.send(&Note(8), &[]).await.unwrap();
    let (note, descriptors) = peers.receive(|_: &Note| 2).await.unwrap();
    assert_eq!((note, descriptors.len()), (Note(7), 2));
    for descriptor in descriptors.iter() {
        assert!(rustix::io::fcntl_getfd(descriptor).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
    let socket = peers.into_socket();
    let mut bytes = [0; 64];
    let (_, read) = rustix::net::recv(&socket, &mut bytes, RecvFlags::empty()).unwrap();
    assert_eq!(bytes[..read], frame(&Note(8)));
}

#[tokio::test]
async fn a_message_that_comes_byte_by_byte_arrives() {
    let (control, peer) = pair();
    let sender = async {
        for byte in frame(&Note(1 << 40)) {
            send_byte(&peer, byte);
            tokio::task::yield_now().await;
        }
    };
    let ((), received) = tokio::join!(sender, control.receive(|_: &Note| 0));
    assert_eq!(received.unwrap().0, Note(1 << 40));
}

fn send_byte(peer: &UnixStream, byte: u8) {
    rustix::net::send(peer, &[byte], SendFlags::empty()).unwrap();
}

#[tokio::test]
async fn surplus_and_missing_descriptors_are_refused_and_closed() {
    for (sent, expected) in [(1, 0), (2, 1), (1, 2)] {
        let (control, peer) = pair();
        let pipe = send_pipe(&peer, &frame(&Note(1)), sent);
        let error = control.receive(|_: &Note| expected).await.unwrap_err();
        let HandshakeError::Descriptors { found, expected: wanted } = error else { panic!("{error}") };
        assert_eq!((found, wanted), (sent, expected));
        closes(&pipe).await;
    }
}

#[tokio::test]
async fn more_descriptors_than_any_message_has_are_refused_and_closed() {
    for sent in [4, 200] {
        let (control, peer) = pair();
        let pipe = send_pipe(&peer, &frame(&Note(1)), sent);
        let error = control.receive(|_: &Note| 1).await.unwrap_err();
        assert!(matches!(error, HandshakeError::TooManyDescriptors { limit: 3 }), "{error}");
        closes(&pipe).await;
    }
}

#[tokio::test]
async fn descriptors_spread_over_the_bytes_of_a_message_are_refused_and_closed() {
    let (control, peer) = pair();
    let frame = frame(&Note(1));
    let pipes: Vec<_> = frame.iter().map(|byte| send_pipe(&peer, &[*byte], 1)).collect();
    let error = control.receive(|_: &Note| 2).await.unwrap_err();
    assert!(matches!(error, HandshakeError::TooManyDescriptors { limit: 3 }), "{error}");
    drop((control, peer));
    for pipe in pipes {
        closes(&pipe).await;
    }
}

#[tokio::test]
async fn nonsense_is_refused_by_what_is_wrong_with_it() {
    let refused = async |bytes: &[u8]| {
        let (control, peer) = pair();
        rustix::net::send(&peer, bytes, SendFlags::empty()).unwrap();
        drop(peer);
        control.receive(|_: &Note| 0).await.unwrap_err()
    };
    let mut other = head(1);
    other[8] = 9;
    let mut long = head(1);
    long[12..].copy_from_slice(&u16::MAX.to_le_bytes());
    assert!(matches!(refused(b"GET / HTTP/1.1\r\n").await, HandshakeError::NotAdjoin));
    assert!(matches!(refused(&other).await, HandshakeError::Version { found: 9, expected: VERSION }));
    assert!(matches!(refused(&long).await, HandshakeError::TooLong { len: 65_535, limit: LONGEST }));
    assert!(matches!(refused(&[head(0).as_slice(), b""].concat()).await, HandshakeError::Malformed));
    assert!(matches!(refused(&head(5)).await, HandshakeError::Closed));
    assert!(matches!(refused(b"").await, HandshakeError::Closed));
}

#[tokio::test]
async fn descriptors_that_come_with_a_ring_of_the_bell_end_the_link_and_are_closed() {
    let (control, peer) = pair();
    let pipe = send_pipe(&peer, &[1], 2);
    let bell = crate::segments::bell::Bell::new(control.into_socket());
    let end = std::future::poll_fn(|cx| bell.poll_heard(cx)).await.unwrap_err();
    assert!(matches!(end, LinkEnd::Descriptors { announced: 0, arrived: 2 }), "{end}");
    closes(&pipe).await;
}
