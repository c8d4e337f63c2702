//! What is known of services and methods at compile time.

use super::method_id::MethodId;

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

/// Makes a [`Method`]; for generated code.
#[must_use]
pub const fn method(
    service: &'static str,
    name: &'static str,
    id: MethodId,
    inline: bool,
    idempotent: bool,
) -> Method {
    Method { service, name, id, inline, idempotent }
}

/// Makes a [`Service`]; for generated code.
#[must_use]
pub const fn service(name: &'static str, methods: &'static [Method]) -> Service {
    Service { name, methods }
}
