//! Memory of a link that is filled before it is sent.

use std::{
    fmt,
    future::poll_fn,
    ops::{Deref, DerefMut},
};

use super::{
    block::block_on_link,
    bytes::Bytes,
    connection::Connection,
    errors::{Obstacle, Refusal, sort},
    hub::Place,
};
use crate::{
    error::LinkEnd,
    link::{SendFault, lending::Fill},
};

/// Memory of a link, to be filled, and sent without a copy. Made by [`Connection::loan`].
///
/// Over shared memory it is a block of this side's arena: fill it, [shrink](Loan::truncate) it to what was used,
/// [freeze](Loan::freeze) it, and pass the [`Bytes`] in a call or on a stream of the same link. The peer gets the very
/// memory. On other links it is memory of this process, and copied when it is sent.
///
/// It holds whatever was there before: what this side has sent earlier, or zeros. The peer can read it all the time, so it
/// is no place for secrets that it is not to have.
///
/// Dropped, it is given back.
///
/// ```
/// use adjoin::{Bytes, Options, local};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # let (connection, _peer) = local::pair(Options::new(), Options::new());
/// let mut frame = connection.loan(1 << 20).await?;
/// frame[..5].copy_from_slice(b"pixel");
/// frame.truncate(5);
/// let frame: Bytes = frame.freeze(); // an argument of a call, or an element of a stream
/// assert_eq!(&frame[..], b"pixel");
/// # Ok::<_, adjoin::LoanError>(()) }).unwrap();
/// ```
#[must_use = "a loan that is dropped is given back"]
pub struct Loan {
    memory: Memory,
    len: usize,
}

enum Memory {
    Private(Vec<u8>),
    Link(Box<dyn Fill>),
}

impl Loan {
    /// Shortens it to `len` bytes. Without effect if it is not longer. The rest is given back when it is
    /// [frozen](Loan::freeze).
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Ends the filling. The memory is given back when the last handle is dropped and the peer has read it.
    ///
    /// While a call or an element that it was passed in is with the peer, it is copied where it is passed once more.
    pub fn freeze(self) -> Bytes {
        let Loan { memory, len } = self;
        match memory {
            Memory::Private(mut bytes) => {
                bytes.truncate(len);
                bytes.into()
            }
            Memory::Link(fill) => fill.freeze(len).into(),
        }
    }
}

impl Deref for Loan {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let bytes = match &self.memory {
            Memory::Private(bytes) => bytes,
            Memory::Link(fill) => fill.bytes(),
        };
        bytes.get(..self.len).unwrap_or_default()
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut [u8] {
        let bytes = match &mut self.memory {
            Memory::Private(bytes) => bytes,
            Memory::Link(fill) => fill.bytes_mut(),
        };
        bytes.get_mut(..self.len).unwrap_or_default()
    }
}

impl fmt::Debug for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Why memory was not lent.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoanError {
    /// It is longer than the link ever lends, or the system has no memory for it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The link is gone.
    #[error(transparent)]
    Ended(#[from] LinkEnd),
}

impl Connection {
    /// Lends memory of the link for `len` bytes, to be filled and sent without a copy: see [`Loan`].
    ///
    /// Waits while as much is lent as can be: over shared memory half of the arena
    /// ([`Settings::arena_bytes`](crate::Settings::arena_bytes)). That keeps no message waiting. First come, first served: a
    /// longer loan that is waited for keeps shorter ones waiting behind it, and so does a future of this that was polled and is
    /// then neither polled on nor dropped.
    ///
    /// Costs, over shared memory, a short lock and an allocation, and a system call where memory is used for the first
    /// time.
    ///
    /// # Errors
    ///
    /// [`LoanError::Refused`] when it is longer than the link ever lends, or than a payload can be.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn loan(&self, len: usize) -> Result<Loan, LoanError> {
        self.check_loan(len)?;
        let mut place = Place::default();
        let lent = poll_fn(|cx| self.hub().poll_lend(cx, &mut place, len)).await;
        match lent {
            Ok(Some(fill)) => Ok(Loan { memory: Memory::Link(fill), len }),
            Ok(None) => Ok(Loan { memory: Memory::Private(vec![0; len]), len }),
            Err(fault) => Err(refused(fault)),
        }
    }

    /// As [`loan`](Connection::loan), if it need not wait; `None` if it would have to, also behind others that wait.
    ///
    /// # Errors
    ///
    /// As [`loan`](Connection::loan).
    pub fn try_loan(&self, len: usize) -> Result<Option<Loan>, LoanError> {
        self.check_loan(len)?;
        match self.hub().lend(len) {
            Ok(Some(fill)) => Ok(Some(Loan { memory: Memory::Link(fill), len })),
            Ok(None) => Ok(Some(Loan { memory: Memory::Private(vec![0; len]), len })),
            Err(SendFault::Full) => Ok(None),
            Err(fault) => Err(refused(fault)),
        }
    }

    /// As [`loan`](Connection::loan), from a thread outside of any runtime.
    ///
    /// # Errors
    ///
    /// As [`loan`](Connection::loan).
    ///
    /// # Deadlocks
    ///
    /// The thread must not be the one that runs the link's driver, which is the case for a thread of a current-thread
    /// runtime.
    pub fn blocking_loan(&self, len: usize) -> Result<Loan, LoanError> {
        block_on_link(self.hub(), self.loan(len))
    }

    /// How many blocks of this side's arena are in use: lent, or with the peer. 0 on links without shared memory.
    ///
    /// # Errors
    ///
    /// The link is gone.
    pub fn blocks_in_use(&self) -> Result<usize, LinkEnd> {
        self.hub().blocks_in_use()
    }

    fn check_loan(&self, len: usize) -> Result<(), LoanError> {
        let limit = self.hub().limits.max_payload_size as usize;
        if len > limit { Err(Refusal::PayloadTooLarge { len, limit }.into()) } else { Ok(()) }
    }
}

fn refused(fault: SendFault) -> LoanError {
    if let SendFault::TooLarge { len, limit, .. } = fault {
        return Refusal::LoanTooLarge { len, limit }.into();
    }
    match sort::<LoanError>(fault) {
        Obstacle::Final(error) => error,
        Obstacle::Blocked(_) => LoanError::Ended(LinkEnd::Closed), // which the hub waits for
    }
}
