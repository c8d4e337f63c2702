//! Why bytes are no value.

use std::fmt::{self, Display, Write};

use serde::de;

/// Why bytes cannot be read as a value of the type that is expected.
///
/// What a peer sends is read strictly: each value has exactly one encoding, and bounds hold for how deep values may
/// stand one within the other and how many elements they may announce.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The value goes on where the bytes end.
    #[error("the bytes end within the value")]
    End,
    /// Bytes are left behind the value.
    #[error("{left} bytes are left behind the value")]
    Trailing {
        /// How many.
        left: usize,
    },
    /// An integer, a length, a count or a discriminant takes more bytes than it needs.
    #[error("an integer is not in its shortest form")]
    Overlong,
    /// An integer, a length, a count or a discriminant is too large for its type.
    #[error("an integer is too large for its type")]
    Overflow,
    /// A `bool` is neither 0 nor 1.
    #[error("a bool is {found}, neither 0 nor 1")]
    Bool {
        /// What it is.
        found: u8,
    },
    /// The byte in front of an `Option`'s value is neither 0 nor 1.
    #[error("an option begins with {found}, neither 0 nor 1")]
    Option {
        /// What it is.
        found: u8,
    },
    /// A `char` is not one character.
    #[error("a char is not one character in UTF-8")]
    Char,
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    Utf8,
    /// The length of a string or of bytes exceeds the bytes that are left.
    #[error("a length of {length} exceeds the bytes that are left")]
    Length {
        /// The length.
        length: u64,
    },
    /// A sequence or a map announces more elements than its bytes can hold, even if some thousands of them take no
    /// byte.
    #[error("{count} elements are announced, more than the bytes can hold")]
    Count {
        /// How many are announced.
        count: u64,
    },
    /// The type stopped before the last element of a sequence or a map.
    #[error("{left} elements were left unread")]
    Unread {
        /// How many.
        left: usize,
    },
    /// Values stand one within the other, deeper than this side reads.
    #[error("values are nested deeper than {limit} levels (Settings::max_nesting)")]
    Nesting {
        /// How many levels are read.
        limit: u32,
    },
    /// The type wants to learn from the bytes what they hold, and they do not tell: it is untagged, internally
    /// tagged, flattened, or takes anything.
    #[error("the type can only be read from bytes that describe themselves")]
    Untyped,
    /// The type's own `Deserialize` refused the value: an enum does so with a discriminant that it does not have.
    #[error("{message}")]
    Refused {
        /// What it said, 200 bytes of it at most.
        message: Box<str>,
    },
}

impl DecodeError {
    /// What is no value for a reason of its own.
    pub(crate) fn refused(message: &str) -> Self {
        DecodeError::Refused { message: message.into() }
    }
}

/// The error while values are read: one word, so that results stay in registers.
#[derive(Debug)]
pub(crate) struct Fault(Box<DecodeError>);

/// Makes one, away from the code that goes well.
#[cold]
#[inline(never)]
pub(super) fn fault(why: impl FnOnce() -> DecodeError) -> Fault {
    Fault(Box::new(why()))
}

impl From<Fault> for DecodeError {
    fn from(fault: Fault) -> Self {
        *fault.0
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    #[cold]
    fn custom<T: Display>(message: T) -> Self {
        let mut text = Bounded(String::new());
        let _ = write!(text, "{message}"); // fails where it is cut off
        Fault(Box::new(DecodeError::Refused { message: text.0.into_boxed_str() }))
    }
}

/// Takes text up to a length: a message may hold as much of the value as its type likes to show.
struct Bounded(String);

/// Bytes of a message at most.
pub(super) const MESSAGE: usize = 200;

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MESSAGE - self.0.len();
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let end = (0..=room).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        self.0.push_str(text.get(..end).unwrap_or_default());
        Err(fmt::Error)
    }
}
