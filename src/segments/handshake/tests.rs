use std::{
    io::pipe,
    net::UdpSocket,
    os::unix::net::{UnixDatagram, UnixStream},
};

use rustix::{
    fd::BorrowedFd,
    process::{PidfdFlags, getpid, pidfd_open},
};

use super::*;
use crate::link::descriptors::End;

const GEOMETRY: Geometry = Geometry {
    ring_bytes: 4096,
    channel_slots: 16,
    max_payload_size: 1024,
    initial_channel_credit: 1024,
    arena_blocks: 8,
    arena_bytes: 2 << 12,
};

fn controls() -> (Control, Control) {
    let (host, guest) = UnixStream::pair().unwrap();
    (Control::new(host, End::Own).unwrap(), Control::new(guest, End::Own).unwrap())
}

fn myself() -> OwnedFd {
    pidfd_open(getpid(), PidfdFlags::NONBLOCK).unwrap()
}

/// What a peer may pass for a socket that carries descriptors, and is none.
fn no_sockets() -> Vec<OwnedFd> {
    let (reads, writes) = pipe().unwrap();
    let (stream, _) = UnixStream::pair().unwrap();
    vec![
        reads.into(),
        writes.into(),
        stream.into(),
        UnixDatagram::unbound().unwrap().into(),
        UdpSocket::bind("127.0.0.1:0").unwrap().into(),
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().into(),
        myself(),
    ]
}

/// A guest that passes its half, and these in place of a socket; what it is told.
async fn guest_with(control: &Control, no_socket: BorrowedFd<'_>) -> FromHost {
    let (offer, _received) = control.receive(FromHost::descriptors).await.unwrap();
    let FromHost::Offer(offer) = offer else { panic!("{offer:?}") };
    let (_own, half) = segment::create(&offer.geometry()).unwrap();
    control.send(&FromGuest::Accept, &[half.as_fd(), no_socket]).await.unwrap();
    control.receive(FromHost::descriptors).await.unwrap().0
}

#[tokio::test]
async fn a_guest_that_passes_no_socket_is_refused_and_told() {
    for no_socket in no_sockets() {
        let (control, peers) = controls();
        let (attached, told) =
            tokio::join!(host(&control, &GEOMETRY, myself()), guest_with(&peers, no_socket.as_fd()));
        assert!(matches!(attached, Err(HandshakeError::NoSocket)), "{attached:?}");
        assert!(matches!(told, FromHost::Refuse(PeerRefusal::Message)), "{told:?}");
    }
}

#[tokio::test]
async fn a_host_that_passes_no_socket_is_refused_and_told() {
    for no_socket in no_sockets() {
        let (control, peers) = controls();
        let (_own, half) = segment::create(&GEOMETRY).unwrap();
        let process = myself();
        let offers = async {
            let carried = [half.as_fd(), process.as_fd(), no_socket.as_fd()];
            peers.send(&FromHost::Offer(Offer::of(&GEOMETRY)), &carried).await.unwrap();
            peers.receive(FromGuest::descriptors).await.unwrap().0
        };
        let (attached, told) = tokio::join!(guest(&control, |_, _| Ok(())), offers);
        assert!(matches!(attached, Err(HandshakeError::NoSocket)), "{attached:?}");
        assert!(matches!(told, FromGuest::Refuse(PeerRefusal::Message)), "{told:?}");
    }
}

/// Fails where a side passes an end that it receives from: the peer could change what a look at it shows.
#[tokio::test]
async fn what_a_side_passes_brings_nothing_and_what_it_keeps_does() {
    let (control, peers) = controls();
    let listens = async {
        let (offer, mut received) = peers.receive(FromHost::descriptors).await.unwrap();
        let FromHost::Offer(offer) = offer else { panic!("{offer:?}") };
        let (_own, half) = segment::create(&offer.geometry()).unwrap();
        let (kept, passed) = descriptor_sockets(peers.closer()).unwrap();
        peers.send(&FromGuest::Accept, &[half.as_fd(), passed.as_fd()]).await.unwrap();
        peers.receive(FromHost::descriptors).await.unwrap();
        let [_half, _host, sends] = [(); 3].map(|()| received.pop().unwrap().into_inner());
        (kept, sends)
    };
    let (attached, (kept, sends)) = tokio::join!(host(&control, &GEOMETRY, myself()), listens);
    let sockets = attached.unwrap().descriptors;
    let send = |socket: BorrowedFd<'_>| rustix::net::send(socket, &[7], rustix::net::SendFlags::NOSIGNAL);
    let receive = |socket: BorrowedFd<'_>| {
        let mut byte = [0];
        rustix::net::recv(socket, &mut byte, rustix::net::RecvFlags::DONTWAIT).map(|_| byte[0])
    };
    send(sends.as_fd()).unwrap();
    send(sockets.outgoing.as_fd()).unwrap();
    assert_eq!(receive(sends.as_fd()), Err(rustix::io::Errno::AGAIN), "the host has sent on the other one");
    assert_eq!((receive(sockets.incoming.as_fd()), receive(kept.as_fd())), (Ok(7), Ok(7)));
}
