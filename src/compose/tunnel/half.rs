//! The two directions of a tunnel.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use postcard_schema::{Schema, schema::NamedType};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use super::CHUNK_SIZE;
use crate::rpc::{
    errors::{RecvError, SendError},
    rx::{Rx, bytes::Part},
    tx::Tx,
};

/// What comes out of a tunnel.
///
/// It is a stream's receiver, and can be passed as one: where a method has a `ReadHalf`, its peer may have an
/// `Rx<Vec<u8>>`. Dropping it before the end tells the writer to stop.
///
/// # Cancel safety
///
/// A read that is given up has read nothing.
#[derive(Debug)]
pub struct ReadHalf {
    rx: Rx<Vec<u8>>,
    /// What is left of the chunk that is being read.
    part: Part,
}

impl ReadHalf {
    /// Reads what a stream brings.
    #[must_use]
    pub fn new(rx: Rx<Vec<u8>>) -> Self {
        ReadHalf { rx, part: Part::default() }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let bytes = ready!(self.as_mut().poll_fill_buf(cx))?;
        let len = bytes.len().min(into.remaining());
        into.put_slice(&bytes[..len]);
        self.consume(len);
        Poll::Ready(Ok(()))
    }
}

/// Reads chunks where they lie, without the last copy.
impl AsyncBufRead for ReadHalf {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        this.rx.poll_part(cx, &mut this.part).map_err(read_error)
    }

    fn consume(mut self: Pin<&mut Self>, bytes: usize) {
        let this = &mut *self;
        this.rx.consume(&mut this.part, bytes);
    }
}

/// What goes into a tunnel.
///
/// It is a stream's sender, and can be passed as one: where a method has a `WriteHalf`, its peer may have a
/// `Tx<Vec<u8>>`. Dropping it is a shutdown: the reader gets everything, and then the end of file. What must not look
/// complete is [`reset`](WriteHalf::reset).
///
/// # Cancel safety
///
/// A write that is given up has written nothing; `write_all` has written some, as always.
#[derive(Debug)]
pub struct WriteHalf {
    tx: Tx<Vec<u8>>,
    chunk_size: usize,
    shut_down: bool,
}

impl WriteHalf {
    /// Writes into a stream.
    #[must_use]
    pub fn new(tx: Tx<Vec<u8>>) -> Self {
        WriteHalf { tx, chunk_size: CHUNK_SIZE, shut_down: false }
    }

    /// Sets how many bytes one chunk has at most, one or more. Default: [`CHUNK_SIZE`].
    ///
    /// A chunk is one element of the stream. It has to fit the stream's window
    /// ([`Settings::initial_channel_credit`](crate::Settings::initial_channel_credit)) and the longest payload
    /// ([`Settings::max_payload_size`](crate::Settings::max_payload_size)), and is cut to what they allow; best, several
    /// fit the window, so that the reader has one while the writer sends the next. What is written before the other end
    /// is passed, and so before they are known, is not cut to them: then a chunk that exceeds them breaks the tunnel
    /// off. On shared memory it also has to fit half of the ring
    /// ([`Settings::ring_bytes`](crate::Settings::ring_bytes)); if it does not, the write fails with `InvalidInput`.
    #[must_use]
    pub fn chunk_size(mut self, bytes: usize) -> Self {
        self.chunk_size = bytes.max(1);
        self
    }

    /// Breaks the direction off: the reader gets what has arrived, and then `ConnectionReset`.
    ///
    /// After a shutdown it does nothing.
    pub fn reset(mut self) {
        self.break_off();
    }

    /// Completes when the reader is gone, or the link.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn closed(&self) {
        self.tx.closed().await;
    }

    /// How many bytes the next chunk can have.
    pub(super) fn next_chunk(&self) -> usize {
        self.chunk_size.min(self.tx.longest())
    }

    /// Ready when the reader is gone; the link's end is an error.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tx.poll_over(cx).map(|end| match end {
            SendError::Closed => Ok(()),
            end => Err(write_error(end)),
        })
    }

    /// As [`reset`](WriteHalf::reset), in place.
    pub(super) fn break_off(&mut self) {
        if !self.shut_down {
            self.shut_down = true;
            self.tx.break_off();
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.shut_down {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let len = bytes.len().min(self.next_chunk());
        let sent = ready!(self.tx.poll_send_bytes(cx, &bytes[..len]));
        Poll::Ready(sent.map(|()| len).map_err(write_error))
    }

    /// What was written is with the link, which shows it to the other side by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Closes this direction. That the reader has gone before is no error.
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut_down {
            self.shut_down = true;
            self.tx.close();
        }
        Poll::Ready(Ok(()))
    }
}

fn read_error(error: RecvError) -> io::Error {
    let kind = match error {
        RecvError::Reset => io::ErrorKind::ConnectionReset,
        RecvError::Ended(_) => io::ErrorKind::ConnectionAborted,
        RecvError::InvalidElement(_) => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

fn write_error(error: SendError) -> io::Error {
    let kind = match error {
        SendError::Closed => io::ErrorKind::BrokenPipe,
        SendError::Ended(_) => io::ErrorKind::ConnectionAborted,
        SendError::Refused(_) => io::ErrorKind::InvalidInput,
    };
    io::Error::new(kind, error)
}

/// As the stream's receiver.
impl Serialize for ReadHalf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.rx.serialize_from(&self.part, serializer)
    }
}

/// As a stream's receiver.
impl<'de> Deserialize<'de> for ReadHalf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Rx::deserialize(deserializer).map(ReadHalf::new)
    }
}

impl Schema for ReadHalf {
    const SCHEMA: &'static NamedType = <Rx<Vec<u8>>>::SCHEMA;
}

/// As the stream's sender.
impl Serialize for WriteHalf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.tx.serialize(serializer)
    }
}

/// As a stream's sender.
impl<'de> Deserialize<'de> for WriteHalf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Tx::deserialize(deserializer).map(WriteHalf::new)
    }
}

impl Schema for WriteHalf {
    const SCHEMA: &'static NamedType = <Tx<Vec<u8>>>::SCHEMA;
}
