//! Messages as a raw peer writes and hears them: the tables of protocol section 2 once more, as types whose
//! derived postcard encoding is the wire. Nothing here comes from the codec that is tested.

use serde::{Deserialize, Serialize};

use crate::{
    link::{Head, Message},
    rpc::method::Method,
};

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Note {
    Hello(Hello),
    Connect {
        request_id: u64,
        metadata: Entries,
    },
    Accept {
        request_id: u64,
        conn_id: u64,
        metadata: Entries,
    },
    Reject {
        request_id: u64,
        reason: Text,
        metadata: Entries,
    },
    Goodbye {
        conn_id: u64,
        reason: Text,
    },
    Request {
        conn_id: u64,
        request_id: u64,
        method_id: u64,
        metadata: Entries,
        channels: Vec<u64>,
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
    },
    Response {
        conn_id: u64,
        request_id: u64,
        metadata: Entries,
        channels: Vec<u64>,
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
    },
    Cancel {
        conn_id: u64,
        request_id: u64,
    },
    Data {
        conn_id: u64,
        channel_id: u64,
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
    },
    Close {
        conn_id: u64,
        channel_id: u64,
    },
    Reset {
        conn_id: u64,
        channel_id: u64,
    },
    Credit {
        conn_id: u64,
        channel_id: u64,
        bytes: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Hello {
    V1 {
        max_payload_size: u32,
        initial_channel_credit: u32,
    },
    V2 {
        max_payload_size: u32,
        initial_channel_credit: u32,
    },
    /// Not in the protocol.
    V3 {
        max_payload_size: u32,
        initial_channel_credit: u32,
    },
}

pub(super) type Entries = Vec<(Text, Value)>;

/// The value of an entry of metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Value {
    String(Text),
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    U64(u64),
    /// Not in the protocol.
    Fourth(u8),
}

/// What stands where the protocol has a String: a raw peer need not write text there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Text(#[serde(with = "serde_bytes")] pub(super) Vec<u8>);

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text(text.as_bytes().to_vec())
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl Note {
    pub(super) fn request(conn_id: u64, request_id: u64, method: &Method, payload: &[u8]) -> Self {
        let (metadata, channels, payload) = (Vec::new(), Vec::new(), payload.to_vec());
        Note::Request { conn_id, request_id, method_id: method.id.get(), metadata, channels, payload }
    }

    pub(super) fn response(conn_id: u64, request_id: u64, payload: &[u8]) -> Self {
        let (metadata, channels, payload) = (Vec::new(), Vec::new(), payload.to_vec());
        Note::Response { conn_id, request_id, metadata, channels, payload }
    }

    pub(super) fn data(conn_id: u64, channel_id: u64, payload: &[u8]) -> Self {
        Note::Data { conn_id, channel_id, payload: payload.to_vec() }
    }

    pub(super) fn goodbye(conn_id: u64, reason: &str) -> Self {
        Note::Goodbye { conn_id, reason: reason.into() }
    }

    /// The same Request or Response, naming channels.
    pub(super) fn naming(mut self, ids: &[u64]) -> Self {
        match &mut self {
            Note::Request { channels, .. } | Note::Response { channels, .. } => *channels = ids.to_vec(),
            other => panic!("{other:?} has no channels"),
        }
        self
    }

    /// The same message with metadata.
    pub(super) fn with(mut self, entries: Entries) -> Self {
        match &mut self {
            Note::Connect { metadata, .. }
            | Note::Accept { metadata, .. }
            | Note::Reject { metadata, .. }
            | Note::Request { metadata, .. }
            | Note::Response { metadata, .. } => *metadata = entries,
            other => panic!("{other:?} has no metadata"),
        }
        self
    }

    /// Its bytes on a byte stream, without the frame.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        postcard::to_extend(self, Vec::new()).expect("a note has an encoding")
    }

    /// Reads what [`to_bytes`](Note::to_bytes) wrote, or our side did.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        match postcard::take_from_bytes(bytes) {
            Ok((note, [])) => note,
            other => panic!("our side wrote {bytes:?}: {other:?}"),
        }
    }

    /// Takes the message apart as links want it: head, channels, payload.
    pub(super) fn parts<T>(&self, then: impl FnOnce(&Head<'_>, &[u64], &[u8]) -> T) -> T {
        match self {
            &Note::Hello(
                Hello::V1 { max_payload_size, initial_channel_credit }
                | Hello::V2 { max_payload_size, initial_channel_credit }
                | Hello::V3 { max_payload_size, initial_channel_credit },
            ) => then(&Head::Hello { max_payload_size, initial_channel_credit }, &[], &[]),
            Note::Connect { request_id, metadata } => {
                let (request_id, metadata) = (*request_id, &encoded(metadata)[..]);
                then(&Head::Connect { request_id, metadata }, &[], &[])
            }
            Note::Accept { request_id, conn_id, metadata } => {
                let (request_id, conn_id, metadata) = (*request_id, *conn_id, &encoded(metadata)[..]);
                then(&Head::Accept { request_id, conn_id, metadata }, &[], &[])
            }
            Note::Reject { request_id, reason, metadata } => {
                let (request_id, metadata) = (*request_id, &encoded(metadata)[..]);
                then(&Head::Reject { request_id, reason: text(reason), metadata }, &[], &[])
            }
            Note::Goodbye { conn_id, reason } => {
                then(&Head::Goodbye { conn_id: *conn_id, reason: text(reason) }, &[], &[])
            }
            Note::Request { conn_id, request_id, method_id, metadata, channels, payload } => {
                let (conn_id, request_id, method_id) = (*conn_id, *request_id, *method_id);
                let metadata = &encoded(metadata)[..];
                then(&Head::Request { conn_id, request_id, method_id, metadata }, channels, payload)
            }
            Note::Response { conn_id, request_id, metadata, channels, payload } => {
                let (conn_id, request_id, metadata) = (*conn_id, *request_id, &encoded(metadata)[..]);
                then(&Head::Response { conn_id, request_id, metadata }, channels, payload)
            }
            &Note::Cancel { conn_id, request_id } => then(&Head::Cancel { conn_id, request_id }, &[], &[]),
            Note::Data { conn_id, channel_id, payload } => {
                then(&Head::Data { conn_id: *conn_id, channel_id: *channel_id }, &[], payload)
            }
            &Note::Close { conn_id, channel_id } => then(&Head::Close { conn_id, channel_id }, &[], &[]),
            &Note::Reset { conn_id, channel_id } => then(&Head::Reset { conn_id, channel_id }, &[], &[]),
            &Note::Credit { conn_id, channel_id, bytes } => {
                then(&Head::Credit { conn_id, channel_id, bytes }, &[], &[])
            }
        }
    }
}

impl From<&Message<'_>> for Note {
    fn from(message: &Message<'_>) -> Self {
        let channels = message.channels.iter().map(|channel| channel.id).collect();
        let payload = message.payload.to_vec();
        match message.head {
            Head::Hello { max_payload_size, initial_channel_credit } => {
                Note::Hello(Hello::V2 { max_payload_size, initial_channel_credit })
            }
            Head::Connect { request_id, metadata } => {
                Note::Connect { request_id, metadata: decoded(metadata) }
            }
            Head::Accept { request_id, conn_id, metadata } => {
                Note::Accept { request_id, conn_id, metadata: decoded(metadata) }
            }
            Head::Reject { request_id, reason, metadata } => {
                Note::Reject { request_id, reason: reason.into(), metadata: decoded(metadata) }
            }
            Head::Goodbye { conn_id, reason } => Note::Goodbye { conn_id, reason: reason.into() },
            Head::Request { conn_id, request_id, method_id, metadata } => {
                let metadata = decoded(metadata);
                Note::Request { conn_id, request_id, method_id, metadata, channels, payload }
            }
            Head::Response { conn_id, request_id, metadata } => {
                let metadata = decoded(metadata);
                Note::Response { conn_id, request_id, metadata, channels, payload }
            }
            Head::Cancel { conn_id, request_id } => Note::Cancel { conn_id, request_id },
            Head::Data { conn_id, channel_id } => Note::Data { conn_id, channel_id, payload },
            Head::Close { conn_id, channel_id } => Note::Close { conn_id, channel_id },
            Head::Reset { conn_id, channel_id } => Note::Reset { conn_id, channel_id },
            Head::Credit { conn_id, channel_id, bytes } => Note::Credit { conn_id, channel_id, bytes },
        }
    }
}

/// Metadata as a head carries it: nothing for none.
fn encoded(entries: &Entries) -> Vec<u8> {
    if entries.is_empty() {
        return Vec::new();
    }
    postcard::to_extend(entries, Vec::new()).expect("entries have an encoding")
}

fn decoded(metadata: &[u8]) -> Entries {
    if metadata.is_empty() {
        return Vec::new();
    }
    postcard::from_bytes(metadata).expect("our side writes metadata that decodes")
}

/// A reason as a head carries it.
fn text(text: &Text) -> &str {
    str::from_utf8(&text.0).expect("only a byte stream can carry a reason that is no text")
}
