//! What a method is called on the wire: a hash of its names and of the structure of its types.
//!
//! The id is computed at compile time from a service's name, a method's name and the schemas of the
//! arguments and the result. The schemas are those of `postcard-schema`, the hash is ours: that crate's own
//! key flattens the tree before it hashes, so that two different structures can share one.
//!
//! # What counts
//!
//! | counts                                              | does not count                                     |
//! |-----------------------------------------------------|----------------------------------------------------|
//! | the service's and the method's name                 | the names of types                                 |
//! | number, order and structure of the arguments        | the names of arguments                             |
//! | names and order of fields and of variants           | a newtype around a type, when it has no field name |
//! | whether there is an error type, and its structure   | a unit struct or tuple struct in place of a tuple  |
//! | every kind of node, even where two kinds share bytes | a byte array in place of a sequence of `u8`        |
//!
//! The right column follows one rule: what neither changes the bytes on the wire nor the name of a field or
//! variant may be changed freely. So wrapping a `u64` in a `PageNumber`, or answering with `Bytes` what was a
//! `Vec<u8>`, keeps the id. Kinds that mean different things (`u64` and `usize`, a map and a sequence of
//! pairs, `i8` and `u8`) stay apart, even though some of them share an encoding.
//!
//! # Why two structures cannot be confused
//!
//! The bytes that are hashed are a prefix code. Each node starts with a tag of one byte that says what
//! follows, each list with its count, each name with its length. The tree can be read back from them, so two
//! trees that differ in the left column differ in their bytes. Then FNV-1a with 64 bits runs over them, and
//! a finalizer spreads the last bytes over the whole word.
//!
//! The tags, the order and the hash are part of the wire: an id that changes breaks every peer. The golden
//! values in the tests pin them.
//!
//! A type that contains itself has no finite schema; a method that uses one needs a pinned id.

use core::fmt;

use postcard_schema::schema::{DataModelType, DataModelVariant, NamedType, NamedValue, NamedVariant};

/// The name of a method on the wire.
///
/// Shown in hexadecimal, as it is written in `#[adjoin(id = 0x…)]`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct MethodId(u64);

impl MethodId {
    /// Makes an id of a number that was agreed on: with a foreign peer, or before a rename.
    #[must_use]
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// Returns the number that stands on the wire.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MethodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl fmt::Debug for MethodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MethodId({self})")
    }
}

/// The only field of the schema of a `Tx`. A space cannot be in the name of a Rust field.
pub(crate) const TX_FIELD: &str = "adjoin tx";

/// The only field of the schema of an `Rx`.
pub(crate) const RX_FIELD: &str = "adjoin rx";

/// The only field of the schema of a descriptor.
pub(crate) const DESCRIPTOR_FIELD: &str = "adjoin descriptor";

/// The name without the prefix of a raw identifier. `r#type` and `type` are one name: whether a word needs the
/// prefix depends on the edition of the crate that wrote it.
pub(crate) fn plain_name(name: &str) -> &str {
    name.strip_prefix("r#").unwrap_or(name)
}

/// Computes the id of a method from its names and the schemas of its types.
///
/// `args` are the arguments in order, `ok` is the plain result or the one inside `Ok`, and `err` is the
/// error type of a method that returns a `Result`.
#[must_use]
pub(crate) const fn method_id(
    service: &str,
    method: &str,
    args: &[&NamedType],
    ok: &NamedType,
    err: Option<&NamedType>,
) -> MethodId {
    let mut hash = Fnv::new();
    hash.name(service);
    hash.name(method);
    hash.types(args);
    match err {
        None => {
            hash.byte(tag::INFALLIBLE);
            hash.ty(ok);
        }
        Some(err) => {
            hash.byte(tag::FALLIBLE);
            hash.ty(ok);
            hash.ty(err);
        }
    }
    MethodId(hash.finish())
}

/// Tells whether `id` stands exactly once in `ids`: two methods of one service must not share an id.
#[must_use]
pub const fn occurs_once(id: MethodId, ids: &[MethodId]) -> bool {
    let mut seen = 0;
    let mut i = 0;
    while i < ids.len() {
        if ids[i].0 == id.0 {
            seen += 1;
        }
        i += 1;
    }
    seen == 1
}

/// Tells whether a `Tx`, an `Rx` or a descriptor stands anywhere in a type: an error type must not hold one.
#[must_use]
pub const fn carries_channel(schema: &NamedType) -> bool {
    match schema.ty {
        DataModelType::Option(inner) | DataModelType::NewtypeStruct(inner) | DataModelType::Seq(inner) => {
            carries_channel(inner)
        }
        DataModelType::Tuple(types) | DataModelType::TupleStruct(types) => any_carries_channel(types),
        DataModelType::Map { key, val } => carries_channel(key) || carries_channel(val),
        DataModelType::Struct(fields) => any_field_carries_channel(fields),
        DataModelType::Enum(variants) => {
            let mut i = 0;
            while i < variants.len() {
                let found = match variants[i].ty {
                    DataModelVariant::UnitVariant => false,
                    DataModelVariant::NewtypeVariant(inner) => carries_channel(inner),
                    DataModelVariant::TupleVariant(types) => any_carries_channel(types),
                    DataModelVariant::StructVariant(fields) => any_field_carries_channel(fields),
                };
                if found {
                    return true;
                }
                i += 1;
            }
            false
        }
        _ => false,
    }
}

/// Tells whether every value of a type has a descriptor in it: one that does not stand in an `Option`, in a variant or in
/// a sequence.
pub(crate) const fn always_carries_descriptor(schema: &NamedType) -> bool {
    match schema.ty {
        DataModelType::NewtypeStruct(inner) => always_carries_descriptor(inner),
        DataModelType::Tuple(types) | DataModelType::TupleStruct(types) => {
            let mut i = 0;
            while i < types.len() {
                if always_carries_descriptor(types[i]) {
                    return true;
                }
                i += 1;
            }
            false
        }
        DataModelType::Struct(fields) => {
            let mut i = 0;
            while i < fields.len() {
                if same(fields[i].name, DESCRIPTOR_FIELD) || always_carries_descriptor(fields[i].ty) {
                    return true;
                }
                i += 1;
            }
            false
        }
        _ => false,
    }
}

const fn any_carries_channel(types: &[&NamedType]) -> bool {
    let mut i = 0;
    while i < types.len() {
        if carries_channel(types[i]) {
            return true;
        }
        i += 1;
    }
    false
}

const fn any_field_carries_channel(fields: &[&NamedValue]) -> bool {
    let mut i = 0;
    while i < fields.len() {
        let name = fields[i].name;
        let is_handle = same(name, TX_FIELD) || same(name, RX_FIELD) || same(name, DESCRIPTOR_FIELD);
        if is_handle || carries_channel(fields[i].ty) {
            return true;
        }
        i += 1;
    }
    false
}

/// `==` for strings, which is not const.
const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// FNV-1a with 64 bits over the encoding that the module describes.
struct Fnv(u64);

impl Fnv {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;

    const fn new() -> Self {
        Self(Self::OFFSET_BASIS)
    }

    const fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ byte as u64).wrapping_mul(Self::PRIME);
    }

    const fn bytes(&mut self, bytes: &[u8], from: usize) {
        let mut i = from;
        while i < bytes.len() {
            self.byte(bytes[i]);
            i += 1;
        }
    }

    /// A count or a length, always in 8 bytes, so that it is the same on every target.
    const fn count(&mut self, count: usize) {
        self.bytes(&(count as u64).to_le_bytes(), 0);
    }

    /// A name behind its length, as [`plain_name`] has it, which is not const.
    const fn name(&mut self, name: &str) {
        let name = name.as_bytes();
        let from = if let [b'r', b'#', ..] = name { 2 } else { 0 };
        self.count(name.len() - from);
        self.bytes(name, from);
    }

    const fn types(&mut self, types: &[&NamedType]) {
        self.count(types.len());
        let mut i = 0;
        while i < types.len() {
            self.ty(types[i]);
            i += 1;
        }
    }

    const fn fields(&mut self, fields: &[&NamedValue]) {
        self.count(fields.len());
        let mut i = 0;
        while i < fields.len() {
            self.name(fields[i].name);
            self.ty(fields[i].ty);
            i += 1;
        }
    }

    const fn variants(&mut self, variants: &[&NamedVariant]) {
        self.count(variants.len());
        let mut i = 0;
        while i < variants.len() {
            self.name(variants[i].name);
            match variants[i].ty {
                DataModelVariant::UnitVariant => self.byte(tag::UNIT_VARIANT),
                // `V(T)` is a tuple variant of one: the derive says newtype, `Result`'s own schema says tuple.
                DataModelVariant::NewtypeVariant(inner) => {
                    self.byte(tag::TUPLE_VARIANT);
                    self.count(1);
                    self.ty(inner);
                }
                DataModelVariant::TupleVariant(types) => {
                    self.byte(tag::TUPLE_VARIANT);
                    self.types(types);
                }
                DataModelVariant::StructVariant(fields) => {
                    self.byte(tag::STRUCT_VARIANT);
                    self.fields(fields);
                }
            }
            i += 1;
        }
    }

    const fn ty(&mut self, named: &NamedType) {
        let ty = transparent(named);
        self.byte(tag::of(ty));
        match ty {
            DataModelType::Seq(inner) if is_u8(inner) => {}
            DataModelType::Option(inner) | DataModelType::Seq(inner) => self.ty(inner),
            DataModelType::Tuple(types) | DataModelType::TupleStruct(types) => self.types(types),
            DataModelType::Map { key, val } => {
                self.ty(key);
                self.ty(val);
            }
            DataModelType::Struct(fields) => self.fields(fields),
            DataModelType::Enum(variants) => self.variants(variants),
            _ => {}
        }
    }

    /// The finalizer of SplitMix64: every bit of the input reaches every bit of the id.
    const fn finish(&self) -> u64 {
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// Looks through newtype structs, which leave no trace on the wire.
pub(crate) const fn transparent(named: &NamedType) -> &'static DataModelType {
    let mut ty = named.ty;
    while let DataModelType::NewtypeStruct(inner) = ty {
        ty = inner.ty;
    }
    ty
}

const fn is_u8(named: &NamedType) -> bool {
    matches!(transparent(named), DataModelType::U8)
}

/// The first byte of each node. A tag is never given a second meaning.
mod tag {
    use super::{DataModelType, is_u8};

    pub(super) const UNIT_VARIANT: u8 = 64;
    pub(super) const TUPLE_VARIANT: u8 = 65;
    pub(super) const STRUCT_VARIANT: u8 = 66;
    pub(super) const INFALLIBLE: u8 = 96;
    pub(super) const FALLIBLE: u8 = 97;

    pub(super) const fn of(ty: &DataModelType) -> u8 {
        match ty {
            DataModelType::Bool => 1,
            DataModelType::I8 => 2,
            DataModelType::U8 => 3,
            DataModelType::I16 => 4,
            DataModelType::I32 => 5,
            DataModelType::I64 => 6,
            DataModelType::I128 => 7,
            DataModelType::U16 => 8,
            DataModelType::U32 => 9,
            DataModelType::U64 => 10,
            DataModelType::U128 => 11,
            DataModelType::Usize => 12,
            DataModelType::Isize => 13,
            DataModelType::F32 => 14,
            DataModelType::F64 => 15,
            DataModelType::Char => 16,
            DataModelType::String => 17,
            DataModelType::ByteArray => 18,
            DataModelType::Seq(inner) if is_u8(inner) => 18,
            DataModelType::Option(_) => 19,
            DataModelType::Unit | DataModelType::UnitStruct => 20,
            DataModelType::Seq(_) => 21,
            DataModelType::Tuple(_) | DataModelType::TupleStruct(_) => 22,
            DataModelType::Map { .. } => 23,
            DataModelType::Struct(_) => 24,
            DataModelType::Enum(_) => 25,
            DataModelType::Schema => 26,
            // `transparent` has taken these away.
            DataModelType::NewtypeStruct(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use postcard_schema::Schema;

    use super::*;

    const U8: &NamedType = u8::SCHEMA;
    const STRING: &NamedType = String::SCHEMA;

    /// The id of a method of one argument.
    fn of<T: Schema>() -> u64 {
        method_id("Service", "method", &[T::SCHEMA], <()>::SCHEMA, None).get()
    }

    mod before {
        #[derive(postcard_schema::Schema)]
        #[expect(dead_code)]
        pub(super) struct Page {
            number: u32,
            title: Option<String>,
        }

        #[derive(postcard_schema::Schema)]
        #[expect(dead_code)]
        pub(super) enum Shape {
            Dot,
            Circle(f32),
            Box { w: f32, h: f32 },
        }
    }

    #[test]
    fn ids_of_this_version_are_the_ids_of_the_next() {
        let none = method_id("Service", "method", &[], <()>::SCHEMA, None);
        assert_eq!(none.to_string(), "0x1f70254d478866f3");
        let page = method_id("Thumbnails", "render", &[before::Page::SCHEMA, U8], STRING, Some(STRING));
        assert_eq!(page.to_string(), "0xce8f2c71faac04de");
        let shape = method_id("Shapes", "area", &[before::Shape::SCHEMA], f64::SCHEMA, None);
        assert_eq!(shape.to_string(), "0x0aefd237c333901a");
        let map = method_id("Maps", "merge", &[<BTreeMap<String, Vec<(u8, i64)>>>::SCHEMA], U8, None);
        assert_eq!(map.to_string(), "0xc8d94ac365c7bf35");
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        let mut hash = Fnv::new();
        hash.bytes(b"foobar", 0);
        assert_eq!(hash.0, 0x8594_4171_f739_67e8, "the test vector of the reference implementation");
    }

    #[test]
    fn an_id_is_shown_in_hexadecimal() {
        assert_eq!(MethodId::new(0x1f).to_string(), "0x000000000000001f");
        assert_eq!(format!("{:?}", MethodId::new(0x1f)), "MethodId(0x000000000000001f)");
    }

    #[test]
    fn renaming_a_type_keeps_the_id() {
        #[derive(Schema)]
        #[expect(dead_code)]
        struct Sheet {
            number: u32,
            title: Option<String>,
        }
        #[derive(Schema)]
        #[expect(dead_code)]
        enum Figure {
            Dot,
            Circle(f32),
            Box { w: f32, h: f32 },
        }
        assert_eq!(of::<before::Page>(), of::<Sheet>());
        assert_eq!(of::<before::Shape>(), of::<Figure>());
    }

    #[test]
    fn renaming_a_field_or_a_variant_changes_the_id() {
        #[derive(Schema)]
        #[expect(dead_code)]
        struct Page {
            index: u32,
            title: Option<String>,
        }
        #[derive(Schema)]
        #[expect(dead_code)]
        enum Figure {
            Point,
            Circle(f32),
            Box { w: f32, h: f32 },
        }
        #[derive(Schema)]
        #[expect(dead_code)]
        enum Wide {
            Dot,
            Circle(f32),
            Box { wide: f32, h: f32 },
        }
        assert_ne!(of::<before::Page>(), of::<Page>());
        assert_ne!(of::<before::Shape>(), of::<Figure>());
        assert_ne!(of::<before::Shape>(), of::<Wide>());
    }

    #[test]
    fn reordering_fields_or_variants_changes_the_id() {
        #[derive(Schema)]
        #[expect(dead_code)]
        struct Page {
            title: Option<String>,
            number: u32,
        }
        #[derive(Schema)]
        #[expect(dead_code)]
        enum Shape {
            Circle(f32),
            Dot,
            Box { w: f32, h: f32 },
        }
        assert_ne!(of::<before::Page>(), of::<Page>());
        assert_ne!(of::<before::Shape>(), of::<Shape>());
    }

    #[test]
    fn names_and_arguments_and_result_all_count() {
        let unit = <()>::SCHEMA;
        let ids = [
            method_id("A", "m", &[U8, STRING], unit, None),
            method_id("B", "m", &[U8, STRING], unit, None),
            method_id("A", "n", &[U8, STRING], unit, None),
            method_id("A", "m", &[STRING, U8], unit, None),
            method_id("A", "m", &[U8], unit, None),
            method_id("A", "m", &[U8, STRING, STRING], unit, None),
            method_id("A", "m", &[<(u8, String)>::SCHEMA], unit, None),
            method_id("A", "m", &[U8], STRING, None),
            method_id("A", "m", &[U8, STRING], U8, None),
            method_id("A", "m", &[U8, STRING], unit, Some(unit)),
            method_id("A", "m", &[U8, STRING], unit, Some(U8)),
            method_id("A", "m", &[U8, STRING], U8, Some(unit)),
            method_id("A", "m", &[U8, STRING], <Result<(), ()>>::SCHEMA, None),
            method_id("Am", "", &[U8, STRING], unit, None),
            method_id("", "Am", &[U8, STRING], unit, None),
        ];
        for id in ids {
            assert!(occurs_once(id, &ids), "{id} stands twice in {ids:?}");
        }
    }

    #[test]
    fn names_cannot_run_into_each_other() {
        #[derive(Schema)]
        #[expect(dead_code)]
        struct Left {
            a: u8,
            bc: u8,
        }
        #[derive(Schema)]
        #[expect(dead_code)]
        struct Right {
            ab: u8,
            c: u8,
        }
        #[derive(Schema)]
        #[expect(dead_code)]
        struct Whole {
            abc: u8,
        }
        let ids = [of::<Left>(), of::<Right>(), of::<Whole>(), of::<(u8, u8)>()].map(MethodId::new);
        assert!(ids.iter().all(|id| occurs_once(*id, &ids)), "{ids:?}");
    }

    #[test]
    fn nesting_and_kinds_cannot_be_confused() {
        let ids = [
            of::<((u8, u8), u8)>(),
            of::<(u8, (u8, u8))>(),
            of::<(u8, u8, u8)>(),
            of::<((u8, u8, u8),)>(),
            of::<Option<u16>>(),
            of::<Vec<u16>>(),
            of::<Option<Vec<u16>>>(),
            of::<Vec<Option<u16>>>(),
            of::<(u16,)>(),
            of::<u16>(),
            of::<[u16; 2]>(),
            of::<(u16, u16, u16, u16)>(),
            of::<BTreeMap<u16, u32>>(),
            of::<BTreeMap<u32, u16>>(),
            of::<Vec<(u16, u32)>>(),
            of::<(Vec<u16>, u32)>(),
            of::<Result<u16, u32>>(),
            of::<Result<u32, u16>>(),
            of::<Result<(), ()>>(),
            of::<Option<()>>(),
            of::<()>(),
            of::<String>(),
            of::<Vec<u8>>(),
            of::<Vec<i8>>(),
            of::<Vec<char>>(),
        ]
        .map(MethodId::new);
        assert!(ids.iter().all(|id| occurs_once(*id, &ids)), "{ids:?}");
    }

    #[test]
    fn what_leaves_the_bytes_alone_keeps_the_id() {
        #[derive(Schema)]
        struct Number(#[expect(dead_code)] u64);
        #[derive(Schema)]
        struct Outer(#[expect(dead_code)] Number);
        #[derive(Schema)]
        struct Marker;
        #[derive(Schema)]
        struct Pair(#[expect(dead_code)] u8, #[expect(dead_code)] String);
        #[derive(Schema)]
        struct Byte(#[expect(dead_code)] u8);
        #[derive(Schema)]
        #[expect(dead_code)]
        enum Outcome {
            Ok(u8),
            Err(String),
        }
        const BYTES: &NamedType = &NamedType { name: "Bytes", ty: &DataModelType::ByteArray };

        assert_eq!(of::<Number>(), of::<u64>());
        assert_eq!(of::<Outer>(), of::<u64>());
        assert_eq!(of::<Marker>(), of::<()>());
        assert_eq!(of::<Pair>(), of::<(u8, String)>());
        assert_eq!(of::<Outcome>(), of::<Result<u8, String>>());
        assert_eq!(of::<Vec<Byte>>(), of::<Vec<u8>>());
        assert_eq!(of::<Vec<u8>>(), method_id("Service", "method", &[BYTES], <()>::SCHEMA, None).get());
    }

    #[test]
    fn a_raw_name_is_its_plain_name() {
        let method = |name| method_id("Service", name, &[], <()>::SCHEMA, None);
        assert_eq!(method("r#type"), method("type"));
    }

    #[test]
    fn an_id_that_stands_twice_is_found() {
        let (a, b) = (MethodId::new(1), MethodId::new(2));
        assert!(occurs_once(a, &[a, b]));
        assert!(!occurs_once(a, &[a, b, a]));
        assert!(!occurs_once(a, &[]));
    }

    #[test]
    fn a_channel_is_found_at_any_depth() {
        struct Tx;
        impl Schema for Tx {
            const SCHEMA: &'static NamedType = &NamedType {
                name: "Tx",
                ty: &DataModelType::Struct(&[&NamedValue { name: TX_FIELD, ty: u8::SCHEMA }]),
            };
        }
        #[derive(Schema)]
        #[expect(dead_code)]
        enum Deep {
            Nothing,
            Something { inner: Vec<(u8, Option<Tx>)> },
        }
        assert!(carries_channel(Tx::SCHEMA));
        assert!(carries_channel(Deep::SCHEMA));
        assert!(carries_channel(<BTreeMap<u8, Result<u8, Tx>>>::SCHEMA));
        assert!(!carries_channel(before::Page::SCHEMA));
        assert!(!carries_channel(before::Shape::SCHEMA));
        assert_ne!(of::<Tx>(), of::<u8>());
    }

    #[cfg(unix)]
    #[test]
    fn a_descriptor_that_every_value_has_is_told_from_one_that_some_have() {
        use crate::Descriptor;
        #[derive(Schema)]
        #[expect(dead_code)]
        struct Always {
            name: String,
            inner: (u8, Descriptor),
        }
        #[derive(Schema)]
        #[expect(dead_code)]
        enum Some {
            This(Descriptor),
        }
        assert!(always_carries_descriptor(Descriptor::SCHEMA));
        assert!(always_carries_descriptor(Always::SCHEMA));
        for schema in [
            <Option<Descriptor>>::SCHEMA,
            <Vec<Always>>::SCHEMA,
            Some::SCHEMA,
            <BTreeMap<u8, Descriptor>>::SCHEMA,
            before::Page::SCHEMA,
        ] {
            assert!(!always_carries_descriptor(schema));
        }
        assert!(carries_channel(Some::SCHEMA) && carries_channel(<Vec<Always>>::SCHEMA));
        assert_ne!(of::<Descriptor>(), of::<u64>());
    }

    #[test]
    fn a_large_array_is_hashed_at_compile_time() {
        const ID: MethodId = method_id("Blocks", "write", &[<[u32; 4096]>::SCHEMA], <()>::SCHEMA, None);
        assert_ne!(ID, method_id("Blocks", "write", &[<[u32; 4095]>::SCHEMA], <()>::SCHEMA, None));
    }
}
