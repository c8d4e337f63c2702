//! Those who feed and read the world's streams, and check what they get.

use std::{future::poll_fn, pin::Pin, sync::Arc};

use futures_core::Stream as _;
use futures_sink::Sink;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    chance::{Apart, Patience, dawdle, endure, one_in, yield_often},
    ledger::{Places, Seen, refused_send, seen},
    world::{Conn, World},
};
use crate::rpc::{
    errors::{RecvError, SendError},
    rx::Rx,
    tx::Tx,
    waiters::lock,
};

/// An element, which knows its place.
pub(super) trait Element: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The element at a place of a stream, of at most so many bytes.
    fn new(stream: usize, place: u32, room: usize) -> Self;

    /// Whether it belongs there.
    fn is_at(&self, stream: usize, place: u32) -> bool;
}

#[derive(Serialize, Deserialize)]
pub(super) struct Item {
    stream: u64,
    place: u32,
    padding: Vec<u8>,
}

impl Item {
    /// Bytes of an item beside its padding, at most.
    const HEAD: usize = 8;
}

impl Element for Item {
    fn new(stream: usize, place: u32, room: usize) -> Self {
        let most = room.saturating_sub(Item::HEAD);
        let padding = if one_in(3) { most } else { fastrand::usize(..=most.min(100)) };
        Item { stream: stream as u64, place, padding: vec![place as u8; padding] }
    }

    fn is_at(&self, stream: usize, place: u32) -> bool {
        self.stream == stream as u64
            && self.place == place
            && self.padding.iter().all(|byte| *byte == place as u8)
    }
}

/// An element of zero bytes.
impl Element for () {
    fn new(_: usize, _: u32, _: usize) -> Self {}

    fn is_at(&self, _: usize, _: u32) -> bool {
        true
    }
}

/// The place where a handle of a stream is held.
#[derive(Clone)]
pub(super) struct At {
    pub(super) world: Arc<World>,
    /// The connection in the ledger, and its side.
    pub(super) record: usize,
    pub(super) side: usize,
    /// In the ledger.
    pub(super) stream: usize,
}

impl At {
    pub(super) fn new(world: &Arc<World>, conn: &Conn, stream: usize) -> Self {
        At { world: Arc::clone(world), record: conn.record, side: conn.side, stream }
    }

    /// Its reader is given away, and not to be seen again.
    pub(super) fn reader_is_gone(&self) {
        self.with(|stream| stream.rx_gone = true);
    }

    /// Whether an element waits to be read.
    pub(super) fn waits(&self) -> bool {
        self.with(|stream| stream.sent > stream.received)
    }

    fn with<T>(&self, change: impl FnOnce(&mut super::ledger::Stream) -> T) -> T {
        change(&mut lock(&self.world.ledger).streams[self.stream])
    }
}

/// Holds a `Tx`.
pub(super) struct Feeder<T> {
    at: At,
    tx: Option<Tx<T>>,
}

impl<T: Element> Feeder<T> {
    pub(super) fn new(at: At, tx: Tx<T>) -> Self {
        Feeder { at, tx: Some(tx) }
    }

    /// Gives the handle away, to be passed on.
    pub(super) fn into_tx(mut self) -> Option<Tx<T>> {
        self.tx.take()
    }

    /// Sends up to `most` elements, and drops the handle.
    pub(super) async fn run(mut self, most: u32) {
        for _ in 0..fastrand::u32(..=most) {
            dawdle().await;
            if !self.one().await {
                return;
            }
        }
    }

    /// Sends one element, or tries. Whether another one may be sent.
    pub(super) async fn one(&mut self) -> bool {
        let _waiting = self.at.world.wait(format!("the feeder of stream {}", self.at.stream));
        let (window, longest) = self.at.world.limits(self.at.world.link_of(self.at.record));
        let oversized = size_of::<T>() > 0 && one_in(40);
        let place = self.at.with(|stream| {
            stream.oversized |= oversized;
            stream.sent
        });
        let room = if oversized { window + 2 * Item::HEAD } else { window.min(longest) };
        let mut element = T::new(self.at.stream, place, room);
        if oversized {
            while !one_in(2) {
                element = T::new(self.at.stream, place, room);
            }
        }
        let Some(tx) = &mut self.tx else { return false };
        match fastrand::u32(..6) {
            0 if !oversized => {
                // "When the future is dropped before it is done, the value was not sent."
                match endure(Patience::Polls(fastrand::u32(..3)), tx.send(element)).await {
                    Some(sent) => self.sent(sent),
                    None => true,
                }
            }
            1 => {
                let sunk = self.sink(element).await;
                self.sent(sunk)
            }
            2 if !oversized => {
                let second = T::new(self.at.stream, place + 1, 0);
                self.at.with(|stream| {
                    stream.pairs.insert(place);
                    stream.maybe = 2;
                });
                let (element, tx) = (tx.send(element), &*tx);
                let later = async {
                    yield_often(fastrand::u32(..30)).await; // until the first one waits, and later
                    tx.send(second).await
                };
                let sent = tokio::join!(Apart::new(element), Apart::new(later));
                self.at.with(|stream| stream.maybe = 0);
                let goes_on = self.sent(sent.0);
                self.sent(sent.1) && goes_on
            }
            _ => {
                let sent = tx.send(element).await;
                self.sent(sent)
            }
        }
    }

    async fn sink(&mut self, element: T) -> Result<(), SendError> {
        let Some(tx) = &mut self.tx else { return Ok(()) };
        poll_fn(|cx| Pin::new(&mut *tx).poll_ready(cx)).await?;
        Pin::new(&mut *tx).start_send(element)?;
        self.at.with(|stream| stream.maybe = 1);
        let flushed = poll_fn(|cx| Pin::new(&mut *tx).poll_flush(cx)).await;
        self.at.with(|stream| stream.maybe = flushed.is_err().into());
        flushed
    }

    fn sent(&self, sent: Result<(), SendError>) -> bool {
        let At { world, record, side, stream } = &self.at;
        let Err(error) = sent else {
            let place = self.at.with(|stream| {
                stream.sent += 1;
                stream.sent
            });
            world.note(|| format!("stream {stream}: {place} sent"));
            return true;
        };
        world.note(|| format!("stream {stream}: sender: {error:?}"));
        let goes_on = matches!(error, SendError::Refused(_));
        match self.at.with(|stream| refused_send(stream, error)) {
            Ok(None) => goes_on,
            Ok(Some(end)) => {
                world.ended(*record, *side, &end);
                false
            }
            Err(what) => {
                world.fail(format!("stream {stream}: {what}"));
                false
            }
        }
    }
}

impl<T> Drop for Feeder<T> {
    fn drop(&mut self) {
        if let Some(tx) = self.tx.take() {
            self.at.world.note(|| format!("stream {}: its sender is dropped", self.at.stream));
            self.at.with(|stream| stream.tx_gone = true);
            drop(tx);
        }
    }
}

/// Holds an `Rx`.
pub(super) struct Reader<T> {
    at: At,
    rx: Option<Rx<T>>,
}

impl<T: Element> Reader<T> {
    pub(super) fn new(at: At, rx: Rx<T>) -> Self {
        Reader { at, rx: Some(rx) }
    }

    /// Gives the handle away, to be passed on.
    pub(super) fn into_rx(mut self) -> Option<Rx<T>> {
        self.rx.take()
    }

    /// Reads to the end, or stops before it, and returns how many elements there have been on the stream.
    pub(super) async fn run(mut self) -> u32 {
        let most = if one_in(5) { fastrand::u32(..6) } else { u32::MAX };
        for _ in 0..most {
            dawdle().await;
            if one_in(12) {
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            }
            if !self.one().await {
                break;
            }
        }
        self.at.with(|stream| stream.received)
    }

    /// Reads one element, or tries. Whether there may be another one.
    pub(super) async fn one(&mut self) -> bool {
        let _waiting = self.at.world.wait(format!("the reader of stream {}", self.at.stream));
        let Some(rx) = &mut self.rx else { return false };
        let received = match fastrand::u32(..6) {
            // "No value is lost when the future is dropped."
            0 => match endure(Patience::Polls(1), rx.recv()).await {
                Some(received) => received,
                None => return true,
            },
            1 => poll_fn(|cx| Pin::new(&mut *rx).poll_next(cx)).await.transpose(),
            _ => rx.recv().await,
        };
        self.received(received)
    }

    fn received(&self, received: Result<Option<T>, RecvError>) -> bool {
        let At { world, record, side, stream } = &self.at;
        let seen = match received {
            Ok(Some(element)) => {
                let places = self.at.with(super::ledger::Stream::receive);
                world.note(|| format!("stream {stream}: {places:?} received"));
                let belongs = match places {
                    Places::One(place) => element.is_at(*stream, place),
                    Places::Pair(place) => {
                        let swapped = element.is_at(*stream, place + 1);
                        self.at.with(|stream| stream.swapped = swapped);
                        swapped || element.is_at(*stream, place)
                    }
                };
                if !belongs {
                    world.fail(format!("stream {stream}: what came in {places:?} belongs elsewhere"));
                }
                return true;
            }
            Ok(None) => Ok(Seen::Closed),
            Err(error) => seen(error),
        };
        world.note(|| format!("stream {stream}: reader: {seen:?}"));
        match seen {
            Ok(seen) => {
                if let Seen::Ended(end) = &seen {
                    world.ended(*record, *side, end);
                    self.at.with(|stream| stream.cut_off = true);
                }
                self.at.with(|stream| stream.seen = Some(seen));
            }
            Err(what) => world.fail(format!("stream {stream}: {what}")),
        }
        false
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        if let Some(rx) = self.rx.take() {
            self.at.world.note(|| format!("stream {}: its reader is dropped", self.at.stream));
            self.at.with(|stream| stream.rx_gone = true);
            drop(rx);
        }
    }
}
