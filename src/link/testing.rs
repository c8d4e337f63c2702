//! What the tests of every link need: bodies, a sink that remembers, and the driver's two steps.

use std::{future::poll_fn, task::Poll};

use super::{
    Body, Brought, ChannelRef, EncodeFault, Encoder, Head, Message, Parts, Publish, SendFault, Sink,
    codec::encode_head,
};
use crate::error::LinkEnd;

/// A payload that is encoded already.
pub(crate) struct Raw<'a>(pub(crate) &'a [u8]);

impl Body for Raw<'_> {
    fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), EncodeFault> {
        out.extend(self.0);
        Ok(())
    }
}

/// A Data message without its payload.
pub(crate) const DATA: Head<'static> = Head::Data { conn_id: 0, channel_id: 1 };

/// One message, encoded, for comparison. A payload is left out where the kind has none.
pub(crate) fn encoded(head: &Head<'_>, channels: &[ChannelRef], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_head(head, channels, payload.len(), &mut out);
    if matches!(head, Head::Request { .. } | Head::Response { .. } | Head::Data { .. }) {
        out.extend(payload);
    }
    out
}

/// One message without channels, encoded.
pub(crate) fn message(head: &Head<'_>, payload: &[u8]) -> Vec<u8> {
    encoded(head, &[], payload)
}

/// Remembers what it was given, encoded, until it has as many as it wants.
pub(crate) struct Collector {
    pub(crate) messages: Vec<Vec<u8>>,
    pub(crate) wants: usize,
}

impl Collector {
    /// Never says stop.
    pub(crate) fn all() -> Self {
        Collector { messages: Vec::new(), wants: usize::MAX }
    }
}

impl Brought<'_> {
    /// A copy.
    pub(crate) fn to_vec(self) -> Vec<u8> {
        match self {
            Brought::Here(bytes) => bytes.to_vec(),
            Brought::Shared(bytes) => bytes.to_vec(),
            Brought::Vector(vector) => vector.borrow().parts().concat(),
            Brought::TooLong(_) => Vec::new(),
        }
    }
}

impl Sink for Collector {
    fn message(&mut self, message: Message<'_>) -> bool {
        self.messages.push(encoded(&message.head, message.channels, &message.payload.to_vec()));
        self.messages.len() < self.wants
    }
}

impl Parts {
    /// Sends one message and publishes it.
    pub(crate) fn say(&mut self, head: &Head<'_>, payload: &[u8]) -> Result<Publish, SendFault> {
        let sent = self.sender.send(head, &mut Raw(payload))?;
        assert_eq!(sent, payload.len());
        Ok(self.sender.publish())
    }

    /// Flushes as a driver does.
    pub(crate) async fn flush(&mut self) -> Result<(), LinkEnd> {
        poll_fn(|cx| self.sender.poll_flush(cx)).await
    }

    /// Receives as a driver does.
    pub(crate) async fn receive(&mut self, sink: &mut Collector) -> Result<usize, LinkEnd> {
        poll_fn(|cx| self.receiver.poll_receive(cx, sink)).await
    }

    /// Sends `payload` as soon as there is room for it; the last of it may still have to be flushed.
    pub(crate) async fn push(&mut self, payload: &[u8]) -> Result<(), LinkEnd> {
        poll_fn(|cx| {
            loop {
                let _ = self.sender.poll_flush(cx)?;
                match self.say(&DATA, payload) {
                    Ok(_) => return Poll::Ready(Ok(())),
                    Err(SendFault::Full) if self.sender.has_room()? => {}
                    Err(SendFault::Full) => return Poll::Pending,
                    Err(SendFault::Ended(end)) => return Poll::Ready(Err(end)),
                    Err(fault) => panic!("{fault:?}"),
                }
            }
        })
        .await
    }
}
