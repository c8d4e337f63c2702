//! Which types can cross a link: owned ones, that both sides can name.
//!
//! Only what the macro can see is refused here, with a better text than the compiler would find. Whether a
//! type can be encoded is for its `Serialize`, `Deserialize` and `Schema` to say.

use quote::ToTokens;
use syn::{GenericArgument, Path, PathArguments, Type};

use crate::parse::Errors;

/// Refuses references, `impl Trait` and the like, at any depth of a type.
pub(crate) fn check(ty: &Type, errors: &mut Errors) {
    match ty {
        Type::Reference(reference) => {
            let instead = owned_form(&reference.elem);
            let message = format!(
                "arguments and results are owned: use {instead} instead of `{}`",
                text(&reference.elem, "&")
            );
            errors.refuse(reference, message);
        }
        Type::ImplTrait(_) => errors.refuse(ty, "both sides must know the type: name one instead of `impl`"),
        Type::TraitObject(_) => errors.refuse(ty, "a `dyn` type cannot be encoded: name a type"),
        Type::Ptr(_) | Type::FnPtr(_) => errors.refuse(ty, "a pointer means nothing to another process"),
        Type::Infer(_) => errors.refuse(ty, "both sides must know the type: name one instead of `_`"),
        Type::Array(array) => check(&array.elem, errors),
        Type::Slice(slice) => check(&slice.elem, errors),
        Type::Group(group) => check(&group.elem, errors),
        Type::Paren(paren) => check(&paren.elem, errors),
        Type::Tuple(tuple) => tuple.elems.iter().for_each(|elem| check(elem, errors)),
        Type::Path(path) => {
            if let Some(qself) = &path.qself {
                check(&qself.ty, errors);
            }
            check_path(&path.path, errors);
        }
        _ => {}
    }
}

fn check_path(path: &Path, errors: &mut Errors) {
    if let Some(first) = path.segments.first()
        && first.ident == "Self"
    {
        errors.refuse(first, "`Self` is known to the serving side alone: name the type");
    }
    for segment in &path.segments {
        let PathArguments::AngleBracketed(arguments) = &segment.arguments else { continue };
        for argument in &arguments.args {
            match argument {
                GenericArgument::Type(ty) => check(ty, errors),
                GenericArgument::AssocType(assoc) => check(&assoc.ty, errors),
                GenericArgument::Lifetime(lifetime) if lifetime.ident != "static" => {
                    errors.refuse(lifetime, "arguments and results are owned: a borrow cannot cross a link");
                }
                _ => {}
            }
        }
    }
}

/// What to write in place of a reference to `ty`, in backquotes.
fn owned_form(ty: &Type) -> String {
    match ty {
        Type::Path(path) if path.path.is_ident("str") => "`String`".into(),
        Type::Slice(slice) if matches!(&*slice.elem, Type::Path(elem) if elem.path.is_ident("u8")) => {
            "`Vec<u8>` or `Bytes`".into()
        }
        Type::Slice(slice) => format!("`Vec<{}>`", text(&slice.elem, "")),
        Type::Paren(paren) => owned_form(&paren.elem),
        Type::Reference(reference) => owned_form(&reference.elem),
        _ => format!("`{}`", text(ty, "")),
    }
}

/// A type as one would write it: tokens are printed with a space between any two of them.
fn text(ty: &Type, prefix: &str) -> String {
    let mut text = ty.to_token_stream().to_string();
    for (spaced, tight) in [
        (" <", "<"),
        ("< ", "<"),
        (" >", ">"),
        (" ::", "::"),
        (":: ", "::"),
        (" ,", ","),
        (" ;", ";"),
        ("& ", "&"),
    ] {
        text = text.replace(spaced, tight);
    }
    format!("{prefix}{text}")
}
