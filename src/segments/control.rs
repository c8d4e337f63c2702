//! Messages with descriptors, over the control socket, before it becomes the bell.
//!
//! | bytes | field   | meaning                                    |
//! |-------|---------|--------------------------------------------|
//! | 8     | magic   | [`MAGIC`]                                  |
//! | 4     | version | [`VERSION`], little endian                 |
//! | 2     | length  | of what follows, in bytes, little endian   |
//! | n     | message | postcard                                   |
//!
//! Descriptors travel with the first byte. Every one that arrives is owned at once, so that none is leaked
//! whatever happens next, and those that are not taken are closed apart; those that this process may not have stay in the
//! socket, and are closed with it. A message with more or fewer than its kind has is refused. Not one byte behind the message
//! is read: it may be a ring of the bell already.

use std::{io, os::unix::net::UnixStream, sync::Arc};

use rustix::fd::{AsFd, BorrowedFd};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::Interest;

use super::{handshake::HandshakeError, mailbox::Mailbox};
use crate::link::descriptors::{self, Apart, Closer, Descriptors, End, Look};

/// The control socket during the handshake.
#[derive(Debug)]
pub(super) struct Control(Mailbox);

impl Control {
    /// Takes an end of a connected Unix stream socket. Must be called within a runtime.
    pub(super) fn new(socket: UnixStream, end: End) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Control(Mailbox::new(socket.into(), end, Closer::new(0))?))
    }

    /// Who closes what nobody takes.
    pub(super) fn closer(&self) -> &Arc<Closer> {
        self.0.closer()
    }

    /// Gives the socket to the bell.
    pub(super) fn into_socket(self) -> Mailbox {
        self.0
    }

    /// Sends one message. One system call.
    ///
    /// # Cancel safety
    ///
    /// None: a message may be sent in part. The caller gives the socket up with it.
    pub(super) async fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), HandshakeError> {
        let mut frame = [0; HEAD + LONGEST];
        let body =
            postcard::to_slice(message, &mut frame[HEAD..]).map_err(|_| HandshakeError::Malformed)?.len();
        frame[..HEAD].copy_from_slice(&head(body));
        let mut rest = &frame[..HEAD + body];
        let mut attached = descriptors;
        while !rest.is_empty() {
            let send = |socket: &Apart| descriptors::send(socket.as_fd(), rest, attached);
            let sent = self.0.socket().async_io(Interest::WRITABLE, send).await?;
            attached = &[];
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Receives one message with exactly as many descriptors as `expected` says for it. Four system calls.
    ///
    /// # Cancel safety
    ///
    /// None: a message may be received in part. The caller gives the socket up with it; descriptors that had
    /// arrived are closed.
    pub(super) async fn receive<M: DeserializeOwned>(
        &self,
        expected: impl FnOnce(&M) -> usize,
    ) -> Result<(M, Descriptors), HandshakeError> {
        let mut descriptors = Descriptors::NONE;
        let mut frame = [0; LONGEST];
        let mut found = [0; HEAD];
        self.fill(&mut found, &mut descriptors).await?;
        let body = frame.get_mut(..body_len(&found)?).unwrap_or_default();
        self.fill(body, &mut descriptors).await?;
        let message = postcard::from_bytes(body).map_err(|_| HandshakeError::Malformed)?;
        let (found, expected) = (descriptors.len(), expected(&message));
        if found != expected {
            return Err(HandshakeError::Descriptors { found, expected });
        }
        Ok((message, descriptors))
    }

    /// Receives as many bytes as `bytes` has, and takes what descriptors come with them.
    async fn fill(&self, bytes: &mut [u8], descriptors: &mut Descriptors) -> Result<(), HandshakeError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let receive = |_: &Apart| self.0.receive(Look::Always, rest);
            let received = self.0.socket().async_io(Interest::READABLE, receive).await?;
            descriptors.append(received.descriptors);
            if received.lost.is_some() {
                // Nobody can send more at once than there is room for: it is here that they could not be had.
                return Err(HandshakeError::descriptor_limit());
            }
            if descriptors.len() > MOST_DESCRIPTORS {
                return Err(HandshakeError::TooManyDescriptors { limit: MOST_DESCRIPTORS });
            }
            if received.bytes == 0 {
                return Err(HandshakeError::Closed);
            }
            rest = rest.get_mut(received.bytes..).unwrap_or_default();
        }
        Ok(())
    }
}

/// The head of a message of `body` bytes.
fn head(body: usize) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    // At most `LONGEST`: it was encoded into that room.
    head[12..].copy_from_slice(&(body as u16).to_le_bytes());
    head
}

/// The length of a message by its head.
fn body_len(head: &[u8; HEAD]) -> Result<usize, HandshakeError> {
    let [magic @ .., v0, v1, v2, v3, l0, l1] = *head;
    if magic != MAGIC {
        return Err(HandshakeError::NotAdjoin);
    }
    let found = u32::from_le_bytes([v0, v1, v2, v3]);
    if found != VERSION {
        return Err(HandshakeError::Version { found, expected: VERSION });
    }
    let len = usize::from(u16::from_le_bytes([l0, l1]));
    if len > LONGEST {
        return Err(HandshakeError::TooLong { len, limit: LONGEST });
    }
    Ok(len)
}

/// The first bytes of every message.
const MAGIC: [u8; 8] = *b"adjoin\r\n";
/// The version of the handshake. The layout of the halves has its own, in their headers.
const VERSION: u32 = 3;
/// Bytes in front of a message.
const HEAD: usize = 14;
/// Bytes of the longest message.
const LONGEST: usize = 128;
/// The most descriptors that any message carries.
const MOST_DESCRIPTORS: usize = 3;

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
