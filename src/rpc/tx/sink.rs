//! `Tx` as a `Sink`.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use futures_sink::Sink;
use serde::Serialize;

use super::{
    Tx, close,
    element::{encode_plain, encoded, ended, poll_element},
    wait::Wait,
};
use crate::{link::Encoder, rpc::errors::SendError};

/// What `start_send` takes is sent at once if there is room. If there is none, it is encoded and held here, one value at
/// most, until `poll_ready` or `poll_flush` has sent it; dropped before that, it is lost, and a [`send`](Tx::send) on
/// the same handle overtakes it. So flush, or close, behind the last value, as `futures`' `SinkExt::send` does.
///
/// - `poll_ready`: ready when nothing is held any more.
/// - `poll_flush`: ready when the link has taken everything, which makes it visible to the peer. Not: when the receiver
///   has.
/// - `poll_close`: flushes, and closes the stream: the receiver comes to its end. What is sent later fails with
///   [`SendError::Closed`].
///
/// # Panics
///
/// `start_send` panics when a value is held: it takes one behind each `poll_ready` that was ready.
impl<T: Serialize + 'static> Sink<T> for Tx<T> {
    type Error = SendError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let this = &mut *self;
        let Some(element) = &this.held else {
            return Poll::Ready(ended(&this.channel).map_or(Ok(()), Err));
        };
        let mut encode = |out: &mut Encoder<'_>| {
            out.extend(element);
            Ok(())
        };
        let sent = ready!(poll_element(&this.channel, &this.turn, cx, &mut this.wait, &mut encode));
        this.held = None;
        Poll::Ready(sent)
    }

    fn start_send(mut self: Pin<&mut Self>, value: T) -> Result<(), SendError> {
        assert!(self.held.is_none(), "start_send without a poll_ready that was ready");
        let mut encode = |out: &mut Encoder<'_>| encode_plain(&value, out);
        let mut cx = Context::from_waker(Waker::noop());
        match poll_element(&self.channel, &self.turn, &mut cx, &mut Wait::default(), &mut encode) {
            Poll::Ready(sent) => sent,
            Poll::Pending => {
                self.held = Some(encoded(&mut encode)?);
                Ok(())
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll_ready(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        ready!(self.as_mut().poll_flush(cx))?;
        close(&self.channel);
        Poll::Ready(Ok(()))
    }
}
