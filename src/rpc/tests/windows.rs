//! How wide windows grow, as a peer sees it that always uses up what it was granted.

use super::{RECEIVE, Raw, request, settle};
use crate::{
    link::{ChannelRef, CreditSlot, Head, Parts, codec::decode_message, memory, testing::Collector},
    rpc::{connection::Connection, options::Options},
    settings::Settings,
};

const WINDOW: u32 = 1000;
/// Four channels may grow by 4000 bytes each.
const GROWTH: u32 = 16_000;

/// The peer, which is the initiator and sends on channels that our side reads as fast as they come.
struct Feeder {
    _ours: Connection,
    peer: Parts,
    /// Sent and granted, by channel: 1, 3, and so on.
    channels: Vec<[u64; 2]>,
}

impl Feeder {
    fn new() -> Self {
        let settings = Settings::default().initial_channel_credit(WINDOW).window_growth(GROWTH);
        let (peer, ours) = memory::pair(&settings, &settings);
        let ours = Connection::start(ours, &Options::new().settings(settings).serve(Raw::default()));
        Feeder { _ours: ours, peer, channels: Vec::new() }
    }

    fn send(&mut self, head: &Head<'_>, payload: &[u8], channels: &[ChannelRef]) {
        self.peer.sender.send(head, &mut super::Opening(payload, channels)).expect("there is room");
        let _ = self.peer.sender.publish();
    }

    fn open(&mut self) {
        let id = 2 * self.channels.len() as u64 + 1;
        self.send(&request(&RECEIVE, id), &[1], &[ChannelRef { id, slot: CreditSlot::NONE }]);
        self.channels.push([0, WINDOW.into()]);
    }

    /// Sends all that it may on a channel, in elements of about 250 bytes, and hears what is granted for that.
    async fn use_up(&mut self, channel: usize) {
        let [sent, granted] = self.channels[channel];
        let mut left = (granted - sent) as usize;
        while left > 0 {
            let len = left.min(250);
            let front = if len > 129 { 2 } else { 1 };
            let bytes = vec![1; len - front];
            let element =
                postcard::to_extend(serde_bytes::Bytes::new(&bytes), Vec::new()).expect("memory takes it");
            assert_eq!(element.len(), len);
            self.send(&Head::Data { conn_id: 0, channel_id: 2 * channel as u64 + 1 }, &element, &[]);
            left -= len;
        }
        self.channels[channel][0] = granted;
        settle().await;
        let mut sink = Collector::all();
        while self.peer.receiver.drain(&mut sink).is_ok_and(|messages| messages > 0) {}
        for heard in sink.messages {
            let mut none = Vec::new();
            let message = decode_message(&heard, &mut none).expect("it is a message");
            if let Head::Credit { channel_id, bytes, .. } = message.head {
                self.channels[channel_id as usize / 2][1] += u64::from(bytes);
            }
        }
    }

    /// What a channel may carry beyond what it has carried: the window, and a quarter.
    fn ahead(&self, channel: usize) -> u64 {
        self.channels[channel][1] - self.channels[channel][0]
    }
}

/// Fails, either way, with another number for `SHARE`.
#[tokio::test]
async fn a_window_whose_reader_keeps_up_grows_to_its_share_and_no_further() {
    let mut feeder = Feeder::new();
    feeder.open();
    let mut ahead = Vec::new();
    for _ in 0..6 {
        feeder.use_up(0).await;
        ahead.push(feeder.ahead(0));
    }
    assert_eq!(ahead, [2500, 5000, 6250, 6250, 6250, 6250]);
}

/// Fails where what all have together is not counted, and where what a stream had is not given back at its end.
#[tokio::test]
async fn all_windows_together_grow_by_what_is_allowed_and_those_that_end_make_room() {
    let mut feeder = Feeder::new();
    for channel in 0..6 {
        feeder.open();
        for _ in 0..5 {
            feeder.use_up(channel).await;
        }
    }
    let ahead: Vec<_> = (0..6).map(|channel| feeder.ahead(channel)).collect();
    assert_eq!(ahead, [6250, 6250, 6250, 6250, 1250, 1250]);
    feeder.send(&Head::Close { conn_id: 0, channel_id: 1 }, &[], &[]);
    settle().await;
    for _ in 0..5 {
        feeder.use_up(5).await;
    }
    assert_eq!(feeder.ahead(5), 6250);
}
