//! The attributes: `#[adjoin::service(…)]` on a trait, `#[adjoin(…)]` on a method.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::meta::ParseNestedMeta;
use syn::parse::Parser;
use syn::{Attribute, Error, LitInt, LitStr, Result, Token};

use crate::model::{MethodOptions, PinnedId};

/// Reads the arguments of `#[adjoin::service(…)]`: the name on the wire, if one is given.
///
/// # Errors
///
/// An unknown key, a key given twice, or a name that is not one.
pub(crate) fn service(args: TokenStream) -> Result<Option<String>> {
    let known = "a service takes `name = \"…\"`";
    if let Some(TokenTree::Literal(literal)) = args.clone().into_iter().next() {
        return Err(Error::new(literal.span(), known));
    }
    let mut name = None;
    let parser = syn::meta::parser(|meta| {
        if !meta.path.is_ident("name") {
            return Err(unknown(&meta, known));
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
                set(&mut options.inline, &meta)?
            } else if meta.path.is_ident("idempotent") {
                set(&mut options.idempotent, &meta)?
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

/// Sets what is given by its name alone, and tells whether it was set before.
fn set(option: &mut bool, meta: &ParseNestedMeta<'_>) -> Result<bool> {
    if meta.input.is_empty() || meta.input.peek(Token![,]) {
        return Ok(std::mem::replace(option, true));
    }
    let name = meta.path.to_token_stream();
    Err(Error::new_spanned(&meta.path, format_args!("`{name}` takes no value: it holds by being there")))
}

fn pinned_id(meta: &ParseNestedMeta<'_>) -> Result<PinnedId> {
    if !meta.input.peek(Token![=]) {
        return Err(Error::new_spanned(&meta.path, "an id has a value, such as `id = 0x1122334455667788`"));
    }
    let value = meta.value()?;
    let span = value.span();
    let wrong = || Error::new(span, "an id is a number of 64 bits, such as `id = 0x1122334455667788`");
    let literal = value.parse::<LitInt>().map_err(|_| wrong())?;
    if !matches!(literal.suffix(), "" | "u64") {
        return Err(wrong());
    }
    let value = literal.base10_parse().map_err(|_| wrong())?;
    Ok(PinnedId { value, literal })
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
