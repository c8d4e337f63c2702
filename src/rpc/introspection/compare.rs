//! Where two signatures differ.
//!
//! Two signatures differ here if, and only if, a method would have another id for it: names of types and
//! arguments do not count, and neither does what [`description`](super::description) leaves out.

use std::collections::HashMap;

use super::{
    description::{
        FieldDescription, Shape, SignatureDescription, TypeDescription, VariantDescription, VariantFields,
    },
    explanation::Difference,
    show::{Name, Parentheses, in_a_line},
};

/// Finds the places where two signatures differ, at most [`MAX_DIFFERENCES`]. None: they count as the same.
pub(super) fn differences(here: &SignatureDescription, there: &SignatureDescription) -> Vec<Difference> {
    let mut comparison = Comparison::default();
    comparison.arguments(&here.arguments, &there.arguments);
    comparison.within("result".into(), |at| at.ty(&here.result, &there.result));
    comparison.within("error".into(), |at| match (&here.error, &there.error) {
        (Some(here), Some(there)) => at.ty(here, there),
        (None, None) => {}
        (here, there) => {
            let shown = |error: &Option<_>| error.as_ref().map_or_else(|| "none".to_owned(), in_a_line);
            at.found(Some(shown(here)), Some(shown(there)));
        }
    });
    comparison.found
}

/// More would not be read.
const MAX_DIFFERENCES: usize = 16;

#[derive(Default)]
struct Comparison {
    /// The way to what is compared: `argument 2 "page"`, `field "size"`.
    place: Vec<String>,
    found: Vec<Difference>,
}

impl Comparison {
    /// Compares something that lies one step further on.
    fn within(&mut self, step: String, compare: impl FnOnce(&mut Self)) {
        if self.found.len() < MAX_DIFFERENCES {
            self.place.push(step);
            compare(self);
            self.place.pop();
        }
    }

    /// The two sides differ in this place. `None`: nothing stands there.
    fn found(&mut self, here: Option<String>, there: Option<String>) {
        if self.found.len() < MAX_DIFFERENCES {
            self.found.push(Difference { place: self.place.join(", "), here, there });
        }
    }

    fn arguments(&mut self, here: &[FieldDescription], there: &[FieldDescription]) {
        if here.len() != there.len() {
            let count =
                |arguments: &[_]| format!("{} {}", arguments.len(), in_a_line(&Parentheses(arguments)));
            return self
                .within("number of arguments".into(), |at| at.found(Some(count(here)), Some(count(there))));
        }
        for (i, (here, there)) in here.iter().zip(there).enumerate() {
            let step = format!("argument {} \"{}\"", i + 1, Name(&here.name));
            self.within(step, |at| at.ty(&here.ty, &there.ty));
        }
    }

    fn ty(&mut self, here: &TypeDescription, there: &TypeDescription) {
        match (&here.shape, &there.shape) {
            (Shape::Primitive(a), Shape::Primitive(b)) if a == b => {}
            (Shape::Option(a), Shape::Option(b)) => self.within("inside the Option".into(), |at| at.ty(a, b)),
            (Shape::Seq(a), Shape::Seq(b)) => self.within("element".into(), |at| at.ty(a, b)),
            (Shape::Tx(a), Shape::Tx(b)) | (Shape::Rx(a), Shape::Rx(b)) => {
                self.within("element of the stream".into(), |at| at.ty(a, b));
            }
            (Shape::Map { key: a, value: x }, Shape::Map { key: b, value: y }) => {
                self.within("key".into(), |at| at.ty(a, b));
                self.within("value".into(), |at| at.ty(x, y));
            }
            (Shape::Struct(a), Shape::Struct(b)) => {
                self.members("field", a, b, |at, a, b| at.ty(&a.ty, &b.ty));
            }
            (Shape::Enum(a), Shape::Enum(b)) => self.members("variant", a, b, Self::variant),
            (Shape::Array { item: a, len: x }, Shape::Array { item: b, len: y }) if x == y => {
                self.within("element".into(), |at| at.ty(a, b));
            }
            (a, b) if same_len(a, b) => {
                for (i, (a, b)) in items(a).zip(items(b)).enumerate() {
                    self.within(format!("element {}", i + 1), |at| at.ty(a, b));
                }
            }
            _ => self.found(Some(kind(here)), Some(kind(there))),
        }
    }

    fn variant(&mut self, here: &VariantDescription, there: &VariantDescription) {
        match (&here.fields, &there.fields) {
            (VariantFields::Unit, VariantFields::Unit) => {}
            (VariantFields::Tuple(a), VariantFields::Tuple(b)) if a.len() == b.len() => {
                for (i, (a, b)) in a.iter().zip(b).enumerate() {
                    self.within(format!("value {}", i + 1), |at| at.ty(a, b));
                }
            }
            (VariantFields::Struct(a), VariantFields::Struct(b)) => {
                self.members("field", a, b, |at, a, b| at.ty(&a.ty, &b.ty));
            }
            _ => self.found(Some(in_a_line(here)), Some(in_a_line(there))),
        }
    }

    /// Compares fields, or variants: which there are, in which order, and those that both sides have.
    fn members<T: Member>(
        &mut self,
        what: &str,
        here: &[T],
        there: &[T],
        compare: impl Fn(&mut Self, &T, &T),
    ) {
        let step = |member: &T| format!("{what} \"{}\"", Name(member.name()));
        if here.iter().map(T::name).eq(there.iter().map(T::name)) {
            for (here, there) in here.iter().zip(there) {
                self.within(step(here), |at| compare(at, here, there));
            }
            return;
        }
        let (ours, theirs) = (by_name(here), by_name(there));
        let found_before = self.found.len();
        for member in here.iter().filter(|member| !theirs.contains_key(member.name())) {
            self.within(step(member), |at| at.found(Some(in_a_line(member)), None));
        }
        for member in there.iter().filter(|member| !ours.contains_key(member.name())) {
            self.within(step(member), |at| at.found(None, Some(in_a_line(member))));
        }
        if self.found.len() == found_before {
            self.within(format!("order of {what}s"), |at| at.found(Some(names(here)), Some(names(there))));
        }
        for member in here {
            if let Some(other) = theirs.get(member.name()) {
                self.within(step(member), |at| compare(at, member, other));
            }
        }
    }
}

/// A field or a variant.
trait Member: std::fmt::Display {
    fn name(&self) -> &str;
}

impl Member for FieldDescription {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Member for VariantDescription {
    fn name(&self) -> &str {
        &self.name
    }
}

fn by_name<T: Member>(members: &[T]) -> HashMap<&str, &T> {
    members.iter().map(|member| (member.name(), member)).collect()
}

fn names<T: Member>(members: &[T]) -> String {
    let names: Vec<_> = members.iter().map(|member| Name(member.name())).collect();
    in_a_line(&Parentheses(&names))
}

/// Whether both are tuples, or arrays, of the same length.
fn same_len(here: &Shape, there: &Shape) -> bool {
    let len = |shape: &Shape| match shape {
        Shape::Tuple(items) => Some(items.len()),
        Shape::Array { len, .. } => usize::try_from(*len).ok(),
        _ => None,
    };
    len(here).is_some_and(|here| Some(here) == len(there))
}

/// The items of a tuple; those of an array without end.
fn items(shape: &Shape) -> Box<dyn Iterator<Item = &TypeDescription> + '_> {
    match shape {
        Shape::Tuple(items) => Box::new(items.iter()),
        Shape::Array { item, .. } => Box::new(std::iter::repeat(&**item)),
        _ => Box::new(std::iter::empty()),
    }
}

/// A type that differs as a whole. A struct and an enum may have the same name.
fn kind(ty: &TypeDescription) -> String {
    match (&ty.name, &ty.shape) {
        (Some(name), Shape::Struct(_)) => format!("struct {}", Name(name)),
        (Some(name), Shape::Enum(_)) if ty.as_result().is_none() => format!("enum {}", Name(name)),
        _ => in_a_line(ty),
    }
}
