//! A stream of byte vectors, written as bytes: without a vector.

use std::task::{Context, Poll};

use serde::Serialize;

use super::{
    Tx, close,
    element::{ended, poll_element},
};
use crate::{
    link::{EncodeFault, Encoder},
    rpc::errors::SendError,
};

impl Tx<Vec<u8>> {
    /// Sends one element of these bytes. While it is pending nothing of them was sent.
    pub(crate) fn poll_send_bytes(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<(), SendError>> {
        let mut encode = |out: &mut Encoder<'_>| {
            let mut serializer = postcard::Serializer { output: out };
            serde_bytes::Bytes::new(bytes).serialize(&mut serializer).map_err(EncodeFault::Serialize)
        };
        poll_element(&self.channel, &self.turn, cx, &mut self.wait, &mut encode)
    }

    /// The most bytes that an element can have on the stream's link; as many as one likes within the process.
    pub(crate) fn longest(&self) -> usize {
        self.channel.direct().map_or(usize::MAX, |remote| {
            let limit = remote.window.min(remote.hub.limits.max_payload_size) as usize;
            limit.saturating_sub(LENGTH).max(1)
        })
    }

    /// Ready when the stream is over, and how it ended: [`SendError::Closed`] when the receiver is gone.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<SendError> {
        if ended(&self.channel).is_none() {
            self.wait.on(&self.channel, cx.waker());
        }
        ended(&self.channel).map_or(Poll::Pending, Poll::Ready)
    }

    /// Closes the stream, as its drop would.
    pub(crate) fn close(&mut self) {
        close(&self.channel);
    }
}

/// Bytes in front of those of an element, at most.
const LENGTH: usize = 5;
