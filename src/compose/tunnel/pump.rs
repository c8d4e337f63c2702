//! Carries bytes between tunnels and whatever else reads and writes.
//!
//! Each direction is a loop of its own, and both run in the caller's task. A direction that comes to its end carries it
//! over and stops; the other one goes on. An error ends both, and breaks the tunnel off.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{ReadHalf, Tunnel, WriteHalf};

/// How many bytes were carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pumped {
    /// Into the tunnel.
    pub sent: u64,
    /// Out of the tunnel.
    pub received: u64,
}

/// Which side could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PumpError {
    /// What is beside the tunnel; the tunnel was broken off.
    #[error("beside the tunnel: {0}")]
    Stream(#[source] io::Error),
    /// The tunnel, or the other side of it.
    #[error("in the tunnel: {0}")]
    Tunnel(#[source] io::Error),
}

/// Carries bytes between a tunnel and `stream`, a socket say, both ways until both have come to their end.
///
/// - `stream` comes to its end: the tunnel is shut down, and the other direction goes on.
/// - The tunnel comes to its end: `stream` is shut down, and the other direction goes on.
/// - The other side reads no more: nothing more is read from `stream`, and the other direction goes on. What was read
///   from `stream` by then may be lost, as it is in a socket that its peer closes.
/// - Either fails: both directions stop, `stream` is dropped, and the tunnel is broken off, so that the other side does
///   not take for complete what is not.
///
/// What is received is written as it lies; what is sent is read into a buffer of one chunk
/// ([`WriteHalf::chunk_size`]).
///
/// # Errors
///
/// [`PumpError`], which says which side failed. `ConnectionReset` from the tunnel says that its other side has failed.
///
/// # Cancel safety
///
/// Dropping the future drops `stream` and breaks the tunnel off.
pub async fn pump<S>(stream: S, tunnel: Tunnel) -> Result<Pumped, PumpError>
where
    S: AsyncRead + AsyncWrite,
{
    let (reader, writer) = tokio::io::split(stream);
    let mut end = Guarded::new(tunnel);
    let Guarded { input, output, .. } = &mut end;
    let (mut sent, mut received) = (0, 0);
    both(send(reader, output, &mut sent), receive(input, writer, &mut received)).await?;
    end.done();
    Ok(Pumped { sent, received })
}

/// Carries bytes from each of two tunnels into the other, as [`pump`] does. `sent` is what went into `second`.
///
/// # Errors
///
/// [`PumpError::Stream`] when `first` fails, [`PumpError::Tunnel`] when `second` does. The other one is broken off.
///
/// # Cancel safety
///
/// Dropping the future breaks both off.
pub async fn splice(first: Tunnel, second: Tunnel) -> Result<Pumped, PumpError> {
    let (mut first, mut second) = (Guarded::new(first), Guarded::new(second));
    let (mut sent, mut received) = (0, 0);
    let forth = hand_over(&mut first.input, &mut second.output, &mut sent);
    let back = hand_over(&mut second.input, &mut first.output, &mut received);
    let forth =
        async { forth.await.map_err(|failed| failed.into_error(PumpError::Stream, PumpError::Tunnel)) };
    let back = async { back.await.map_err(|failed| failed.into_error(PumpError::Tunnel, PumpError::Stream)) };
    both(forth, back).await?;
    first.done();
    second.done();
    Ok(Pumped { sent, received })
}

/// A tunnel that is broken off when it is dropped, unless all is done.
struct Guarded {
    input: ReadHalf,
    output: WriteHalf,
    done: bool,
}

impl Guarded {
    fn new(tunnel: Tunnel) -> Self {
        let (input, output) = tunnel.into_split();
        Guarded { input, output, done: false }
    }

    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if !self.done {
            self.output.break_off();
        }
    }
}

/// Runs both until both are done, or one has failed.
async fn both<E>(
    first: impl Future<Output = Result<(), E>>,
    second: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let mut done = (false, false);
    poll_fn(|cx| {
        if !done.0
            && let Poll::Ready(result) = first.as_mut().poll(cx)
        {
            result?;
            done.0 = true;
        }
        if !done.1
            && let Poll::Ready(result) = second.as_mut().poll(cx)
        {
            result?;
            done.1 = true;
        }
        if done == (true, true) { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// Carries what `reader` has into a tunnel, until its end, or until nobody reads over there.
async fn send(
    mut reader: impl AsyncRead + Unpin,
    output: &mut WriteHalf,
    sent: &mut u64,
) -> Result<(), PumpError> {
    let mut room = vec![0; output.next_chunk()];
    loop {
        match read_unless_closed(&mut reader, output, &mut room).await? {
            0 => return output.shutdown().await.map_err(PumpError::Tunnel),
            read => match write_all(output, &room[..read], sent).await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(PumpError::Tunnel(error)),
            },
        }
    }
}

/// Reads some. 0 at the end, and when there is nobody any more who would have it.
async fn read_unless_closed(
    reader: &mut (impl AsyncRead + Unpin),
    output: &mut WriteHalf,
    room: &mut [u8],
) -> Result<usize, PumpError> {
    poll_fn(|cx| {
        let mut into = ReadBuf::new(room);
        if let Poll::Ready(read) = Pin::new(&mut *reader).poll_read(cx, &mut into) {
            return Poll::Ready(read.map(|()| into.filled().len()).map_err(PumpError::Stream));
        }
        output.poll_closed(cx).map(|closed| closed.map(|()| 0).map_err(PumpError::Tunnel))
    })
    .await
}

/// Writes all, and counts it.
async fn write_all(output: &mut WriteHalf, mut bytes: &[u8], sent: &mut u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let len = output.write(bytes).await?;
        *sent += len as u64;
        bytes = &bytes[len..];
    }
    Ok(())
}

/// Carries what comes out of a tunnel to `writer`, until its end.
async fn receive(
    input: &mut ReadHalf,
    mut writer: impl AsyncWrite + Unpin,
    received: &mut u64,
) -> Result<(), PumpError> {
    // Flushes while nothing comes, and waits on.
    let idle = |writer: Pin<&mut _>, cx: &mut Context<'_>| match AsyncWrite::poll_flush(writer, cx) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        _ => Poll::Pending,
    };
    let failed = |failed: Failed| failed.into_error(PumpError::Tunnel, PumpError::Stream);
    loop {
        match carry(input, &mut writer, idle).await.map_err(failed)? {
            0 => return writer.shutdown().await.map_err(PumpError::Stream),
            len => *received += len as u64,
        }
    }
}

/// Carries what comes out of one tunnel into the other, until its end, or until nobody reads over there.
async fn hand_over(input: &mut ReadHalf, output: &mut WriteHalf, count: &mut u64) -> Result<(), Failed> {
    loop {
        match carry(input, output, |output, cx| output.get_mut().poll_closed(cx)).await {
            Ok(0) => return output.shutdown().await.map_err(Failed::Writing),
            Ok(len) => *count += len as u64,
            Err(Failed::Writing(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(failed) => return Err(failed),
        }
    }
}

/// Which of two failed.
enum Failed {
    Reading(io::Error),
    Writing(io::Error),
}

impl Failed {
    fn into_error(
        self,
        reading: impl FnOnce(io::Error) -> PumpError,
        writing: impl FnOnce(io::Error) -> PumpError,
    ) -> PumpError {
        match self {
            Failed::Reading(error) => reading(error),
            Failed::Writing(error) => writing(error),
        }
    }
}

/// Writes some of what comes out of a tunnel, from where it lies; polls `idle` while nothing comes. 0 at the end, and
/// when `idle` is done.
async fn carry<W: AsyncWrite + Unpin>(
    input: &mut ReadHalf,
    writer: &mut W,
    mut idle: impl FnMut(Pin<&mut W>, &mut Context<'_>) -> Poll<io::Result<()>>,
) -> Result<usize, Failed> {
    poll_fn(|cx| {
        let Poll::Ready(bytes) = Pin::new(&mut *input).poll_fill_buf(cx) else {
            return idle(Pin::new(writer), cx).map(|done| done.map(|()| 0).map_err(Failed::Writing));
        };
        let bytes = bytes.map_err(Failed::Reading)?;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let written = ready!(Pin::new(&mut *writer).poll_write(cx, bytes)).map_err(Failed::Writing)?;
        if written == 0 {
            return Poll::Ready(Err(Failed::Writing(io::ErrorKind::WriteZero.into())));
        }
        Pin::new(&mut *input).consume(written);
        Poll::Ready(Ok(written))
    })
    .await
}
