//! What was sent while both halves were in this process follows the half that was passed.

use std::{collections::VecDeque, future::poll_fn, sync::Arc, task::Poll};

use super::{
    element::{ended, poll_send_remote},
    wait::Wait,
};
use crate::{
    link::Encoder,
    rpc::{
        channel::{Channel, End},
        connection::Connection,
        elements::{Elements, Reading},
        errors::SendError,
    },
};

/// Sends elements that were queued before their channel was remote, then those that were queued meanwhile;
/// then the channel is direct. Keeps the link open until all of them are out.
pub(crate) async fn pump(channel: Arc<Channel>, queued: Vec<Elements>, _keeps: Connection) {
    let mut batches = VecDeque::from(queued);
    loop {
        let Some(batch) = batches.pop_front().or_else(|| channel.take_queue()) else {
            return;
        };
        let mut batch = Reading::of(batch);
        while let Some(element) = batch.next() {
            let mut wait = Wait::default();
            let sent = poll_fn(|cx| {
                let Some(remote) = channel.remote() else { return Poll::Ready(Ok(())) };
                if let Some(error) = ended(&channel) {
                    return Poll::Ready(Err(error));
                }
                let mut encode = |out: &mut Encoder<'_>| {
                    out.extend(element);
                    Ok(())
                };
                poll_send_remote(&channel, remote, cx, &mut wait, &mut encode)
            })
            .await;
            if let Err(error) = sent {
                // What the queue took, the link refuses: the sender hears of it with its next element.
                tracing::debug!(%error, "queued elements of a stream were not sent");
                channel.end(match error {
                    SendError::Refused(refusal) => End::Refused(refusal),
                    SendError::Ended(end) => End::Link(end),
                    SendError::Closed => End::Reset,
                });
                if let Some(remote) = channel.remote() {
                    remote.hub.reset_channel(remote);
                }
                return;
            }
            let taken = batch.take_taken();
            channel.report_taken(taken);
        }
    }
}
