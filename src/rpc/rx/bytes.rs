//! A stream of byte vectors, read as bytes: in whatever parts, and where they lie.

use std::{
    ops::Range,
    task::{Context, Poll},
};

use serde::Serializer;

use super::Rx;
use crate::rpc::{
    elements::{Elements, Reading},
    errors::{RecvError, TryRecvError},
    wire::decode_bytes,
};

/// What is left of an element that is read in parts: its place in the batch that the reader has.
#[derive(Debug, Default)]
pub(crate) struct Part(Range<usize>);

impl Rx<Vec<u8>> {
    /// Polls until `part` has bytes, and returns them; none at the stream's end.
    pub(crate) fn poll_part(
        &mut self,
        cx: &mut Context<'_>,
        part: &mut Part,
    ) -> Poll<Result<&[u8], RecvError>> {
        while part.0.is_empty() {
            if self.turn.is_over(cx) {
                return Poll::Pending;
            }
            let place = match self.advance(Some(cx.waker())) {
                Ok(place) => place,
                Err(TryRecvError::Empty) => return Poll::Pending,
                Err(TryRecvError::Closed) => return Poll::Ready(Ok(&[])),
                Err(TryRecvError::Failed(error)) => return Poll::Ready(Err(error)),
            };
            let (end, nesting) = (place.end, self.max_nesting());
            match decode_bytes(self.bytes(place), nesting) {
                // They stand at the end of their element.
                Ok(bytes) => part.0 = end - bytes.len()..end,
                Err(why) => return Poll::Ready(Err(self.invalid(why))),
            }
        }
        Poll::Ready(Ok(self.bytes(part.0.clone())))
    }

    /// Takes bytes of `part`, at most what is left of it.
    pub(crate) fn consume(&mut self, part: &mut Part, bytes: usize) {
        part.0.start = part.0.start.saturating_add(bytes).min(part.0.end);
        if part.0.is_empty() {
            self.report_if_due();
        }
    }

    /// As `Serialize`, of a stream of which a part was read.
    pub(crate) fn serialize_from<S: Serializer>(
        &self,
        part: &Part,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        self.bind(serializer, |reading| unread(reading, part))
    }
}

/// What the reader has taken out of the queue, without the bytes in front of `part`.
fn unread(reading: &Reading, part: &Part) -> Elements {
    let mut unread = Elements::default();
    let rest = reading.bytes(part.0.clone());
    if !rest.is_empty() {
        // Writing to memory cannot fail.
        let element = postcard::to_extend(serde_bytes::Bytes::new(rest), Vec::new());
        unread.push(&element.unwrap_or_default());
    }
    unread.append(&mut reading.unread());
    unread
}
