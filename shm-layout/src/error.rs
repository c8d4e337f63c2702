//! What can be wrong with what a peer says, or with the limits that a host sets.

use core::fmt;

/// What a value has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// This value and no other.
    Exactly(u64),
    /// This value or less.
    AtMost(u64),
    /// From the first to the second value, both included.
    Within(u64, u64),
    /// A multiple of this value.
    MultipleOf(u64),
    /// A power of two from the first to the second value, both included.
    PowerOfTwo(u64, u64),
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(value) => write!(f, "{value}"),
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::Within(least, most) => write!(f, "from {least} to {most}"),
            Self::MultipleOf(unit) => write!(f, "a multiple of {unit}"),
            Self::PowerOfTwo(least, most) => write!(f, "a power of two from {least} to {most}"),
        }
    }
}

/// The peer wrote into its half what no peer of ours writes: the link is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// The field that is wrong, as the layout table names it.
    pub field: &'static str,
    /// The value that was found there.
    pub found: u64,
    /// What it had to be.
    pub rule: Rule,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, found, rule } = self;
        write!(f, "the peer's half is corrupt: `{field}` is {found}, must be {rule}")
    }
}

impl core::error::Error for Corrupt {}

/// The peer's half is not the one that was agreed on: it is not attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutError {
    /// The field of the header, or `mapped_len` or `mapped_base` for the mapping itself.
    pub field: &'static str,
    /// The value that was found there.
    pub found: u64,
    /// What was expected.
    pub expected: Rule,
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, found, expected } = self;
        write!(f, "the half cannot be attached: `{field}` is {found}, must be {expected}")
    }
}

impl core::error::Error for LayoutError {}

/// A limit that a host set is out of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeometryError {
    /// The field of [`Geometry`](crate::Geometry).
    pub field: &'static str,
    /// The value that was set.
    pub value: u64,
    /// What it has to be.
    pub bound: Rule,
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, value, bound } = self;
        write!(f, "`{field}` is {value}, must be {bound}")
    }
}

impl core::error::Error for GeometryError {}

impl From<GeometryError> for LayoutError {
    fn from(error: GeometryError) -> Self {
        Self { field: error.field, found: error.value, expected: error.bound }
    }
}
