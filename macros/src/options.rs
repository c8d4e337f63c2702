//! The attributes: `#[adjoin::service(…)]` on a trait, `#[adjoin(…)]` on a method.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::meta::ParseNestedMeta;
use syn::parse::Parser;
use syn::{Attribute, Error, LitInt, LitStr, Result};

use crate::model::MethodOptions;

/// Reads the arguments of `#[adjoin::service(…)]`: the name on the wire, if one is given.
///
/// # Errors
///
/// An unknown key, a key given twice, or a name that is not one.
pub(crate) fn service(args: TokenStream) -> Result<Option<String>> {
    let mut name = None;
    let parser = syn::meta::parser(|meta| {
        if !meta.path.is_ident("name") {
            return Err(unknown(&meta, "a service takes `name = \"…\"`"));
        }
        let given = meta.value()?.parse::<LitStr>()?;
        if name.replace(wire_name(&given)?).is_some() {
            return Err(twice(&meta));
        }
        Ok(())
    });
    parser.parse2(args)?;
    Ok(name)
}

/// Reads all `#[adjoin(…)]` of a method.
///
/// # Errors
///
/// An unknown key, a key given twice, or a value that does not fit its key.
pub(crate) fn method<'a>(attrs: impl Iterator<Item = &'a Attribute>) -> Result<MethodOptions> {
    let mut options = MethodOptions::default();
    for attr in attrs {
        attr.parse_nested_meta(|meta| {
            let given_before = if meta.path.is_ident("id") {
                options.id.replace(pinned_id(&meta)?).is_some()
            } else if meta.path.is_ident("inline") {
                std::mem::replace(&mut options.inline, true)
            } else if meta.path.is_ident("idempotent") {
                std::mem::replace(&mut options.idempotent, true)
            } else {
                return Err(unknown(&meta, "a method takes `id = 0x…`, `inline` and `idempotent`"));
            };
            if given_before { Err(twice(&meta)) } else { Ok(()) }
        })?;
    }
    Ok(options)
}

/// Tells whether an attribute is ours.
pub(crate) fn is_ours(attr: &Attribute) -> bool {
    attr.path().is_ident("adjoin")
}

fn pinned_id(meta: &ParseNestedMeta<'_>) -> Result<u64> {
    let value = meta.value()?;
    let span = value.span();
    let wrong = || Error::new(span, "an id is a number of 64 bits, such as `id = 0x1122334455667788`");
    let literal = value.parse::<LitInt>().map_err(|_| wrong())?;
    if !matches!(literal.suffix(), "" | "u64") {
        return Err(wrong());
    }
    literal.base10_parse().map_err(|_| wrong())
}

fn wire_name(literal: &LitStr) -> Result<String> {
    let name = literal.value();
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
    if name.is_empty() || !name.chars().all(allowed) {
        return Err(Error::new(
            literal.span(),
            "the name of a service consists of letters, digits, `_`, `-`, `.`, `:` and `/`",
        ));
    }
    Ok(name)
}

fn unknown(meta: &ParseNestedMeta<'_>, known: &str) -> Error {
    meta.error(format_args!("unknown key `{}`: {known}", meta.path.to_token_stream()))
}

fn twice(meta: &ParseNestedMeta<'_>) -> Error {
    meta.error(format_args!("`{}` is given twice", meta.path.to_token_stream()))
}
