//! The wire of byte streams, written a second time: for raw peers, and to hold the library's own against.
//!
//! Types of protocol section 2 as postcard's derive encodes them, and frames by the `cobs` crate.

use serde::{Deserialize, Serialize};

/// A message. Order of variants and fields is the wire order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    Hello(Hello),
    Connect { request_id: u64, metadata: Metadata },
    Accept { request_id: u64, conn_id: u64, metadata: Metadata },
    Reject { request_id: u64, reason: String, metadata: Metadata },
    Goodbye { conn_id: u64, reason: String },
    Request(Request),
    Response { conn_id: u64, request_id: u64, metadata: Metadata, channels: Vec<u64>, payload: Vec<u8> },
    Cancel { conn_id: u64, request_id: u64 },
    Data { conn_id: u64, channel_id: u64, payload: Vec<u8> },
    Close { conn_id: u64, channel_id: u64 },
    Reset { conn_id: u64, channel_id: u64 },
    Credit { conn_id: u64, channel_id: u64, bytes: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hello {
    V1,
    V2 { max_payload_size: u32, initial_channel_credit: u32 },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub conn_id: u64,
    pub request_id: u64,
    pub method_id: u64,
    pub metadata: Metadata,
    pub channels: Vec<u64>,
    pub payload: Vec<u8>,
}

pub type Metadata = Vec<(String, MetadataValue)>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetadataValue {
    String(String),
    Bytes(Vec<u8>),
    U64(u64),
}

impl Message {
    /// The greeting of a peer with the default limits.
    pub fn hello() -> Self {
        Message::Hello(Hello::V2 { max_payload_size: 1 << 20, initial_channel_credit: 64 << 10 })
    }

    /// Appends the message's frame, the zero at its end included.
    pub fn push(&self, frames: &mut Vec<u8>) {
        let message = postcard::to_extend(self, Vec::new()).unwrap();
        let start = frames.len();
        frames.resize(start + cobs::max_encoding_length(message.len()), 0);
        let len = cobs::encode(&message, &mut frames[start..]);
        frames.truncate(start + len);
        frames.push(0);
    }

    /// The message's frame, the zero at its end included.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        self.push(&mut frame);
        frame
    }

    /// The message of a frame, without the zero at its end. The frame is overwritten.
    pub fn of_frame(frame: &mut [u8]) -> Self {
        let len = cobs::decode_in_place(frame).unwrap();
        postcard::from_bytes(&frame[..len]).unwrap()
    }
}
