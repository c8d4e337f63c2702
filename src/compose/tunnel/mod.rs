//! Byte streams through a link: `AsyncRead + AsyncWrite` over a pair of streams.
//!
//! ```
//! # #[cfg(feature = "macros")] mod example {
//! use adjoin::{Options, local, tunnel::{self, Tunnel}};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! #[adjoin::service]
//! trait Shouting {
//!     async fn shout(&self, tunnel: Tunnel) -> Result<(), String>;
//! }
//!
//! struct Loud;
//!
//! impl Shouting for Loud {
//!     async fn shout(&self, mut tunnel: Tunnel) -> Result<(), String> {
//!         let mut text = String::new();
//!         tunnel.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
//!         tunnel.write_all(text.to_uppercase().as_bytes()).await.map_err(|error| error.to_string())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (client, _server) = local::pair(Options::new(), Options::new().serve(ShoutingDispatcher::new(Loud)));
//! let shouting = ShoutingClient::new(&client);
//! let (mut near, far) = tunnel::pair();
//! let talk = async {
//!     near.write_all(b"hello").await?;
//!     near.shutdown().await?; // that was all
//!     let mut answer = String::new();
//!     near.read_to_string(&mut answer).await?;
//!     Ok::<_, std::io::Error>(answer)
//! };
//! let (shouted, answer) = tokio::join!(shouting.shout(far), talk);
//! shouted?;
//! assert_eq!(answer?, "HELLO");
//! # Ok(()) }
//! # }
//! # #[cfg(feature = "macros")] fn main() { example::main().unwrap() }
//! # #[cfg(not(feature = "macros"))] fn main() {}
//! ```
//!
//! A [`Tunnel`] may stand wherever a [`Tx`](crate::Tx) or an [`Rx`](crate::Rx) may, also in a result; on the wire it is
//! the two of them, of `Vec<u8>`. [`pump`] carries a socket, or anything else, through one.
//!
//! # How a direction ends
//!
//! | this side | the other side's read | and its write |
//! |---|---|---|
//! | shuts down, or drops the [`WriteHalf`] | everything, and then the end of file | |
//! | [resets](WriteHalf::reset) it | what has arrived, and then `ConnectionReset` | |
//! | drops the [`ReadHalf`] | | `BrokenPipe` |
//! | is killed, or its link ends | what has arrived, and then `ConnectionAborted` | `ConnectionAborted` |
//!
//! Each direction ends by itself, as those of a TCP connection do. The error inside of the [`io::Error`] is the
//! stream's: a [`RecvError`](crate::RecvError) or a [`SendError`](crate::SendError), which says how the link ended.
//!
//! # What it costs
//!
//! Nothing is buffered here: a write is encoded where the link wants it, and waits while the other side is a window of
//! bytes behind ([`Settings::initial_channel_credit`](crate::Settings::initial_channel_credit)). Three copies per byte
//! over shared memory: from the writer into the ring, out of the ring into the stream's queue, and from there to the
//! reader; two with [`AsyncBufRead`](tokio::io::AsyncBufRead), as [`pump`] reads. No allocation in steady state.

mod half;
mod pump;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

pub use self::{
    half::{ReadHalf, WriteHalf},
    pump::{PumpError, Pumped, pump, splice},
};
use crate::rpc::{
    rx::Rx,
    tx::{Tx, channel},
};

/// One end of a byte stream in both directions. See the [module's documentation](self).
#[derive(Debug, Serialize, Deserialize, Schema)]
#[postcard(crate = crate::postcard_schema)]
pub struct Tunnel {
    input: ReadHalf,
    output: WriteHalf,
}

/// A tunnel within this process: what is written into one end is read from the other.
///
/// Pass one of them in a call, or return it: the other one is then the remote end.
#[must_use]
pub fn pair() -> (Tunnel, Tunnel) {
    let ((forth, there), (back, here)) = (channel(), channel());
    (Tunnel::from_streams(here, forth), Tunnel::from_streams(there, back))
}

impl Tunnel {
    /// A tunnel of two streams.
    #[must_use]
    pub fn from_streams(input: Rx<Vec<u8>>, output: Tx<Vec<u8>>) -> Self {
        Tunnel { input: ReadHalf::new(input), output: WriteHalf::new(output) }
    }

    /// Sets how many bytes one chunk has at most, of those that are written here. Default: [`CHUNK_SIZE`]. See
    /// [`WriteHalf::chunk_size`].
    #[must_use]
    pub fn chunk_size(mut self, bytes: usize) -> Self {
        self.output = self.output.chunk_size(bytes);
        self
    }

    /// Its two directions, each with an end of its own.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        (self.input, self.output)
    }

    /// Breaks both directions off: the other side's read fails with `ConnectionReset`, and its write with `BrokenPipe`.
    pub fn reset(self) {
        self.output.reset();
    }
}

impl From<(ReadHalf, WriteHalf)> for Tunnel {
    fn from((input, output): (ReadHalf, WriteHalf)) -> Self {
        Tunnel { input, output }
    }
}

/// The default of [`Tunnel::chunk_size`], in bytes: a quarter of a stream's default window, which is the step in which
/// its credit comes back.
pub const CHUNK_SIZE: usize = 16 << 10;

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_read(cx, into)
    }
}

impl AsyncBufRead for Tunnel {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Pin::new(&mut self.get_mut().input).poll_fill_buf(cx)
    }

    fn consume(mut self: Pin<&mut Self>, bytes: usize) {
        Pin::new(&mut self.input).consume(bytes);
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.output).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_shutdown(cx)
    }
}
