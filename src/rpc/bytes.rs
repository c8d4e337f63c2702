//! Bytes that are not copied where that can be avoided.

use std::{borrow::Borrow, fmt, ops::Deref};

use bytes::Bytes as Shared;
use postcard_schema::{Schema, schema::NamedType};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

use super::payload;

/// Bytes as an argument, a result, an element of a stream, or a part of one at any depth: a cheap handle, which can be
/// cloned and sent to other threads.
///
/// On the wire, and in a method's id, it is a `Vec<u8>`. What it saves are copies:
///
/// | over shared memory | copies |
/// |---|---|
/// | sent, made of a [`Loan`](crate::Loan) of the same link | none: the peer gets the memory that was filled |
/// | sent, made of anything else | one |
/// | received, in a payload that came in a block, from a peer that is [trusted](crate::Settings::trust_peer) | none: a handle on the block |
/// | received, in a payload that came in a block, from any other peer | one |
/// | received, in a payload that was short enough for the ring | two |
///
/// A part of a payload that is less than a sixteenth of it, or than 256 bytes, is copied: little is not to keep much.
///
/// A block goes back to the peer when the last handle on it is dropped. That may be after the link's end, which keeps the
/// memory of the segment until then, and nothing else of the link.
///
/// What is copied out of shared memory and has 16 KiB or more, as the whole of an argument, a result or an element, lies in
/// memory that its link uses again when the last handle is dropped: of a stream of long elements that come and go, none
/// costs the allocator anything, as each `Vec<u8>` would.
///
/// It is a [`bytes::Bytes`] inside, and is made of one and into one without a copy.
///
/// ```
/// # #[cfg(feature = "macros")] mod example {
/// use adjoin::Bytes;
///
/// #[adjoin::service]
/// pub trait Store {
///     async fn put(&self, key: String, value: Bytes);
///     async fn get(&self, key: String) -> Option<Bytes>;
/// }
/// # }
/// let bytes = adjoin::Bytes::from(vec![1, 2, 3]);
/// assert_eq!(bytes[1..], [2, 3]);
/// ```
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(Shared);

impl Bytes {
    /// No bytes.
    #[must_use]
    pub const fn new() -> Self {
        Bytes(Shared::new())
    }

    /// Bytes of the program.
    #[must_use]
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Bytes(Shared::from_static(bytes))
    }

    /// A copy of `bytes`.
    #[must_use]
    pub fn copy_from_slice(bytes: &[u8]) -> Self {
        Bytes(Shared::copy_from_slice(bytes))
    }

    /// A handle on a part of the same memory.
    ///
    /// # Panics
    ///
    /// When the range leaves the bytes.
    #[must_use]
    pub fn slice(&self, range: impl std::ops::RangeBounds<usize>) -> Self {
        Bytes(self.0.slice(range))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for Bytes {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl From<Shared> for Bytes {
    fn from(bytes: Shared) -> Self {
        Bytes(bytes)
    }
}

impl From<Bytes> for Shared {
    fn from(bytes: Bytes) -> Self {
        bytes.0
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes(bytes.into())
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes)
    }
}

/// Without a copy only where nobody else has a handle on memory that was a vector's.
impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        bytes.0.into()
    }
}

impl PartialEq<[u8]> for Bytes {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Handle;
        impl Visitor<'_> for Handle {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(payload::part(bytes)))
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes.into()))
            }
        }
        deserializer.deserialize_bytes(Handle)
    }
}

/// The same as a `Vec<u8>`, which has the same bytes on the wire.
impl Schema for Bytes {
    const SCHEMA: &'static NamedType = <Vec<u8>>::SCHEMA;
}
