//! Values as bytes: postcard, read by `strict`, with a short way for byte vectors.
//!
//! Serde's default for `Vec<u8>` goes byte by byte: 33 us for 64 KiB, where a copy takes 1.7. So `Vec<u8>`
//! and `Option<Vec<u8>>`, as an argument, a result or an element, go through `serde_bytes`, which has the
//! same bytes on the wire. The choice is made by type, not by name, and the compiler folds it away.

use std::any::Any;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::bytes::Bytes;
use crate::{
    link::{Encoder, pool::Owned},
    strict::{DecodeError, Input},
};

/// What can be an argument, a result or an element.
///
/// Implemented for all that serde can write and read; owned types only.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument, a result or an element",
    label = "not written and read by serde",
    note = "`#[derive(serde::Serialize, serde::Deserialize)]` makes it one; it is owned, and `Send`",
    note = "an open file or socket crosses a link as an `adjoin::Descriptor`"
)]
pub trait Value: Serialize + DeserializeOwned + Send + 'static {}

impl<T: Serialize + DeserializeOwned + Send + 'static> Value for T {}

/// Asks of an argument or a result what it must be; for generated code.
///
/// Its name is what the compiler shows where something within the type is at fault.
pub const fn derive_serialize_and_deserialize<T: Value>() {}

/// Appends the encoding of one value.
#[inline]
pub(crate) fn encode_value<T: Serialize + 'static>(value: &T, out: &mut Encoder<'_>) -> postcard::Result<()> {
    let any: &dyn Any = value;
    if let Some(bytes) = any.downcast_ref::<Vec<u8>>() {
        out.vector(bytes);
        return Ok(());
    }
    let mut serializer = postcard::Serializer { output: out };
    if let Some(bytes) = any.downcast_ref::<Option<Vec<u8>>>() {
        bytes.as_deref().map(serde_bytes::Bytes::new).serialize(&mut serializer)
    } else {
        value.serialize(&mut serializer)
    }
}

/// Reads one value and leaves the rest to the next.
#[inline]
fn decode_next<T: DeserializeOwned + 'static>(input: &mut Input<'_>) -> Result<T, DecodeError> {
    if is::<T, Vec<u8>>() {
        cast(serde_bytes::deserialize::<Vec<u8>, _>(input.value())?)
    } else if is::<T, Option<Vec<u8>>>() {
        let bytes = Option::<serde_bytes::ByteBuf>::deserialize(input.value())?;
        cast(bytes.map(serde_bytes::ByteBuf::into_vec))
    } else {
        Ok(T::deserialize(input.value())?)
    }
}

/// Reads one value that must take up all bytes, of at most so many levels one within the other.
#[inline]
pub(crate) fn decode_value<T: DeserializeOwned + 'static>(
    bytes: &[u8],
    nesting: u32,
) -> Result<T, DecodeError> {
    let mut input = Input::new(bytes, nesting);
    let value = decode_next(&mut input)?;
    input.finish()?;
    Ok(value)
}

/// Puts a payload that was found to be a byte vector into `place`, the `Option` of a value; it is given back if the value
/// has another type.
pub(crate) fn put_vector(vector: Owned, place: &mut dyn Any) -> Result<(), Owned> {
    if let Some(place) = place.downcast_mut::<Option<Vec<u8>>>() {
        *place = Some(vector.bytes);
    } else if let Some(place) = place.downcast_mut::<Option<Bytes>>() {
        *place = Some(Bytes::from(vector.into_shared()));
    } else {
        return Err(vector);
    }
    Ok(())
}

/// Reads a byte vector that must take up all bytes, and leaves it where it lies.
pub(crate) fn decode_bytes(bytes: &[u8], nesting: u32) -> Result<&[u8], DecodeError> {
    let mut input = Input::new(bytes, nesting);
    let value = <&[u8]>::deserialize(input.value())?;
    input.finish()?;
    Ok(value)
}

/// The arguments of a method: a tuple of values, encoded one behind the other (protocol section 4).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a tuple of arguments",
    label = "not the arguments of a method",
    note = "the arguments of a method are a tuple of up to 16 values: `()`, `(a,)`, `(a, b)`",
    note = "each of them is `Serialize + Deserialize`, and `Unpin`"
)]
pub trait Arguments: Send + Unpin + 'static + sealed::Tuple {}

#[allow(private_interfaces)] // sealed: only this crate calls these methods
pub(crate) mod sealed {
    use super::{DecodeError, Encoder, Input, Owned, Value, decode_next, encode_value, put_vector};

    /// How a tuple of arguments is written and read.
    pub trait Tuple: Sized {
        #[doc(hidden)]
        fn encode(&self, out: &mut Encoder<'_>) -> postcard::Result<()>;
        #[doc(hidden)]
        fn decode(bytes: &[u8], nesting: u32) -> Result<Self, DecodeError>;
        /// Puts the tuple that is this vector alone into `place`; it is given back if that has another type.
        #[doc(hidden)]
        fn put_vector(_place: &mut Option<Self>, vector: Owned) -> Result<(), Owned> {
            Err(vector)
        }
    }

    macro_rules! tuples {
        ($($name:ident)* $(=> $put_vector:item)?) => {
            impl<$($name: Value),*> Tuple for ($($name,)*) {
                #[allow(non_snake_case, unused_variables)]
                fn encode(&self, out: &mut Encoder<'_>) -> postcard::Result<()> {
                    let ($($name,)*) = self;
                    $(encode_value($name, out)?;)*
                    Ok(())
                }

                #[allow(unused_mut)]
                fn decode(bytes: &[u8], nesting: u32) -> Result<Self, DecodeError> {
                    let mut input = Input::new(bytes, nesting);
                    let arguments = ($(decode_next::<$name>(&mut input)?,)*);
                    input.finish()?;
                    Ok(arguments)
                }

                $($put_vector)?
            }

            impl<$($name: Value + Unpin),*> super::Arguments for ($($name,)*) {}
        };
    }

    tuples!();
    tuples!(A => fn put_vector(place: &mut Option<Self>, vector: Owned) -> Result<(), Owned> {
        let mut value: Option<A> = None;
        put_vector(vector, &mut value)?;
        *place = value.map(|value| (value,));
        Ok(())
    });
    tuples!(A B);
    tuples!(A B C);
    tuples!(A B C D);
    tuples!(A B C D F);
    tuples!(A B C D F G);
    tuples!(A B C D F G H);
    tuples!(A B C D F G H I);
    tuples!(A B C D F G H I J);
    tuples!(A B C D F G H I J K);
    tuples!(A B C D F G H I J K L);
    tuples!(A B C D F G H I J K L M);
    tuples!(A B C D F G H I J K L M N);
    tuples!(A B C D F G H I J K L M N O);
    tuples!(A B C D F G H I J K L M N O P);
    tuples!(A B C D F G H I J K L M N O P Q);
}

fn is<T: 'static, U: 'static>() -> bool {
    std::any::TypeId::of::<T>() == std::any::TypeId::of::<U>()
}

/// The same value under the name that the caller has for its type.
fn cast<T: 'static, U: 'static>(value: T) -> Result<U, DecodeError> {
    let mut value = Some(value);
    let any: &mut dyn Any = &mut value;
    any.downcast_mut::<Option<U>>().and_then(Option::take).ok_or(DecodeError::Untyped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{link::message::encode_into, strict::NESTING};

    struct One<T>(T);
    impl<T: Serialize + 'static> crate::link::Body for One<T> {
        fn encode(&mut self, out: &mut Encoder<'_>) -> Result<(), crate::link::EncodeFault> {
            encode_value(&self.0, out).map_err(crate::link::EncodeFault::Serialize)
        }
    }

    fn bytes<T: Serialize + 'static>(value: T) -> Vec<u8> {
        let (mut room, mut channels) = (Vec::new(), Vec::new());
        let len = encode_into(&mut One(value), &mut room, &mut channels).unwrap();
        room.truncate(len);
        room
    }

    #[test]
    fn byte_vectors_have_the_same_bytes_as_serde_gives_them() {
        let data: Vec<u8> = (0..=255).collect();
        assert_eq!(bytes(data.clone()), postcard::to_extend(&data, Vec::new()).unwrap());
        assert_eq!(bytes(Some(data.clone())), postcard::to_extend(&Some(&data), Vec::new()).unwrap());
        assert_eq!(bytes(None::<Vec<u8>>), [0]);
        assert_eq!(read::<Vec<u8>>(&bytes(data.clone())), Ok(data.clone()));
        assert_eq!(read::<Option<Vec<u8>>>(&bytes(Some(data.clone()))), Ok(Some(data)));
        assert_eq!(read::<Option<Vec<u8>>>(&[0]), Ok(None));
    }

    fn read<T: DeserializeOwned + 'static>(bytes: &[u8]) -> Result<T, DecodeError> {
        decode_value(bytes, NESTING)
    }

    fn arguments<T: sealed::Tuple>(bytes: &[u8]) -> Result<T, DecodeError> {
        T::decode(bytes, NESTING)
    }

    #[test]
    fn bytes_that_stay_where_they_lie_are_read_as_a_vector_is() {
        for encoded in [&[2, 7, 8][..], &[0], &[2, 7], &[0x81, 0, 7], &[1, 7, 9], &[]] {
            let whole = read::<Vec<u8>>(encoded);
            assert_eq!(decode_bytes(encoded, NESTING).map(<[u8]>::to_vec), whole);
        }
    }

    #[test]
    fn byte_vectors_are_read_as_strictly_as_others() {
        assert_eq!(read::<Vec<u8>>(&[2, 7]), Err(DecodeError::Length { length: 2 }));
        assert_eq!(read::<Vec<u8>>(&[0x81, 0, 7]), Err(DecodeError::Overlong));
        assert_eq!(read::<Option<Vec<u8>>>(&[2, 0]), Err(DecodeError::Option { found: 2 }));
        assert_eq!(read::<Option<Vec<u8>>>(&[1, 0, 9]), Err(DecodeError::Trailing { left: 1 }));
    }

    #[test]
    fn trailing_bytes_are_refused() {
        assert_eq!(read::<u8>(&[1, 2]), Err(DecodeError::Trailing { left: 1 }));
        assert_eq!(arguments::<(u8, u8)>(&[1, 2, 3]), Err(DecodeError::Trailing { left: 1 }));
        assert_eq!(arguments::<(u8, u8)>(&[1, 2]), Ok((1, 2)));
        assert_eq!(arguments::<()>(&[0]), Err(DecodeError::Trailing { left: 1 }));
    }

    #[test]
    fn a_length_beyond_the_bytes_is_refused() {
        let length = 0x0fff_ffff;
        assert_eq!(read::<Vec<u8>>(&[0xff, 0xff, 0xff, 0x7f, 1]), Err(DecodeError::Length { length }));
        let count = length;
        assert_eq!(read::<Vec<u64>>(&[0xff, 0xff, 0xff, 0x7f, 1]), Err(DecodeError::Count { count }));
    }

    #[test]
    fn each_argument_may_be_as_deep_as_the_limit() {
        type Deep = Option<Option<u8>>;
        let bytes = [1, 1, 7, 1, 1, 8];
        assert_eq!(<(Deep, Deep) as sealed::Tuple>::decode(&bytes, 2), Ok((Some(Some(7)), Some(Some(8)))));
        let refused = <(Deep, Deep) as sealed::Tuple>::decode(&bytes, 1);
        assert_eq!(refused, Err(DecodeError::Nesting { limit: 1 }));
    }
}
