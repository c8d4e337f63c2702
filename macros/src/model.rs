//! What a trait says, once it has been found to be a service.

use proc_macro2::{Ident, Span};
use syn::punctuated::Punctuated;
use syn::{Attribute, LitInt, Token, Type, TypeParamBound, Visibility};

/// A service: a trait that passed every check.
pub(crate) struct Service {
    /// Attributes of the trait, as they were written.
    pub(crate) attrs: Vec<Attribute>,
    /// Visibility of the trait and of all that is made of it.
    pub(crate) vis: Visibility,
    /// Name of the trait.
    pub(crate) ident: Ident,
    /// Supertraits that the user asked for.
    pub(crate) supertraits: Punctuated<TypeParamBound, Token![+]>,
    /// Name on the wire.
    pub(crate) name: String,
    /// Methods, in the order of the trait.
    pub(crate) methods: Vec<Method>,
}

/// A method of a service.
pub(crate) struct Method {
    /// Attributes of the method, without `#[adjoin(…)]`.
    pub(crate) attrs: Vec<Attribute>,
    /// Name of the method, raw if it was written so.
    pub(crate) ident: Ident,
    /// Name on the wire.
    pub(crate) name: String,
    /// Name of the associated constant that describes the method.
    pub(crate) constant: Ident,
    /// Arguments after `&self`, in order.
    pub(crate) arguments: Vec<Argument>,
    /// Return type, as it was written; `()` where nothing was.
    pub(crate) declared: Type,
    /// The value of an answer: the return type, or what stands inside its `Ok`.
    pub(crate) ok: Type,
    /// What stands inside the `Err` of a return type `Result<T, E>`.
    pub(crate) error: Option<Type>,
    /// What `#[adjoin(…)]` says.
    pub(crate) options: MethodOptions,
}

/// An argument of a method.
pub(crate) struct Argument {
    /// Its name, which the client keeps and the wire does not know.
    pub(crate) ident: Ident,
    /// Its type.
    pub(crate) ty: Type,
}

/// The contents of `#[adjoin(…)]` on a method.
#[derive(Default)]
pub(crate) struct MethodOptions {
    /// The pinned id.
    pub(crate) id: Option<PinnedId>,
    /// Polled once where its request was read.
    pub(crate) inline: bool,
    /// Running it twice does no harm.
    pub(crate) idempotent: bool,
}

/// An id that the user chose.
pub(crate) struct PinnedId {
    pub(crate) value: u64,
    /// As it was written.
    pub(crate) literal: LitInt,
}

impl Service {
    /// The doc comments of the trait, and whatever else it says about its documentation.
    pub(crate) fn docs(&self) -> impl Iterator<Item = &Attribute> {
        self.attrs.iter().filter(|attr| attr.path().is_ident("doc"))
    }

    /// The `cfg`s of the trait, which hold for everything that is made of it.
    pub(crate) fn cfgs(&self) -> Vec<&Attribute> {
        cfgs(&self.attrs)
    }
}

impl Method {
    /// The `cfg`s of the method, which hold for all that belongs to it.
    pub(crate) fn cfgs(&self) -> Vec<&Attribute> {
        cfgs(&self.attrs)
    }

    /// Tells whether the user wrote an attribute with this name.
    pub(crate) fn has(&self, attribute: &str) -> bool {
        self.attrs.iter().any(|attr| attr.path().is_ident(attribute))
    }

    /// The span for code that belongs to this method: shown at its name, resolved (and seen by lints) as
    /// generated code.
    pub(crate) fn span(&self) -> Span {
        Span::call_site().located_at(self.ident.span())
    }
}

fn cfgs(attrs: &[Attribute]) -> Vec<&Attribute> {
    attrs.iter().filter(|attr| attr.path().is_ident("cfg")).collect()
}
