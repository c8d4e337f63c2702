//! The bytes, and what stands in them.

use std::slice;

use super::{DecodeError, EMPTY_ELEMENTS, Result, error::fault};

/// Bytes that hold values, one behind the other.
pub(crate) struct Input<'de> {
    /// What was not read. An iterator: it has one word to change where a slice has two.
    rest: slice::Iter<'de, u8>,
    /// Elements that may still be announced, each with a byte of its own.
    elements: usize,
    /// The same, without.
    empty: usize,
    /// How deep values may stand one within the other, in levels.
    pub(super) nesting: u32,
}

impl<'de> Input<'de> {
    #[inline]
    pub(crate) fn new(bytes: &'de [u8], nesting: u32) -> Self {
        Input { rest: bytes.iter(), elements: bytes.len(), empty: EMPTY_ELEMENTS, nesting }
    }

    /// How many bytes were not read.
    #[inline]
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Nothing may be left.
    #[inline]
    pub(crate) fn finish(&self) -> Result<()> {
        let left = self.left();
        if left == 0 { Ok(()) } else { Err(fault(move || DecodeError::Trailing { left })) }
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Result<u8> {
        self.rest.next().copied().ok_or_else(|| fault(|| DecodeError::End))
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some(&array) = self.rest.as_slice().first_chunk() else { return Err(fault(|| DecodeError::End)) };
        self.rest.nth(N - 1); // which leaves the iterator's end alone
        Ok(array)
    }

    /// Bytes behind their length.
    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'de [u8]> {
        let length = self.u64()?;
        let found =
            usize::try_from(length).ok().and_then(|length| self.rest.as_slice().split_at_checked(length));
        let Some((bytes, rest)) = found else { return Err(fault(move || DecodeError::Length { length })) };
        self.rest = rest.iter();
        Ok(bytes)
    }

    #[inline]
    pub(super) fn str(&mut self) -> Result<&'de str> {
        str::from_utf8(self.bytes()?).map_err(|_| fault(|| DecodeError::Utf8))
    }

    /// How many elements follow, and whether there is a byte for each.
    #[inline]
    pub(super) fn count(&mut self) -> Result<(usize, bool)> {
        let announced = self.u64()?;
        let count = usize::try_from(announced).unwrap_or(usize::MAX);
        if let Some(elements) = self.elements.checked_sub(count) {
            self.elements = elements;
            return Ok((count, true));
        }
        let Some(empty) = self.empty.checked_sub(count - self.elements) else {
            return Err(fault(move || DecodeError::Count { count: announced }));
        };
        (self.elements, self.empty) = (0, empty);
        Ok((count, false))
    }
}

/// Integers in their one shortest form: seven bits a byte, lowest first, the top bit set in all but the last.
macro_rules! varints {
    ($($name:ident)*) => {
        impl Input<'_> {
            $(#[inline]
            pub(super) fn $name(&mut self) -> Result<$name> {
                const LONGEST: usize = $name::BITS.div_ceil(7) as usize;
                /// What the last byte of the longest form can be.
                const LAST: u8 = (1 << ($name::BITS % 7)) - 1;

                let (mut rest, mut value) = (self.rest.clone(), 0);
                for index in 0..LONGEST {
                    let Some(&byte) = rest.next() else { return Err(fault(|| DecodeError::End)) };
                    value |= $name::from(byte & !MORE) << (7 * index);
                    if byte < MORE {
                        if index > 0 && byte == 0 {
                            return Err(fault(|| DecodeError::Overlong));
                        }
                        if index == LONGEST - 1 && byte > LAST {
                            break;
                        }
                        self.rest = rest;
                        return Ok(value);
                    }
                }
                Err(fault(|| DecodeError::Overflow))
            })*
        }
    };
}

varints! { u16 u32 u64 u128 }

/// Signed integers: 0, -1, 1, -2, … stand as 0, 1, 2, 3, …
macro_rules! zigzags {
    ($($name:ident: $signed:ident from $unsigned:ident,)*) => {
        impl Input<'_> {
            $(#[inline]
            pub(super) fn $name(&mut self) -> Result<$signed> {
                let value = self.$unsigned()?;
                Ok((value >> 1) as $signed ^ -((value & 1) as $signed))
            })*
        }
    };
}

zigzags! { i16: i16 from u16, i32: i32 from u32, i64: i64 from u64, i128: i128 from u128, }

/// The bit of a byte that says that another one follows.
const MORE: u8 = 0x80;
