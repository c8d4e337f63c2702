//! How two sides come to share a segment.
//!
//! ```text
//! host                                               guest
//!   makes its half
//!   Offer { limits, pid } + its half, its pidfd,
//!     a socket to send descriptors with          -->
//!                                                    checks and maps the host's half, makes its own
//!                                                <-- Accept + its half, a socket likewise
//!                                                                            (or Refuse, and the end)
//!   checks and maps the guest's half
//!   Attached                                     --> (or Refuse, and the end)
//! ```
//!
//! The guest accepts when it serves, so that a host that has attached has a peer that answers. The limits are
//! the host's; a guest refuses those that the layout does not allow, by name. Each side refuses a half that
//! is not what it must be. A refusal is told to the peer as far as the socket takes it, and the link is over for both.
//!
//! What a side receives descriptors on it has made itself, and gives only the other end away: a peer that had the same end
//! could take something out of it between two looks, or have the system look elsewhere.

mod error;

use std::{io, sync::Arc};

use adjoin_shm_layout::{Geometry, GeometryError, OwnHalf, PeerHalf};
use rustix::{
    fd::{AsFd, OwnedFd},
    net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt},
};
use serde::{Deserialize, Serialize};

pub use self::error::{HandshakeError, PeerRefusal, SegmentLimit};
use super::{control::Control, mapping::Mapping, segment};
use crate::link::descriptors::{Apart, Closer, Descriptors};

/// The halves of a segment on which both sides agreed.
#[derive(Debug)]
pub(super) struct Halves {
    pub(super) own: OwnHalf<Mapping>,
    pub(super) peer: PeerHalf<Mapping>,
    pub(super) descriptors: DescriptorSockets,
}

/// What carries the descriptors of messages.
#[derive(Debug)]
pub(super) struct DescriptorSockets {
    /// An end that is this process's alone.
    pub(super) incoming: Apart,
    /// The end of a socket of the peer's.
    pub(super) outgoing: Apart,
}

/// What a host says.
#[derive(Debug, Serialize, Deserialize)]
enum FromHost {
    /// With three descriptors: the host's half, a pidfd of the host, and what the guest is to send descriptors with.
    Offer(Offer),
    Attached,
    Refuse(PeerRefusal),
}

impl FromHost {
    fn descriptors(&self) -> usize {
        match self {
            FromHost::Offer(_) => 3,
            FromHost::Attached | FromHost::Refuse(_) => 0,
        }
    }
}

/// What a guest says.
#[derive(Debug, Serialize, Deserialize)]
enum FromGuest {
    /// With two descriptors: the guest's half, and what the host is to send descriptors with.
    Accept,
    Refuse(PeerRefusal),
}

impl FromGuest {
    fn descriptors(&self) -> usize {
        match self {
            FromGuest::Accept => 2,
            FromGuest::Refuse(_) => 0,
        }
    }
}

/// The limits of a segment, and who offers it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Offer {
    ring_bytes: u32,
    channel_slots: u32,
    max_payload_size: u32,
    initial_channel_credit: u32,
    arena_blocks: u32,
    arena_bytes: u64,
    host: u32,
}

/// The host's side. `host` is a pidfd of this process.
///
/// # Cancel safety
///
/// None: a handshake that is dropped in the middle is over.
pub(super) async fn host(
    control: &Control,
    geometry: &Geometry,
    host: OwnedFd,
) -> Result<Halves, HandshakeError> {
    let made = segment::create(geometry).map_err(HandshakeError::from);
    let ((own, descriptor), (incoming, theirs)) =
        match made.and_then(|made| Ok((made, descriptor_sockets(control.closer())?))) {
            Ok(made) => made,
            Err(error) => {
                // The guest may be gone; what is wrong is said to our own caller in any case.
                let _ = control.send(&FromHost::Refuse(error.refusal()), &[]).await;
                return Err(error);
            }
        };
    let carried = [descriptor.as_fd(), host.as_fd(), theirs.as_fd()];
    let offered = control.send(&FromHost::Offer(Offer::of(geometry)), &carried).await;
    if let Err(error) = offered {
        if !matches!(error, HandshakeError::Closed) {
            let _ = control.send(&FromHost::Refuse(error.refusal()), &[]).await; // as above
            return Err(error);
        }
        // A guest that does not even look at an offer may have said so.
        return Err(match control.receive(FromGuest::descriptors).await {
            Ok((FromGuest::Refuse(refusal), _)) => HandshakeError::Refused(refusal),
            _ => error,
        });
    }
    drop((descriptor, host, theirs));
    let (answer, mut received) = match control.receive(FromGuest::descriptors).await {
        Ok(received) => received,
        Err(error) => {
            let _ = control.send(&FromHost::Refuse(error.refusal()), &[]).await; // as above
            return Err(error);
        }
    };
    let (half, outgoing) = match (answer, received.pop(), received.pop()) {
        (FromGuest::Accept, Some(half), Some(outgoing)) => (half, outgoing),
        (FromGuest::Refuse(refusal), ..) => return Err(HandshakeError::Refused(refusal)),
        (FromGuest::Accept, ..) => return Err(HandshakeError::OutOfOrder),
    };
    let opened = segment::open(&half, geometry).map_err(|error| (PeerRefusal::Half, error.into()));
    match opened.and_then(|peer| Ok((peer, check_socket(&outgoing).map_err(message)?))) {
        Ok((peer, ())) => {
            drop(half.into_inner()); // it is what it must be: its close waits for nobody
            control.send(&FromHost::Attached, &[]).await?;
            Ok(Halves { own, peer, descriptors: DescriptorSockets { incoming, outgoing } })
        }
        Err((refusal, error)) => {
            // The guest may be gone; what is wrong is said to our own caller in any case.
            let _ = control.send(&FromHost::Refuse(refusal), &[]).await;
            Err(error)
        }
    }
}

/// The guest's side: the halves, and the host's pidfd which `check_host` has approved of.
///
/// # Cancel safety
///
/// None: a handshake that is dropped in the middle is over.
pub(super) async fn guest(
    control: &Control,
    check_host: impl FnOnce(u32, &OwnedFd) -> Result<(), HandshakeError>,
) -> Result<(Halves, OwnedFd), HandshakeError> {
    let (offer, mut received) = match control.receive(FromHost::descriptors).await {
        Ok(received) => received,
        Err(error) => {
            // A host of another version learns from it which one this is.
            let _ = control.send(&FromGuest::Refuse(error.refusal()), &[]).await;
            return Err(error);
        }
    };
    let offer = match offer {
        FromHost::Offer(offer) => offer,
        FromHost::Refuse(refusal) => return Err(HandshakeError::Refused(refusal)),
        FromHost::Attached => return Err(HandshakeError::OutOfOrder),
    };
    let made = halves_of_guest(&offer, &received, check_host).and_then(|halves| {
        let sockets = descriptor_sockets(control.closer()).map_err(HandshakeError::from);
        Ok((halves, sockets.map_err(|error| (error.refusal(), error))?))
    });
    let ((own, descriptor, peer), (incoming, theirs)) = match made {
        Ok(made) => made,
        Err((refusal, error)) => {
            // The host may be gone; what is wrong is said to our own caller in any case.
            let _ = control.send(&FromGuest::Refuse(refusal), &[]).await;
            return Err(error);
        }
    };
    let (Some(half), Some(host), Some(outgoing)) = (received.pop(), received.pop(), received.pop()) else {
        return Err(HandshakeError::OutOfOrder); // never: they were looked at
    };
    // They are what they must be: their close waits for nobody.
    let (_half, host) = (half.into_inner(), host.into_inner());
    let halves = Halves { own, peer, descriptors: DescriptorSockets { incoming, outgoing } };
    control.send(&FromGuest::Accept, &[descriptor.as_fd(), theirs.as_fd()]).await?;
    drop((descriptor, theirs));
    match control.receive(FromHost::descriptors).await?.0 {
        FromHost::Attached => Ok((halves, host)),
        FromHost::Refuse(refusal) => Err(HandshakeError::Refused(refusal)),
        FromHost::Offer(_) => Err(HandshakeError::OutOfOrder),
    }
}

/// Tells a guest that there will be no segment.
pub(super) async fn turn_guest_away(control: &Control, why: PeerRefusal) -> Result<(), HandshakeError> {
    let _ = control.send(&FromHost::Refuse(why), &[]).await; // it may be gone
    Ok(())
}

/// Tells a host that its segment is not taken.
pub(super) async fn turn_host_away(control: &Control, why: PeerRefusal) -> Result<(), HandshakeError> {
    let _ = control.send(&FromGuest::Refuse(why), &[]).await; // it may be gone
    Ok(())
}

impl Offer {
    /// Of this process.
    fn of(geometry: &Geometry) -> Self {
        Offer {
            ring_bytes: geometry.ring_bytes,
            channel_slots: geometry.channel_slots,
            max_payload_size: geometry.max_payload_size,
            initial_channel_credit: geometry.initial_channel_credit,
            arena_blocks: geometry.arena_blocks,
            arena_bytes: geometry.arena_bytes,
            host: std::process::id(),
        }
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            ring_bytes: self.ring_bytes,
            channel_slots: self.channel_slots,
            max_payload_size: self.max_payload_size,
            initial_channel_credit: self.initial_channel_credit,
            arena_blocks: self.arena_blocks,
            arena_bytes: self.arena_bytes,
        }
    }
}

/// An error of which the peer is told that a message of its was wrong.
fn message(error: HandshakeError) -> (PeerRefusal, HandshakeError) {
    (PeerRefusal::Message, error)
}

/// Our own half, its descriptor, and the peer's half.
type Made = (OwnHalf<Mapping>, OwnedFd, PeerHalf<Mapping>);

/// Checks what the guest was offered, and makes its own half. An error comes with what to tell the host of
/// it.
fn halves_of_guest(
    offer: &Offer,
    received: &Descriptors,
    check_host: impl FnOnce(u32, &OwnedFd) -> Result<(), HandshakeError>,
) -> Result<Made, (PeerRefusal, HandshakeError)> {
    let mut received = received.iter();
    let (Some(half), Some(host), Some(socket)) = (received.next(), received.next(), received.next()) else {
        return Err(message(HandshakeError::OutOfOrder)); // never: as many were expected
    };
    check_host(offer.host, host).map_err(|error| (error.refusal(), error))?;
    let geometry = offer.geometry();
    geometry.validate().map_err(|error| (refused_limit(&error), HandshakeError::Limit(error)))?;
    let peer = segment::open(half, &geometry).map_err(|error| (PeerRefusal::Half, error.into()))?;
    check_socket(socket).map_err(message)?;
    let (own, descriptor) =
        segment::create(&geometry).map_err(HandshakeError::from).map_err(|error| (error.refusal(), error))?;
    Ok((own, descriptor, peer))
}

/// Refuses what is no socket that carries descriptors in packets.
fn check_socket(socket: impl AsFd) -> Result<(), HandshakeError> {
    let domain = sockopt::socket_domain(socket.as_fd());
    let kind = sockopt::socket_type(socket.as_fd());
    let expected = (Ok(AddressFamily::UNIX), Ok(SocketType::SEQPACKET));
    if (domain, kind) == expected { Ok(()) } else { Err(HandshakeError::NoSocket) }
}

/// Both ends of a socket that carries the descriptors of messages: one packet a message, so that what belongs together
/// comes together. The first receives, and what the peer puts into it `closer` closes; the other one is the peer's.
pub(super) fn descriptor_sockets(closer: &Arc<Closer>) -> io::Result<(Apart, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (incoming, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok((Apart::new(incoming, Some(Arc::clone(closer))), theirs))
}

/// A limit that no segment can have, as the host is told of it.
fn refused_limit(error: &GeometryError) -> PeerRefusal {
    SegmentLimit::of(error.field)
        .map_or(PeerRefusal::Message, |limit| PeerRefusal::Limit { limit, value: error.value })
}

#[cfg(test)]
mod tests;
