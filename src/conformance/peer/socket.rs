//! A raw peer on a byte stream: real sockets, frames made by the `cobs` crate, messages encoded by serde.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Heard;
use crate::conformance::note::{Hello, Note};

/// Any byte stream.
pub(in crate::conformance) trait Stream:
    AsyncRead + AsyncWrite + Unpin + Send
{
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub(in crate::conformance) struct SocketPeer {
    socket: Box<dyn Stream>,
    /// What has arrived and was not told yet.
    arrived: Vec<u8>,
}

impl SocketPeer {
    pub(in crate::conformance) fn new(socket: Box<dyn Stream>) -> Self {
        SocketPeer { socket, arrived: Vec::new() }
    }

    /// Greets our side, and hears its Hello.
    pub(in crate::conformance) async fn greet(&mut self, max_payload_size: u32, initial_channel_credit: u32) {
        let hello = Note::Hello(Hello::V2 { max_payload_size, initial_channel_credit });
        self.say_together(&[hello]).await;
        let heard = self.hear().await;
        assert!(matches!(heard, Heard::Note(Note::Hello(Hello::V2 { .. }))), "{heard:?}");
    }

    /// Writes messages, in one piece.
    pub(in crate::conformance) async fn say_together(&mut self, notes: &[Note]) {
        let bytes: Vec<_> = notes.iter().flat_map(frame).collect();
        self.write(&bytes).await;
    }

    /// Writes bytes. Those for which our side has closed the socket are lost.
    pub(in crate::conformance) async fn write(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes).await;
        let _ = self.socket.flush().await;
    }

    /// Says that no more will be written.
    pub(in crate::conformance) async fn shut_down(&mut self) {
        let _ = self.socket.shutdown().await;
    }

    pub(in crate::conformance) async fn hear(&mut self) -> Heard {
        loop {
            if let Some(at) = self.arrived.iter().position(|byte| *byte == 0) {
                let frame: Vec<_> = self.arrived.drain(..=at).collect();
                return Heard::Note(note(&frame[..at]));
            }
            match self.socket.read_buf(&mut self.arrived).await {
                Ok(1..) => {}
                Ok(0) | Err(_) if self.arrived.is_empty() => return Heard::End,
                other => panic!("{other:?} behind a part of a frame"),
            }
        }
    }
}

/// A message on a byte stream.
pub(in crate::conformance) fn frame(note: &Note) -> Vec<u8> {
    frame_of(&note.to_bytes())
}

/// Any bytes in a frame.
pub(in crate::conformance) fn frame_of(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; cobs::max_encoding_length(message.len())];
    let len = cobs::encode(message, &mut frame);
    frame.truncate(len);
    frame.push(0);
    frame
}

fn note(frame: &[u8]) -> Note {
    let mut message = frame.to_vec();
    let len = cobs::decode_in_place(&mut message).expect("our side writes frames");
    Note::from_bytes(&message[..len])
}
