//! Values out of bytes that a peer wrote: postcard's encoding, read strictly and with bounds.
//!
//! Postcard's own reader takes more than its writer gives, and believes what it reads. Here:
//!
//! - One value has one encoding. Integers stand in their shortest form, a bool and what precedes an option are 0 or
//!   1, a `char` is one character: what is read encodes to the same bytes again. (The entries of a map are read in
//!   the order in which they stand. Whether that counts, and whether a key may stand twice, its type decides.)
//! - A length is compared with the bytes that are left before anything is done with it.
//! - Sequences and maps announce how many elements they have. Each element that takes bytes has a first one, and
//!   shares it with no other. So all announced elements together are at most as many as there are bytes, and those
//!   that take none, of which [`EMPTY_ELEMENTS`] are allowed: what announces more is refused before its first
//!   element is read. A type is told how many elements to reserve room for only while there is a byte for each. So
//!   work and memory are bounded by the bytes that are there, times the size of an element.
//! - Values stand one within the other to a depth that the caller gives. Sequences, maps, options, structs, tuples
//!   and enums are a level each. No type uses up the stack.
//!
//! | file | holds |
//! |---|---|
//! | `strict` | what serde asks for, and the depth |
//! | `input` | the bytes, and what stands in them: integers, lengths, counts |
//! | `error` | why bytes are no value |

mod error;
mod input;
#[cfg(test)]
mod tests;

use serde::de::{
    self, Deserialize, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};

pub use error::DecodeError;
use error::{Fault, fault};
pub(crate) use input::Input;

/// What is returned while a value is read.
type Result<T, E = Fault> = std::result::Result<T, E>;

/// How deep values may stand one within the other, unless a setting says otherwise.
pub(crate) const NESTING: u32 = 128;

/// Elements of sequences and maps that may take no bytes, in all that one [`Input`] holds.
pub(crate) const EMPTY_ELEMENTS: usize = 1 << 16;

/// Reads the one value that `bytes` are.
pub(crate) fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8], nesting: u32) -> Result<T, DecodeError> {
    let mut input = Input::new(bytes, nesting);
    let value = T::deserialize(input.value())?;
    input.finish()?;
    Ok(value)
}

impl<'de> Input<'de> {
    /// Reads the next value.
    #[inline]
    pub(crate) fn value(&mut self) -> Deserializer<'_, 'de> {
        Deserializer { input: self, depth: 0 }
    }
}

/// Reads one value, and those that stand in it.
pub(crate) struct Deserializer<'a, 'de> {
    input: &'a mut Input<'de>,
    /// The levels that it stands in.
    depth: u32,
}

impl<'a, 'de> Deserializer<'a, 'de> {
    /// For what stands in this value.
    #[inline]
    fn inner(self) -> Result<Self> {
        let limit = self.input.nesting;
        if self.depth >= limit {
            return Err(fault(move || DecodeError::Nesting { limit }));
        }
        Ok(Deserializer { input: self.input, depth: self.depth + 1 })
    }

    /// Elements behind their count.
    #[inline]
    fn counted(self) -> Result<Elements<'a, 'de>> {
        let inner = self.inner()?;
        let (left, covered) = inner.input.count()?;
        Ok(Elements { deserializer: inner, left, covered })
    }

    /// Elements or fields whose number is the type's. (The alias of a field counts as one more: none is missed.)
    #[inline]
    fn fields(self, left: usize) -> Elements<'a, 'de> {
        Elements { deserializer: self, left, covered: true }
    }

    /// For one of several values.
    #[inline]
    fn next(&mut self) -> Deserializer<'_, 'de> {
        Deserializer { input: self.input, depth: self.depth }
    }
}

impl<'de> de::Deserializer<'de> for Deserializer<'_, 'de> {
    type Error = Fault;

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(fault(|| DecodeError::Untyped))
    }

    #[inline]
    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(fault(|| DecodeError::Untyped))
    }

    #[inline]
    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(fault(|| DecodeError::Untyped))
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.input.byte()? {
            0 => visitor.visit_bool(false),
            1 => visitor.visit_bool(true),
            found => Err(fault(move || DecodeError::Bool { found })),
        }
    }

    #[inline]
    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_i8(self.input.byte()? as i8)
    }

    #[inline]
    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_i16(self.input.i16()?)
    }

    #[inline]
    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_i32(self.input.i32()?)
    }

    #[inline]
    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_i64(self.input.i64()?)
    }

    #[inline]
    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_i128(self.input.i128()?)
    }

    #[inline]
    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_u8(self.input.byte()?)
    }

    #[inline]
    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_u16(self.input.u16()?)
    }

    #[inline]
    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_u32(self.input.u32()?)
    }

    #[inline]
    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_u64(self.input.u64()?)
    }

    #[inline]
    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_u128(self.input.u128()?)
    }

    #[inline]
    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_f32(f32::from_le_bytes(self.input.array()?))
    }

    #[inline]
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_f64(f64::from_le_bytes(self.input.array()?))
    }

    /// A string of one character.
    #[inline]
    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let text = str::from_utf8(self.input.bytes()?).map_err(|_| fault(|| DecodeError::Char))?;
        let mut characters = text.chars();
        match (characters.next(), characters.as_str()) {
            (Some(character), "") => visitor.visit_char(character),
            _ => Err(fault(|| DecodeError::Char)),
        }
    }

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_str(self.input.str()?)
    }

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_str(self.input.str()?)
    }

    #[inline]
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_bytes(self.input.bytes()?)
    }

    #[inline]
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_bytes(self.input.bytes()?)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.input.byte()? {
            0 => visitor.visit_none(),
            1 => visitor.visit_some(self.inner()?),
            found => Err(fault(move || DecodeError::Option { found })),
        }
    }

    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self.inner()?)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.counted()?.all(|elements| visitor.visit_seq(elements))
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.counted()?.all(|elements| visitor.visit_map(elements))
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        visitor.visit_seq(self.inner()?.fields(len))
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_tuple(len, visitor)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_enum(self.inner()?)
    }
}

/// The elements of a sequence, a map or a tuple, or the fields of a struct.
struct Elements<'a, 'de> {
    deserializer: Deserializer<'a, 'de>,
    left: usize,
    /// Whether there was a byte for each of all that was announced up to here.
    covered: bool,
}

impl<'de> Elements<'_, 'de> {
    /// How many are left, if there is a byte for each.
    #[inline]
    fn hint(&self) -> Option<usize> {
        (self.covered && self.left <= self.deserializer.input.left()).then_some(self.left)
    }

    /// Reads elements that were counted.
    #[inline]
    fn all<T>(mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let value = read(&mut self)?;
        // What the type left would be read as what comes behind it.
        let left = self.left;
        if left == 0 { Ok(value) } else { Err(fault(move || DecodeError::Unread { left })) }
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Fault;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(self.deserializer.next()).map(Some)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> MapAccess<'de> for Elements<'_, 'de> {
    type Error = Fault;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        self.next_element_seed(seed)
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        seed.deserialize(self.deserializer.next())
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> EnumAccess<'de> for Deserializer<'_, 'de> {
    type Error = Fault;
    type Variant = Self;

    #[inline]
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self)> {
        let discriminant = self.input.u32()?;
        Ok((seed.deserialize(discriminant.into_deserializer())?, self))
    }
}

impl<'de> VariantAccess<'de> for Deserializer<'_, 'de> {
    type Error = Fault;

    #[inline]
    fn unit_variant(self) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        seed.deserialize(self)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        visitor.visit_seq(self.fields(len))
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_seq(self.fields(fields.len()))
    }
}
