//! What is known of services and methods at compile time.

use std::fmt;

use postcard_schema::{Schema, schema::NamedType};

use super::method_id::{MethodId, always_carries_descriptor, method_id};

/// A method of a service, as `#[adjoin::service]` describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Method {
    /// The name of its service.
    pub service: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its identity on the wire (protocol section 8).
    pub id: MethodId,
    /// Its handler is polled once where the request was read, and spawned only if it is not done by then.
    pub inline: bool,
    /// It may run more than once for one call.
    pub idempotent: bool,
    /// Its arguments and result. `None`: its id is pinned, and its types need no schema.
    pub(crate) signature: Option<&'static Signature>,
    /// Every value that it returns has a descriptor in it. Not known of one whose id is pinned.
    pub(crate) returns_descriptor: bool,
}

/// The arguments and the result of a method; for generated code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// The names of the arguments, in order.
    pub(crate) names: &'static [&'static str],
    /// Their types.
    pub(crate) arguments: &'static [&'static NamedType],
    /// The plain result, or the one inside `Ok`.
    pub(crate) result: &'static NamedType,
    /// The error type of a method that returns a `Result`.
    pub(crate) error: Option<&'static NamedType>,
}

impl fmt::Debug for Signature {
    /// A `Method` is shown in one line: its schemas are trees.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signature").field(&self.names).finish()
    }
}

/// A service and its methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Service {
    /// Its name.
    pub name: &'static str,
    /// Its methods, in the order of the trait.
    pub methods: &'static [Method],
}

/// Makes a [`Method`] whose id is given; for generated code.
#[must_use]
pub const fn method(
    service: &'static str,
    name: &'static str,
    id: MethodId,
    inline: bool,
    idempotent: bool,
) -> Method {
    Method { service, name, id, inline, idempotent, signature: None, returns_descriptor: false }
}

/// Makes a [`Method`] whose id is computed of its names and its signature; for generated code.
#[must_use]
pub const fn described_method(
    service: &'static str,
    name: &'static str,
    signature: &'static Signature,
    inline: bool,
    idempotent: bool,
) -> Method {
    let id = method_id(service, name, signature.arguments, signature.result, signature.error);
    let returns_descriptor = always_carries_descriptor(signature.result);
    Method { service, name, id, inline, idempotent, signature: Some(signature), returns_descriptor }
}

/// Makes a [`Signature`]; for generated code.
#[must_use]
pub const fn signature(
    names: &'static [&'static str],
    arguments: &'static [&'static NamedType],
    result: &'static NamedType,
    error: Option<&'static NamedType>,
) -> Signature {
    Signature { names, arguments, result, error }
}

/// Makes a [`Service`]; for generated code.
#[must_use]
pub const fn service(name: &'static str, methods: &'static [Method]) -> Service {
    Service { name, methods }
}

/// What has a schema, with words for what has none: the trait itself is not ours.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no schema, so that the method has no id",
    label = "no `adjoin::Schema`",
    note = "derive it: `#[derive(adjoin::Schema)]`, with `#[postcard(crate = adjoin::postcard_schema)]`",
    note = "or pin the id of the method: under `#[adjoin(id = …)]` its types need no schema"
)]
pub trait Described: Schema {}

impl<T: Schema> Described for T {}

/// The schema of an argument or a result; for generated code.
///
/// Its name is what the compiler shows where something within the type has no schema.
#[must_use]
pub const fn derive_schema_or_pin_the_id<T: Described>() -> &'static NamedType {
    T::SCHEMA
}
