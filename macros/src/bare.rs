//! Descriptors that stand bare in a signature: `OwnedFd`, and `Option` and `Vec` of it.
//!
//! Serde knows no `OwnedFd`, so something else crosses the link, and the code on both sides converts. What that is, the
//! library says of the type itself, so a type of another crate that only has the name is found out there.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{GenericArgument, PathArguments, Type};

/// Whether a type is written as one of those.
pub(crate) fn is_bare(ty: &Type) -> bool {
    let path = match ty {
        Type::Group(group) => return is_bare(&group.elem),
        Type::Paren(paren) => return is_bare(&paren.elem),
        Type::Path(path) if path.qself.is_none() => &path.path,
        _ => return false,
    };
    let Some(last) = path.segments.last() else { return false };
    match &last.arguments {
        PathArguments::None => last.ident == "OwnedFd",
        PathArguments::AngleBracketed(arguments) if last.ident == "Option" || last.ident == "Vec" => {
            let mut arguments = arguments.args.iter();
            match (arguments.next(), arguments.next()) {
                (Some(GenericArgument::Type(inner)), None) => is_bare(inner),
                _ => false,
            }
        }
        _ => false,
    }
}

/// What crosses the link for a type of a signature.
pub(crate) fn carried(ty: &Type) -> TokenStream {
    if is_bare(ty) {
        quote_spanned!(ty.span()=> <#ty as ::adjoin::__private::Bare>::Carried)
    } else {
        quote!(#ty)
    }
}

/// A value as it crosses the link.
pub(crate) fn into_carried(ty: &Type, value: TokenStream) -> TokenStream {
    if is_bare(ty) { quote!(<#ty as ::adjoin::__private::Bare>::into_carried(#value)) } else { value }
}

/// A value that crossed the link, as the signature has it.
pub(crate) fn from_carried(ty: &Type, value: TokenStream) -> TokenStream {
    if is_bare(ty) { quote!(<#ty as ::adjoin::__private::Bare>::from_carried(#value)) } else { value }
}
