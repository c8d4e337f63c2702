//! Metadata: what a call carries beside its arguments (protocol section 4).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{error::Violation, strict};

/// Ordered entries that travel with a request or a response. Order and duplicates are kept, keys are
/// case-sensitive, unknown keys are ignored.
///
/// ```
/// use adjoin::Metadata;
///
/// let mut metadata = Metadata::new();
/// metadata.push("trace", "4bf92f35");
/// metadata.push("attempt", 2u64);
/// assert_eq!(metadata.get("attempt").and_then(|value| value.as_u64()), Some(2));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    entries: Vec<(String, MetadataValue)>,
}

/// The value of one entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MetadataValue {
    /// Text.
    String(String),
    /// Bytes.
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A number.
    U64(u64),
}

/// Metadata beyond the limits of the protocol; nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata: {what} is {value}, at most {limit} are allowed")]
pub struct MetadataError {
    what: &'static str,
    value: usize,
    limit: usize,
}

impl MetadataError {
    /// `what` has `value`, more than `limit`.
    pub(crate) fn new(what: &'static str, value: usize, limit: usize) -> Self {
        MetadataError { what, value, limit }
    }
}

impl Metadata {
    /// Entries at most.
    pub const MAX_ENTRIES: usize = crate::link::message::MAX_ENTRIES;
    /// Bytes of a key at most.
    pub const MAX_KEY: usize = 256;
    /// Bytes of a value at most.
    pub const MAX_VALUE: usize = 16 << 10;
    /// Bytes of all keys and values together at most.
    pub const MAX_TOTAL: usize = crate::link::message::MAX_TOTAL;
    /// The key that carries a call's timeout in nanoseconds.
    pub const TIMEOUT: &'static str = "timeout-ns";

    /// The key that says how many descriptors come with a message, on links that say it so. It belongs to them:
    /// entries with it are not sent and not shown.
    pub(crate) const DESCRIPTORS: &'static str = crate::link::descriptors::ANNOUNCED;

    pub(crate) const EMPTY: Metadata = Metadata { entries: Vec::new() };

    /// No entries.
    #[must_use]
    pub const fn new() -> Self {
        Metadata::EMPTY
    }

    /// Appends an entry.
    pub fn push(&mut self, key: impl Into<String>, value: impl Into<MetadataValue>) {
        self.entries.push((key.into(), value.into()));
    }

    /// The value of the first entry with this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&MetadataValue> {
        self.iter().find_map(|(name, value)| (name == key).then_some(value))
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &MetadataValue)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Checks the limits of the protocol.
    ///
    /// # Errors
    ///
    /// Which limit is exceeded, and by what.
    pub fn check(&self) -> Result<(), MetadataError> {
        let exceeds = |what, value, limit| {
            if value > limit { Err(MetadataError::new(what, value, limit)) } else { Ok(()) }
        };
        exceeds("the number of entries", self.len(), Self::MAX_ENTRIES)?;
        let mut total = 0;
        for (key, value) in self.iter() {
            exceeds("a key's length", key.len(), Self::MAX_KEY)?;
            exceeds("a value's length", value.len(), Self::MAX_VALUE)?;
            total += key.len() + value.len();
        }
        exceeds("the length in all", total, Self::MAX_TOTAL)
    }

    /// The call's timeout.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.get(Self::TIMEOUT)?.as_u64().map(Duration::from_nanos)
    }

    /// Makes this the one entry with this key, behind the others.
    pub(crate) fn set(&mut self, key: &str, value: impl Into<MetadataValue>) {
        self.entries.retain(|(known, _)| known != key);
        self.push(key, value);
    }

    /// Drops what only a link may say.
    pub(crate) fn drop_reserved(&mut self) {
        self.entries.retain(|(key, _)| key != Self::DESCRIPTORS);
    }

    /// Encodes the entries for a [`Head`](crate::link::Head); nothing for none.
    #[inline]
    pub(crate) fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        if self.is_empty() { Ok(Vec::new()) } else { postcard::to_extend(self, Vec::new()) }
    }

    /// Decodes what a message carried, and checks it (`call.metadata.limits`).
    #[inline]
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Violation> {
        if bytes.is_empty() { Ok(Metadata::new()) } else { Metadata::decode_entries(bytes) }
    }

    fn decode_entries(bytes: &[u8]) -> Result<Self, Violation> {
        let mut metadata: Metadata =
            strict::decode(bytes, strict::NESTING).map_err(|_| Violation::Decode { len: bytes.len() })?;
        metadata.drop_reserved();
        metadata.check().map_err(|MetadataError { what, value, limit }| Violation::MetadataLimits {
            what,
            value,
            limit,
        })?;
        Ok(metadata)
    }
}

impl MetadataValue {
    /// The text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let MetadataValue::String(text) = self { Some(text) } else { None }
    }

    /// The bytes, if it is some.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        if let MetadataValue::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    /// The number, if it is one.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        if let MetadataValue::U64(number) = self { Some(*number) } else { None }
    }

    /// What it adds to the length of all entries.
    fn len(&self) -> usize {
        match self {
            MetadataValue::String(text) => text.len(),
            MetadataValue::Bytes(bytes) => bytes.len(),
            MetadataValue::U64(_) => size_of::<u64>(),
        }
    }
}

impl From<&str> for MetadataValue {
    fn from(text: &str) -> Self {
        MetadataValue::String(text.to_owned())
    }
}

impl From<String> for MetadataValue {
    fn from(text: String) -> Self {
        MetadataValue::String(text)
    }
}

impl From<Vec<u8>> for MetadataValue {
    fn from(bytes: Vec<u8>) -> Self {
        MetadataValue::Bytes(bytes)
    }
}

impl From<u64> for MetadataValue {
    fn from(number: u64) -> Self {
        MetadataValue::U64(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read_as_it_was_written() {
        let mut metadata = Metadata::new();
        metadata.push("text", "é");
        metadata.push("bytes", vec![0xff, 0]);
        metadata.push("bytes", u64::MAX);
        metadata.push("", "");
        assert_eq!(Metadata::decode(&metadata.encode().unwrap()), Ok(metadata));
        assert_eq!(Metadata::decode(&[]), Ok(Metadata::new()));
    }

    #[test]
    fn entries_that_only_a_link_may_write_are_not_shown() {
        let mut metadata = Metadata::new();
        metadata.push(Metadata::DESCRIPTORS, 3u64);
        metadata.push("text", "é");
        metadata.push(Metadata::DESCRIPTORS, "three");
        let shown = Metadata::decode(&metadata.encode().unwrap()).unwrap();
        assert_eq!(shown.iter().collect::<Vec<_>>(), [("text", &MetadataValue::from("é"))]);
    }

    #[test]
    fn metadata_that_is_not_encoded_strictly_is_refused() {
        let refused: [(&str, &[u8]); 11] = [
            ("a count that is not in its shortest form", &[0x81, 0, 0, 0, 0]),
            ("a number that is not in its shortest form", &[1, 0, 2, 0x80, 0]),
            ("a kind that is not in its shortest form", &[1, 0, 0x82, 0, 7]),
            ("a byte behind the last entry", &[1, 0, 2, 7, 0]),
            ("fewer entries than announced", &[2, 0, 2, 7]),
            ("more entries than there can be", &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 2, 7]),
            ("a key that is not UTF-8", &[1, 1, 0xff, 2, 7]),
            ("a text that is not UTF-8", &[1, 0, 0, 1, 0xff]),
            ("a key longer than the bytes", &[1, 9, b'a', 2, 7]),
            ("bytes longer than there are", &[1, 0, 1, 9, 7]),
            ("a kind that does not exist", &[1, 0, 3, 0]),
        ];
        for (what, bytes) in refused {
            assert_eq!(Metadata::decode(bytes), Err(Violation::Decode { len: bytes.len() }), "{what}");
        }
    }
}
