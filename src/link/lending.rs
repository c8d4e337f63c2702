//! Memory of a link that applications fill, so that it need not be copied when it is sent.

use bytes::Bytes;

use super::SendFault;
use crate::error::LinkEnd;

/// A link's memory, to be lent to the application.
pub(crate) trait Lending: Send + Sync {
    /// Lends memory for `len` bytes.
    ///
    /// # Errors
    ///
    /// As a message that is sent: `Full` where memory has to come back first.
    fn lend(&self, len: usize) -> Result<Box<dyn Fill>, SendFault>;

    /// Bytes of the longest loan.
    fn max_len(&self) -> usize;

    /// Says that somebody waits for a loan of `len` bytes, the first of those that wait. The caller tries once more
    /// afterwards; what comes back later than that wakes the driver, or is told by [`on_return`](Lending::on_return).
    /// Until [`stop_waiting`](Lending::stop_waiting), messages leave the memory to it where they can.
    fn await_loan(&self, len: usize);

    /// Whether the one who waits should try again. If so, it has to say anew that it waits.
    ///
    /// # Errors
    ///
    /// The peer wrote nonsense.
    fn has_loan(&self) -> Result<bool, LinkEnd>;

    /// Says that nobody waits any more.
    fn stop_waiting(&self);

    /// What is to be called when this side gives memory back, while somebody waits for it: with a loan that found none,
    /// or with a message for which [`Sender::has_room`](super::Sender::has_room) said `false`. Once, and it may be called
    /// while a message is encoded.
    fn on_return(&self, returned: Box<dyn Fn() + Send + Sync>);

    /// How many blocks are with the application or with the peer.
    ///
    /// # Errors
    ///
    /// The peer wrote nonsense.
    fn blocks_in_use(&self) -> Result<usize, LinkEnd>;
}

/// Memory that was lent, while it is filled. Given back when it is dropped.
pub(crate) trait Fill: Send + Sync {
    /// What was asked for, at least.
    fn bytes(&self) -> &[u8];

    /// The same, to be written.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// The first `len` bytes, which nobody writes any more. What is behind them is given back at once; the memory is given back when the last handle is dropped and
    /// the peer has it no more.
    fn freeze(self: Box<Self>, len: usize) -> Bytes;
}
