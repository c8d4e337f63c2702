//! Types on the wire: a flat table, in which each type comes behind those that it is made of.
//!
//! So nothing that nests is ever decoded, and a type that contains itself cannot be said. A type that is used in
//! many places stands there once; [`Types::read`] writes it out in each of them, within a [`Budget`], because a
//! table of a few hundred bytes can describe a tree that no memory holds.

use std::{collections::HashMap, mem::size_of};

use postcard_schema::{
    Schema,
    schema::{DataModelType, DataModelVariant, NamedType, NamedValue, NamedVariant},
};
use serde::{Deserialize, Serialize};

use super::description::{
    FieldDescription, Primitive, Shape, SignatureDescription, TypeDescription, VariantDescription,
    VariantFields,
};
use crate::rpc::{
    method::Signature,
    method_id::{RX_FIELD, TX_FIELD, plain_name, transparent},
};

/// The arguments and the result of a method, and all types that they are made of.
#[derive(Clone, Debug, Serialize, Deserialize, Schema)]
pub(super) struct SignatureOnWire {
    types: Types,
    arguments: Vec<Field>,
    result: Index,
    error: Option<Index>,
}

/// The table.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Schema)]
struct Types(Vec<Node>);

/// A type's place in the table.
type Index = u32;

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Schema)]
struct Node {
    name: Option<String>,
    shape: NodeShape,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Schema)]
enum NodeShape {
    Primitive(Primitive),
    Option(Index),
    Seq(Index),
    Tuple(Vec<Index>),
    Array { item: Index, len: u32 },
    Map { key: Index, value: Index },
    Struct(Vec<Field>),
    Enum(Vec<Variant>),
    Tx(Index),
    Rx(Index),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Schema)]
struct Field {
    name: String,
    ty: Index,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Schema)]
struct Variant {
    name: String,
    fields: Fields,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Schema)]
enum Fields {
    Unit,
    Tuple(Vec<Index>),
    Struct(Vec<Field>),
}

/// Tuples of one type become arrays beyond this length: `(f32, f32, f32, f32)`, but `[u8; 32]`.
const LONGEST_PLAIN_TUPLE: usize = 4;

/// Types nest this deep and no deeper: values that nest deeper are not read either.
const MAX_DEPTH: u32 = 128;

impl SignatureOnWire {
    /// Describes a signature of this program.
    pub(super) fn of(signature: &Signature) -> Self {
        let mut table = Builder::default();
        let named = signature.names.iter().zip(signature.arguments);
        let arguments =
            named.map(|(name, ty)| Field { name: plain_name(name).to_owned(), ty: table.add(ty) }).collect();
        let result = table.add(signature.result);
        let error = signature.error.map(|error| table.add(error));
        SignatureOnWire { types: table.types, arguments, result, error }
    }

    /// Writes the signature out.
    ///
    /// # Errors
    ///
    /// The table is malformed, nests too deep, or describes more than the budget allows.
    pub(super) fn read(&self, budget: &mut Budget) -> Result<SignatureDescription, Unreadable> {
        let mut reader = Reader { types: &self.types.0, budget };
        let top = self.types.0.len() as u64;
        Ok(SignatureDescription {
            arguments: reader.fields(&self.arguments, top, 0)?,
            result: reader.ty(self.result, top, 0)?,
            error: self.error.map(|error| reader.ty(error, top, 0)).transpose()?,
        })
    }
}

/// Bytes of memory that descriptions may still take.
#[derive(Debug)]
pub(super) struct Budget(usize);

/// Why a description is not read: it makes no sense, or is far larger than any real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("a description refers to a type that does not stand before it")]
    Type,
    #[error("the pages of a description do not continue each other")]
    Page,
    #[error("a description nests types deeper than {MAX_DEPTH} levels")]
    Depth,
    #[error("a description takes more than 16 MiB")]
    Size,
}

impl Budget {
    pub(super) const fn bytes(bytes: usize) -> Self {
        Budget(bytes)
    }

    /// Takes the room for a `T` with a name.
    pub(super) fn take<T>(&mut self, name: &str) -> Result<(), Unreadable> {
        self.take_bytes(size_of::<T>().saturating_add(name.len()))
    }

    pub(super) fn take_bytes(&mut self, bytes: usize) -> Result<(), Unreadable> {
        self.0 = self.0.checked_sub(bytes).ok_or(Unreadable::Size)?;
        Ok(())
    }
}

/// Builds a table: a type that is there already is not added again.
#[derive(Default)]
struct Builder {
    types: Types,
    known: HashMap<Node, Index>,
}

impl Builder {
    fn add(&mut self, named: &NamedType) -> Index {
        let shape = self.shape(transparent(named));
        let node = Node { name: declared_name(named), shape };
        if let Some(index) = self.known.get(&node) {
            return *index;
        }
        let index = Index::try_from(self.types.0.len()).unwrap_or(Index::MAX);
        self.types.0.push(node.clone());
        self.known.insert(node, index);
        index
    }

    /// The same distinctions as in `method_id`, whose module says what counts.
    fn shape(&mut self, ty: &DataModelType) -> NodeShape {
        match ty {
            DataModelType::Option(inner) => NodeShape::Option(self.add(inner)),
            DataModelType::Seq(inner) => match transparent(inner) {
                DataModelType::U8 => NodeShape::Primitive(Primitive::Bytes),
                _ => NodeShape::Seq(self.add(inner)),
            },
            DataModelType::Tuple(types) | DataModelType::TupleStruct(types) => self.tuple(types),
            DataModelType::Map { key, val } => NodeShape::Map { key: self.add(key), value: self.add(val) },
            DataModelType::Struct([field]) if field.name == TX_FIELD => NodeShape::Tx(self.add(field.ty)),
            DataModelType::Struct([field]) if field.name == RX_FIELD => NodeShape::Rx(self.add(field.ty)),
            DataModelType::Struct(fields) => NodeShape::Struct(self.fields(fields)),
            DataModelType::Enum(variants) => {
                NodeShape::Enum(variants.iter().map(|variant| self.variant(variant)).collect())
            }
            // `transparent` has taken newtypes away; they would be what they wrap.
            DataModelType::NewtypeStruct(inner) => self.shape(inner.ty),
            plain => NodeShape::Primitive(primitive(plain)),
        }
    }

    fn tuple(&mut self, types: &[&NamedType]) -> NodeShape {
        let items = self.types(types);
        match items[..] {
            [item, ..] if items.len() > LONGEST_PLAIN_TUPLE && items.iter().all(|other| *other == item) => {
                NodeShape::Array { item, len: u32::try_from(items.len()).unwrap_or(u32::MAX) }
            }
            _ => NodeShape::Tuple(items),
        }
    }

    fn types(&mut self, types: &[&NamedType]) -> Vec<Index> {
        types.iter().map(|ty| self.add(ty)).collect()
    }

    fn fields(&mut self, fields: &[&NamedValue]) -> Vec<Field> {
        fields
            .iter()
            .map(|field| Field { name: plain_name(field.name).to_owned(), ty: self.add(field.ty) })
            .collect()
    }

    fn variant(&mut self, variant: &NamedVariant) -> Variant {
        let fields = match variant.ty {
            DataModelVariant::UnitVariant => Fields::Unit,
            DataModelVariant::NewtypeVariant(inner) => Fields::Tuple(vec![self.add(inner)]),
            DataModelVariant::TupleVariant(types) => Fields::Tuple(self.types(types)),
            DataModelVariant::StructVariant(fields) => Fields::Struct(self.fields(fields)),
        };
        Variant { name: plain_name(variant.name).to_owned(), fields }
    }
}

/// The name of a type that somebody declared. Schemas name the types of the language, too: after their own
/// names, or with the parameters of their declaration.
fn declared_name(named: &NamedType) -> Option<String> {
    let declared = match named.ty {
        DataModelType::Struct([field]) => field.name != TX_FIELD && field.name != RX_FIELD,
        DataModelType::Struct(_)
        | DataModelType::Enum(_)
        | DataModelType::NewtypeStruct(_)
        | DataModelType::TupleStruct(_)
        | DataModelType::UnitStruct => true,
        _ => false,
    };
    let name = named.name.split('<').next().unwrap_or_default();
    declared.then(|| plain_name(name).to_owned())
}

fn primitive(ty: &DataModelType) -> Primitive {
    match ty {
        DataModelType::Bool => Primitive::Bool,
        DataModelType::I8 => Primitive::I8,
        DataModelType::U8 => Primitive::U8,
        DataModelType::I16 => Primitive::I16,
        DataModelType::I32 => Primitive::I32,
        DataModelType::I64 => Primitive::I64,
        DataModelType::I128 => Primitive::I128,
        DataModelType::U16 => Primitive::U16,
        DataModelType::U32 => Primitive::U32,
        DataModelType::U64 => Primitive::U64,
        DataModelType::U128 => Primitive::U128,
        DataModelType::Usize => Primitive::Usize,
        DataModelType::Isize => Primitive::Isize,
        DataModelType::F32 => Primitive::F32,
        DataModelType::F64 => Primitive::F64,
        DataModelType::Char => Primitive::Char,
        DataModelType::String => Primitive::String,
        DataModelType::ByteArray => Primitive::Bytes,
        DataModelType::Schema => Primitive::Schema,
        // Everything with parts was taken by `shape`.
        _ => Primitive::Unit,
    }
}

/// Writes types out as trees.
struct Reader<'a> {
    types: &'a [Node],
    budget: &'a mut Budget,
}

impl Reader<'_> {
    /// The type at `index`, which must come before `above`, so that no type contains itself.
    fn ty(&mut self, index: Index, above: u64, depth: u32) -> Result<TypeDescription, Unreadable> {
        let at = u64::from(index);
        let node = usize::try_from(index).ok().and_then(|index| self.types.get(index));
        let node = node.filter(|_| at < above).ok_or(Unreadable::Type)?;
        if depth >= MAX_DEPTH {
            return Err(Unreadable::Depth);
        }
        let name = node.name.clone();
        self.budget.take::<TypeDescription>(name.as_deref().unwrap_or_default())?;
        let mut inner = |index: Index| self.ty(index, at, depth + 1).map(Box::new);
        let shape = match &node.shape {
            NodeShape::Primitive(primitive) => Shape::Primitive(*primitive),
            NodeShape::Option(item) => Shape::Option(inner(*item)?),
            NodeShape::Seq(item) => Shape::Seq(inner(*item)?),
            NodeShape::Array { item, len } => Shape::Array { item: inner(*item)?, len: *len },
            NodeShape::Map { key, value } => Shape::Map { key: inner(*key)?, value: inner(*value)? },
            NodeShape::Tx(item) => Shape::Tx(inner(*item)?),
            NodeShape::Rx(item) => Shape::Rx(inner(*item)?),
            NodeShape::Tuple(items) => Shape::Tuple(self.items(items, at, depth + 1)?),
            NodeShape::Struct(fields) => Shape::Struct(self.fields(fields, at, depth + 1)?),
            NodeShape::Enum(variants) => Shape::Enum(self.variants(variants, at, depth + 1)?),
        };
        Ok(TypeDescription { name, shape })
    }

    fn items(&mut self, items: &[Index], above: u64, depth: u32) -> Result<Vec<TypeDescription>, Unreadable> {
        items.iter().map(|item| self.ty(*item, above, depth)).collect()
    }

    fn fields(
        &mut self,
        fields: &[Field],
        above: u64,
        depth: u32,
    ) -> Result<Vec<FieldDescription>, Unreadable> {
        let field = |field: &Field| {
            self.budget.take::<FieldDescription>(&field.name)?;
            Ok(FieldDescription { name: field.name.clone(), ty: self.ty(field.ty, above, depth)? })
        };
        fields.iter().map(field).collect()
    }

    fn variants(
        &mut self,
        variants: &[Variant],
        above: u64,
        depth: u32,
    ) -> Result<Vec<VariantDescription>, Unreadable> {
        let variant = |variant: &Variant| {
            self.budget.take::<VariantDescription>(&variant.name)?;
            let fields = match &variant.fields {
                Fields::Unit => VariantFields::Unit,
                Fields::Tuple(items) => VariantFields::Tuple(self.items(items, above, depth)?),
                Fields::Struct(fields) => VariantFields::Struct(self.fields(fields, above, depth)?),
            };
            Ok(VariantDescription { name: variant.name.clone(), fields })
        };
        variants.iter().map(variant).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 1 << 20;

    fn node(shape: NodeShape) -> Node {
        Node { name: None, shape }
    }

    fn read(types: Vec<Node>, result: Index) -> Result<SignatureDescription, Unreadable> {
        let signature = SignatureOnWire { types: Types(types), arguments: Vec::new(), result, error: None };
        signature.read(&mut Budget::bytes(ROOM))
    }

    #[test]
    fn a_type_stands_in_the_table_once() {
        const PAIRS: &NamedType = <Vec<(u32, Option<u32>)>>::SCHEMA;
        let signature = crate::rpc::method::signature(&["a", "b"], &[PAIRS, u32::SCHEMA], PAIRS, Some(PAIRS));
        let table = SignatureOnWire::of(&signature);
        let expected = [
            node(NodeShape::Primitive(Primitive::U32)),
            node(NodeShape::Option(0)),
            node(NodeShape::Tuple(vec![0, 1])),
            node(NodeShape::Seq(2)),
        ];
        assert_eq!(table.types.0, expected);
        assert_eq!(
            (table.arguments[0].ty, table.arguments[1].ty, table.result, table.error),
            (3, 0, 3, Some(3))
        );
    }

    #[test]
    fn a_large_array_takes_no_room() {
        const BLOCK: &NamedType = <[[f32; 1000]; 1000]>::SCHEMA;
        let table = SignatureOnWire::of(&crate::rpc::method::signature(&[], &[], BLOCK, None));
        assert_eq!(table.types.0.len(), 3);
        assert_eq!(table.read(&mut Budget::bytes(1000)).unwrap().result.to_string(), "[[f32; 1000]; 1000]");
    }

    #[test]
    fn a_type_that_contains_itself_is_refused() {
        let leaf = || node(NodeShape::Primitive(Primitive::U8));
        for shape in [
            NodeShape::Option(1),
            NodeShape::Seq(2),
            NodeShape::Tx(u32::MAX),
            NodeShape::Map { key: 0, value: 1 },
            NodeShape::Struct(vec![Field { name: "f".into(), ty: 1 }]),
            NodeShape::Enum(vec![Variant { name: "V".into(), fields: Fields::Tuple(vec![0, 2]) }]),
            NodeShape::Tuple(vec![0, 0, 1]),
        ] {
            assert_eq!(read(vec![leaf(), node(shape), leaf()], 1), Err(Unreadable::Type));
        }
        assert!(read(vec![leaf(), node(NodeShape::Option(0))], 1).is_ok());
        assert_eq!(read(vec![leaf()], 1), Err(Unreadable::Type));
        assert_eq!(read(Vec::new(), 0), Err(Unreadable::Type));
    }

    #[test]
    fn types_nest_up_to_the_limit() {
        let chain = |depth: u32| {
            let options = (0..depth - 1).map(|index| node(NodeShape::Option(index)));
            let leaf = node(NodeShape::Primitive(Primitive::U8));
            read(std::iter::once(leaf).chain(options).collect(), depth - 1)
        };
        assert!(chain(MAX_DEPTH).is_ok());
        assert_eq!(chain(MAX_DEPTH + 1), Err(Unreadable::Depth));
        assert_eq!(chain(100_000), Err(Unreadable::Depth));
    }

    #[test]
    fn a_small_table_of_a_tree_without_end_is_refused() {
        // Each type holds the one before it twice: 2^100 of the first.
        let pairs = (0..100).map(|index| node(NodeShape::Tuple(vec![index, index])));
        let leaf = node(NodeShape::Primitive(Primitive::U8));
        assert_eq!(read(std::iter::once(leaf).chain(pairs).collect(), 100), Err(Unreadable::Size));
        // Each name counts as often as it is written out.
        let long = Node { name: Some("x".repeat(ROOM / 4)), shape: NodeShape::Primitive(Primitive::U8) };
        assert!(read(vec![long.clone(), node(NodeShape::Tuple(vec![0, 0, 0]))], 1).is_ok());
        assert_eq!(read(vec![long, node(NodeShape::Tuple(vec![0, 0, 0, 0]))], 1), Err(Unreadable::Size));
        let field = Field { name: "x".repeat(ROOM / 2), ty: 0 };
        let leaf = node(NodeShape::Primitive(Primitive::U8));
        assert_eq!(
            read(vec![leaf, node(NodeShape::Struct(vec![field.clone(), field]))], 1),
            Err(Unreadable::Size)
        );
    }
}
