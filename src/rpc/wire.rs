//! Values as bytes: postcard, with a short way for byte vectors.
//!
//! Serde's default for `Vec<u8>` goes byte by byte: 33 us for 64 KiB, where a copy takes 1.7. So `Vec<u8>`
//! and `Option<Vec<u8>>`, as an argument, a result or an element, go through `serde_bytes`, which has the
//! same bytes on the wire. The choice is made by type, not by name, and the compiler folds it away.

use std::any::Any;

use postcard::Deserializer;
use serde::{Serialize, de::DeserializeOwned};

use crate::link::Encoder;

/// What can be an argument, a result or an element.
///
/// Implemented for all that serde can write and read; owned types only.
pub trait Value: Serialize + DeserializeOwned + Send + 'static {}

impl<T: Serialize + DeserializeOwned + Send + 'static> Value for T {}

/// Appends the encoding of one value.
pub(crate) fn encode_value<T: Serialize + 'static>(value: &T, out: &mut Encoder<'_>) -> postcard::Result<()> {
    let mut serializer = postcard::Serializer { output: out };
    let any: &dyn Any = value;
    if let Some(bytes) = any.downcast_ref::<Vec<u8>>() {
        serde_bytes::serialize(bytes, &mut serializer)
    } else if let Some(bytes) = any.downcast_ref::<Option<Vec<u8>>>() {
        bytes.as_deref().map(serde_bytes::Bytes::new).serialize(&mut serializer)
    } else {
        value.serialize(&mut serializer)
    }
}

/// Reads one value and leaves the rest to the next.
pub(crate) fn decode_next<T: DeserializeOwned + 'static>(bytes: &mut &[u8]) -> postcard::Result<T> {
    let mut deserializer = Deserializer::from_bytes(bytes);
    let value = if is::<T, Vec<u8>>() {
        cast(serde_bytes::deserialize::<Vec<u8>, _>(&mut deserializer)?)?
    } else if is::<T, Option<Vec<u8>>>() {
        let bytes: Option<serde_bytes::ByteBuf> = serde::Deserialize::deserialize(&mut deserializer)?;
        cast(bytes.map(serde_bytes::ByteBuf::into_vec))?
    } else {
        T::deserialize(&mut deserializer)?
    };
    *bytes = deserializer.finalize()?;
    Ok(value)
}

/// Reads one value that must take up all bytes.
pub(crate) fn decode_value<T: DeserializeOwned + 'static>(mut bytes: &[u8]) -> postcard::Result<T> {
    let value = decode_next(&mut bytes)?;
    if bytes.is_empty() { Ok(value) } else { Err(postcard::Error::DeserializeBadEncoding) }
}

/// The arguments of a method: a tuple of values, encoded one behind the other (protocol section 4).
pub trait Arguments: Send + Unpin + 'static + sealed::Tuple {}

#[allow(private_interfaces)] // sealed: only this crate calls these methods
pub(crate) mod sealed {
    use super::{Encoder, Value, decode_next, encode_value};

    /// How a tuple of arguments is written and read.
    pub trait Tuple: Sized {
        #[doc(hidden)]
        fn encode(&self, out: &mut Encoder<'_>) -> postcard::Result<()>;
        #[doc(hidden)]
        fn decode(bytes: &[u8]) -> postcard::Result<Self>;
    }

    macro_rules! tuples {
        ($($name:ident)*) => {
            impl<$($name: Value),*> Tuple for ($($name,)*) {
                #[allow(non_snake_case, unused_variables)]
                fn encode(&self, out: &mut Encoder<'_>) -> postcard::Result<()> {
                    let ($($name,)*) = self;
                    $(encode_value($name, out)?;)*
                    Ok(())
                }

                #[allow(unused_mut, unused_variables)]
                fn decode(mut bytes: &[u8]) -> postcard::Result<Self> {
                    let arguments = ($(decode_next::<$name>(&mut bytes)?,)*);
                    if bytes.is_empty() { Ok(arguments) } else { Err(postcard::Error::DeserializeBadEncoding) }
                }
            }

            impl<$($name: Value + Unpin),*> super::Arguments for ($($name,)*) {}
        };
    }

    tuples!();
    tuples!(A);
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
fn cast<T: 'static, U: 'static>(value: T) -> postcard::Result<U> {
    let mut value = Some(value);
    let any: &mut dyn Any = &mut value;
    any.downcast_mut::<Option<U>>().and_then(Option::take).ok_or(postcard::Error::WontImplement)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::message::encode_into;

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
        assert_eq!(decode_value::<Vec<u8>>(&bytes(data.clone())).unwrap(), data);
        assert_eq!(decode_value::<Option<Vec<u8>>>(&bytes(Some(data.clone()))).unwrap(), Some(data));
        assert_eq!(decode_value::<Option<Vec<u8>>>(&[0]).unwrap(), None);
    }

    #[test]
    fn trailing_bytes_are_refused() {
        assert!(decode_value::<u8>(&[1, 2]).is_err());
        assert!(<(u8, u8) as sealed::Tuple>::decode(&[1, 2, 3]).is_err());
        assert_eq!(<(u8, u8) as sealed::Tuple>::decode(&[1, 2]).unwrap(), (1, 2));
    }

    #[test]
    fn a_length_beyond_the_bytes_is_refused() {
        assert!(decode_value::<Vec<u8>>(&[0xff, 0xff, 0xff, 0x7f, 1]).is_err());
        assert!(decode_value::<Vec<u64>>(&[0xff, 0xff, 0xff, 0x7f, 1]).is_err());
    }
}
