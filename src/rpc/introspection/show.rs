//! How descriptions are shown: as one would write them in Rust.
//!
//! All names may come from a peer. They are shown with control characters escaped, and cut where no name of
//! a program's goes on, so that they can stand in a log.

use std::fmt::{self, Display, Formatter, Write};

use super::description::{
    FieldDescription, MethodDescription, Primitive, ServiceDescription, Shape, SignatureDescription,
    TypeDescription, VariantDescription, VariantFields,
};

impl Display for ServiceDescription {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "service {}", Name(&self.name))?;
        for method in &self.methods {
            f.write_str("\n    ")?;
            method.fmt(f)?;
        }
        Ok(())
    }
}

impl Display for MethodDescription {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Name(&self.name).fmt(f)?;
        match &self.signature {
            Some(signature) => signature.fmt(f),
            None => write!(f, ", id {}", self.id),
        }
    }
}

impl Display for SignatureDescription {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Parentheses(&self.arguments).fmt(f)?;
        match &self.error {
            None if self.result.shape == Shape::Primitive(Primitive::Unit) => Ok(()),
            None => {
                f.write_str(" -> ")?;
                self.result.fmt(f)
            }
            Some(error) => {
                f.write_str(" -> ")?;
                generic(f, "Result", &[&self.result, error])
            }
        }
    }
}

impl Display for FieldDescription {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", Name(&self.name))?;
        self.ty.fmt(f)
    }
}

impl Display for TypeDescription {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(name) = &self.name else { return self.shape.fmt(f) };
        match &self.shape {
            Shape::Struct(_) | Shape::Enum(_) if !f.alternate() => match self.as_result() {
                Some(types) => generic(f, "Result", &types),
                None => Name(name).fmt(f),
            },
            Shape::Struct(fields) => declared(f, "struct", name, fields),
            Shape::Enum(variants) => match self.as_result() {
                Some(types) => generic(f, "Result", &types),
                None => declared(f, "enum", name, variants),
            },
            Shape::Primitive(Primitive::Unit) => Name(name).fmt(f),
            Shape::Tuple(items) => {
                Name(name).fmt(f)?;
                Parentheses(items).fmt(f)
            }
            wrapped => {
                write!(f, "{}(", Name(name))?;
                wrapped.fmt(f)?;
                f.write_str(")")
            }
        }
    }
}

impl TypeDescription {
    /// The two types of a `Result`, which is an enum like others.
    pub(super) fn as_result(&self) -> Option<[&TypeDescription; 2]> {
        let (Some("Result"), Shape::Enum(variants)) = (self.name.as_deref(), &self.shape) else {
            return None;
        };
        let [ok, err] = &variants[..] else { return None };
        match (&ok.name[..], &ok.fields, &err.name[..], &err.fields) {
            ("Ok", VariantFields::Tuple(value), "Err", VariantFields::Tuple(error)) => {
                match (&value[..], &error[..]) {
                    ([value], [error]) => Some([value, error]),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

impl Display for Shape {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Primitive(primitive) => primitive.fmt(f),
            Shape::Option(inner) => generic(f, "Option", &[inner]),
            Shape::Seq(inner) => generic(f, "Vec", &[inner]),
            Shape::Tx(inner) => generic(f, "Tx", &[inner]),
            Shape::Rx(inner) => generic(f, "Rx", &[inner]),
            Shape::Map { key, value } => generic(f, "Map", &[key, value]),
            Shape::Tuple(items) => tuple(f, items),
            Shape::Array { item, len } => {
                f.write_str("[")?;
                item.fmt(f)?;
                write!(f, "; {len}]")
            }
            Shape::Struct(fields) => {
                f.write_str("struct ")?;
                braces(f, fields)
            }
            Shape::Enum(variants) => {
                f.write_str("enum ")?;
                braces(f, variants)
            }
        }
    }
}

impl Display for VariantDescription {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Name(&self.name).fmt(f)?;
        match &self.fields {
            VariantFields::Unit => Ok(()),
            VariantFields::Tuple(items) => Parentheses(items).fmt(f),
            VariantFields::Struct(fields) => {
                f.write_str(" ")?;
                braces(f, fields)
            }
        }
    }
}

impl Display for Primitive {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Primitive::Unit => "()",
            Primitive::Bool => "bool",
            Primitive::I8 => "i8",
            Primitive::I16 => "i16",
            Primitive::I32 => "i32",
            Primitive::I64 => "i64",
            Primitive::I128 => "i128",
            Primitive::Isize => "isize",
            Primitive::U8 => "u8",
            Primitive::U16 => "u16",
            Primitive::U32 => "u32",
            Primitive::U64 => "u64",
            Primitive::U128 => "u128",
            Primitive::Usize => "usize",
            Primitive::F32 => "f32",
            Primitive::F64 => "f64",
            Primitive::Char => "char",
            Primitive::String => "String",
            Primitive::Bytes => "Bytes",
            Primitive::Schema => "Schema",
        })
    }
}

/// `struct Page { number: u32 }`
fn declared<T: Display>(f: &mut Formatter<'_>, kind: &str, name: &str, members: &[T]) -> fmt::Result {
    write!(f, "{kind} {} ", Name(name))?;
    braces(f, members)
}

fn braces<T: Display>(f: &mut Formatter<'_>, members: &[T]) -> fmt::Result {
    if members.is_empty() {
        return f.write_str("{}");
    }
    f.write_str("{ ")?;
    list(f, members)?;
    f.write_str(" }")
}

/// `(u8, String)`. A tuple of none is not the unit: it is what an array of none is.
fn tuple(f: &mut Formatter<'_>, items: &[TypeDescription]) -> fmt::Result {
    if items.is_empty() {
        return f.write_str("[]");
    }
    f.write_str("(")?;
    list(f, items)?;
    f.write_str(if items.len() == 1 { ",)" } else { ")" })
}

/// `Option<u32>`
fn generic(f: &mut Formatter<'_>, name: &str, types: &[&TypeDescription]) -> fmt::Result {
    write!(f, "{name}<")?;
    list(f, types)?;
    f.write_str(">")
}

fn list<T: Display>(f: &mut Formatter<'_>, members: &[T]) -> fmt::Result {
    for (i, member) in members.iter().enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        member.fmt(f)?;
    }
    Ok(())
}

/// `(a: i32, b: i32)`
pub(super) struct Parentheses<'a, T>(pub(super) &'a [T]);

impl<T: Display> Display for Parentheses<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        list(f, self.0)?;
        f.write_str(")")
    }
}

/// A name that may come from a peer.
pub(super) struct Name<'a>(pub(super) &'a str);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut characters = self.0.chars();
        characters.by_ref().take(LONGEST_NAME).try_for_each(|c| write!(f, "{}", c.escape_debug()))?;
        if characters.next().is_some() { f.write_char('…') } else { Ok(()) }
    }
}

/// Characters of a name that are shown.
const LONGEST_NAME: usize = 64;

/// The text of a description, cut where it gets too long for a line.
pub(super) fn in_a_line(description: &impl Display) -> String {
    let mut line = Line(String::new());
    if write!(line, "{description}").is_err() {
        line.0.push('…');
    }
    line.0
}

struct Line(String);

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > LONGEST_LINE {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// Bytes of a description that are shown in a line.
const LONGEST_LINE: usize = 160;
