//! What a side offers, as plain data.
//!
//! A [`TypeDescription`] says what a value looks like on the wire, with the names that count for a method's
//! id (those of fields and variants) and those that are there to be read (those of types and arguments).
//! What leaves the bytes and the id alone is not told apart: a newtype is what it wraps, under its own name; a
//! unit struct is a unit; a tuple struct is a tuple; a vector of `u8` is bytes.

use serde::{Deserialize, Serialize};

use crate::rpc::method_id::MethodId;

/// A service that a side offers.
///
/// Shown with one method a line; `{:#}` writes out every type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServiceDescription {
    /// Its name on the wire.
    pub name: String,
    /// Its methods, in the order of its trait.
    pub methods: Vec<MethodDescription>,
}

/// A method of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MethodDescription {
    /// Its name on the wire.
    pub name: String,
    /// Its identity on the wire.
    pub id: MethodId,
    /// Its handler is polled once where the request was read.
    pub inline: bool,
    /// It may run more than once for one call.
    pub idempotent: bool,
    /// Its arguments and result. `None`: the side does not state them, because the method's id is pinned, or
    /// because they are longer than an answer may be (64 KiB, or the link's maximum payload if that is less).
    pub signature: Option<SignatureDescription>,
}

/// The arguments and the result of a method.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SignatureDescription {
    /// The arguments, in order. Their names do not count for the method's id.
    pub arguments: Vec<FieldDescription>,
    /// The plain result, or the one inside `Ok`.
    pub result: TypeDescription,
    /// The error type of a method that returns a `Result`.
    pub error: Option<TypeDescription>,
}

/// A field of a struct or of a variant, or an argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FieldDescription {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: TypeDescription,
}

/// A type.
///
/// Shown as one would write it, structs and enums by their names; `{:#}` writes these out, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TypeDescription {
    /// The name that it was declared with; `None` for what comes with the language. It does not count for a
    /// method's id.
    pub name: Option<String>,
    /// What its values look like on the wire.
    pub shape: Shape,
}

/// What the values of a type look like on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Shape {
    /// A value without parts.
    Primitive(Primitive),
    /// A value, or none.
    Option(Box<TypeDescription>),
    /// Any number of values of one type.
    Seq(Box<TypeDescription>),
    /// Values of different types.
    Tuple(Vec<TypeDescription>),
    /// A tuple of many values of one type.
    Array {
        /// Their type.
        item: Box<TypeDescription>,
        /// How many they are.
        len: u32,
    },
    /// Any number of pairs of a key and a value.
    Map {
        /// The type of the keys.
        key: Box<TypeDescription>,
        /// The type of the values.
        value: Box<TypeDescription>,
    },
    /// Values with names.
    Struct(Vec<FieldDescription>),
    /// One of several variants.
    Enum(Vec<VariantDescription>),
    /// A stream whose holder sends.
    Tx(Box<TypeDescription>),
    /// A stream whose holder receives.
    Rx(Box<TypeDescription>),
}

/// A variant of an enum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VariantDescription {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub fields: VariantFields,
}

/// What a variant of an enum holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum VariantFields {
    /// Nothing.
    Unit,
    /// Values without names.
    Tuple(Vec<TypeDescription>),
    /// Values with names.
    Struct(Vec<FieldDescription>),
}

/// A value without parts.
// It goes over the wire as it stands: what is added to it changes the id of the built-in method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, postcard_schema::Schema)]
#[non_exhaustive]
pub enum Primitive {
    /// `()`, and unit structs.
    Unit,
    /// `bool`.
    Bool,
    /// `i8`.
    I8,
    /// `i16`.
    I16,
    /// `i32`.
    I32,
    /// `i64`.
    I64,
    /// `i128`.
    I128,
    /// `isize`.
    Isize,
    /// `u8`.
    U8,
    /// `u16`.
    U16,
    /// `u32`.
    U32,
    /// `u64`.
    U64,
    /// `u128`.
    U128,
    /// `usize`.
    Usize,
    /// `f32`.
    F32,
    /// `f64`.
    F64,
    /// `char`.
    Char,
    /// Text.
    String,
    /// Bytes: a vector of `u8`, in whatever type.
    Bytes,
    /// A schema of the crate `postcard-schema`.
    Schema,
}
