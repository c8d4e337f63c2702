//! The raw peer: it writes whatever messages a case wants, and tells what it hears.
//!
//! | file | the peer | over |
//! |---|---|---|
//! | `end` | has the other end of a link, as the library makes it | this process, shared memory |
//! | `socket` | has a socket, and writes bytes | Unix sockets, TCP |
//! | `puppet` | is an `end` in a process of its own, told over a socket what to do | shared memory |

pub(super) mod end;
#[cfg(target_os = "linux")]
pub(super) mod puppet;
pub(super) mod socket;

use serde::{Deserialize, Serialize};

use self::{end::EndPeer, socket::SocketPeer};
use super::note::Note;

pub(super) enum Peer {
    End(EndPeer),
    Socket(SocketPeer),
    #[cfg(target_os = "linux")]
    Puppet(puppet::PuppetPeer),
    /// It has let go of its end.
    Gone,
}

/// What a peer hears next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Heard {
    Note(Note),
    /// The link is over.
    End,
}

impl Peer {
    /// Writes one message. What our side makes of it is for the case to hear.
    pub(super) async fn say(&mut self, note: Note) {
        self.say_together(&[note]).await;
    }

    /// Writes messages that our side finds at once.
    pub(super) async fn say_together(&mut self, notes: &[Note]) {
        match self {
            Peer::End(peer) => peer.say_together(notes),
            Peer::Socket(peer) => peer.say_together(notes).await,
            #[cfg(target_os = "linux")]
            Peer::Puppet(peer) => peer.say_together(notes).await,
            Peer::Gone => {}
        }
    }

    /// The peer, where it writes bytes.
    pub(super) fn socket(&mut self) -> &mut SocketPeer {
        if let Peer::Socket(peer) = self { peer } else { panic!("it is no socket") }
    }

    /// Waits for the next message, or the end of the link.
    pub(super) async fn hear(&mut self) -> Heard {
        match self {
            Peer::End(peer) => peer.hear().await,
            Peer::Socket(peer) => peer.hear().await,
            #[cfg(target_os = "linux")]
            Peer::Puppet(peer) => peer.hear().await,
            Peer::Gone => Heard::End,
        }
    }

    /// Grants our side `more` bytes on a channel that it sends: by a message, or in the table.
    pub(super) async fn grant(&mut self, conn_id: u64, channel_id: u64, more: u32) {
        match self {
            Peer::End(peer) => peer.grant(conn_id, channel_id, more),
            Peer::Socket(peer) => {
                peer.say_together(&[Note::Credit { conn_id, channel_id, bytes: more }]).await;
            }
            #[cfg(target_os = "linux")]
            Peer::Puppet(peer) => peer.grant(conn_id, channel_id, more).await,
            Peer::Gone => {}
        }
    }

    /// Waits until our side has granted more than `known` bytes on a channel that this peer sends, and returns
    /// how many that are since it was opened with `window`. Nothing else may arrive meanwhile.
    pub(super) async fn more_credit(&mut self, conn_id: u64, channel_id: u64, known: u64) -> u64 {
        match self {
            Peer::End(peer) if peer.has_table() => peer.more_credit(conn_id, channel_id, known).await,
            #[cfg(target_os = "linux")]
            Peer::Puppet(peer) => peer.more_credit(conn_id, channel_id, known).await,
            Peer::End(_) | Peer::Socket(_) | Peer::Gone => match self.hear().await {
                Heard::Note(Note::Credit { conn_id: on, channel_id: of, bytes })
                    if (on, of) == (conn_id, channel_id) =>
                {
                    known + u64::from(bytes)
                }
                other => panic!("{other:?} is no credit of channel {channel_id}"),
            },
        }
    }
}
