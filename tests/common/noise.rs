//! Random bytes that both ends of a stream can make, so that nobody has to hold them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Random bytes, each run of them marked with where it stands, so that no two are alike.
pub struct Noise {
    run: Vec<u8>,
    runs: u64,
    at: usize,
    pub left: u64,
}

impl Noise {
    pub fn of(left: u64) -> Self {
        let mut run = vec![0; 1 << 20 | 13];
        fastrand::Rng::with_seed(7).fill(&mut run);
        run[..8].copy_from_slice(&0_u64.to_le_bytes());
        Noise { run, runs: 0, at: 0, left }
    }

    pub fn endless() -> Self {
        Self::of(u64::MAX)
    }

    /// The next bytes, at most so many.
    pub fn next(&mut self, most: usize) -> &[u8] {
        if self.at == self.run.len() {
            self.runs += 1;
            self.at = 0;
            self.run[..8].copy_from_slice(&self.runs.to_le_bytes());
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let (start, end) = (self.at, self.run.len().min(self.at + most.min(left)));
        self.at = end;
        self.left -= (end - start) as u64;
        &self.run[start..end]
    }
}

impl AsyncRead for Noise {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let most = into.remaining();
        into.put_slice(self.next(most));
        Poll::Ready(Ok(()))
    }
}

/// Takes what a `Noise` would say, and nothing else.
pub struct Check(pub Noise);

impl AsyncWrite for Check {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let expected = self.0.next(bytes.len());
        let len = expected.len();
        let same = *expected == bytes[..len];
        Poll::Ready(if same { Ok(len) } else { Err(io::Error::other("other bytes than were sent")) })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
