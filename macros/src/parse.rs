//! From tokens to the model, or to everything that is wrong with them at once.

use std::fmt::Display;

use heck::ToShoutySnakeCase;
use proc_macro2::{Ident, Span, TokenStream};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::{
    Error, FnArg, GenericArgument, Generics, Item, ItemTrait, Pat, PatType, PathArguments, Receiver,
    ReceiverKind, Result, ReturnType, Safety, Signature, TraitItem, TraitItemFn, Type, parse_quote,
};

use crate::model::{Argument, Method, Service};
use crate::{options, owned};

/// Tuples of more values are not `Serialize`.
const MAX_ARGUMENTS: usize = 16;

/// Names that the generated client needs for itself (`service`: for the constant).
const TAKEN: [&str; 3] = ["new", "caller", "service"];

/// Reads the arguments of the attribute and the trait below it.
///
/// # Errors
///
/// All that cannot be part of a service, each where it stands, combined into one error.
pub(crate) fn service(args: TokenStream, input: TokenStream) -> Result<Service> {
    let mut errors = Errors::default();
    let name = errors.check(options::service(args)).flatten();
    let item = match syn::parse2::<Item>(input) {
        Ok(Item::Trait(item)) => item,
        Ok(other) => {
            errors.refuse(other, "`#[adjoin::service]` belongs on a trait");
            return Err(errors.into_error());
        }
        Err(error) => {
            errors.push(error);
            return Err(errors.into_error());
        }
    };
    check_trait(&item, &mut errors);
    let methods: Vec<_> = item.items.iter().filter_map(|member| read_member(member, &mut errors)).collect();
    check_names(&item.ident, &methods, &mut errors);
    let service = Service {
        name: name.unwrap_or_else(|| item.ident.unraw().to_string()),
        attrs: item.attrs,
        vis: item.vis,
        ident: item.ident,
        supertraits: item.supertraits,
        methods,
    };
    if errors.is_empty() { Ok(service) } else { Err(errors.into_error()) }
}

/// Collects errors, so that a user sees all of them in one build.
#[derive(Default)]
pub(crate) struct Errors(Option<Error>);

impl Errors {
    /// Adds an error that covers `tokens`.
    pub(crate) fn refuse(&mut self, tokens: impl ToTokens, message: impl Display) {
        self.push(Error::new_spanned(tokens, message));
    }

    fn push(&mut self, error: Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }

    fn check<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }

    fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn into_error(self) -> Error {
        self.0.unwrap_or_else(|| Error::new(Span::call_site(), "`#[adjoin::service]` failed"))
    }
}

fn check_trait(item: &ItemTrait, errors: &mut Errors) {
    for attr in item.attrs.iter().filter(|attr| options::is_ours(attr)) {
        let message =
            "`#[adjoin(…)]` belongs on a method: what a service takes stands in `#[adjoin::service(…)]`";
        errors.refuse(attr, message);
    }
    if let Some(token) = &item.unsafety {
        errors.refuse(token, "a service is called by other processes: it cannot be `unsafe`");
    }
    if let Some(token) = &item.modifiers.auto_token {
        errors.refuse(token, "an auto trait has no methods: it cannot be a service");
    }
    check_generics(&item.generics, "a service", errors);
}

fn check_generics(generics: &Generics, who: &str, errors: &mut Errors) {
    if !generics.params.is_empty() {
        let message = format!("{who} cannot be generic: each type on the wire is known to both sides");
        errors.refuse(&generics.params, message);
    }
    if let Some(clause) = &generics.where_clause {
        errors.refuse(clause, format!("{who} cannot have a where clause: there is nothing generic in it"));
    }
}

fn read_member(member: &TraitItem, errors: &mut Errors) -> Option<Method> {
    match member {
        TraitItem::Fn(method) => return Some(read_method(method, errors)),
        TraitItem::Const(member) => {
            errors.refuse(member, "a service has methods alone: constants do not cross a link");
        }
        TraitItem::Type(member) => {
            errors.refuse(member, "a service has methods alone: name the type where it is used");
        }
        other => errors.refuse(other, "a service has methods alone"),
    }
    None
}

fn read_method(method: &TraitItemFn, errors: &mut Errors) -> Method {
    let signature = &method.sig;
    check_signature(signature, errors);
    if let Some(body) = &method.default {
        errors.refuse(body, "a method of a service has no default body: whoever serves it, implements it");
    }
    let (ours, others): (Vec<_>, Vec<_>) = method.attrs.iter().partition(|attr| options::is_ours(attr));
    let options = errors.check(options::method(ours.into_iter())).unwrap_or_default();
    let arguments = read_arguments(signature, errors);
    let declared = match &signature.output {
        ReturnType::Default => parse_quote!(()),
        ReturnType::Type(_, ty) => Type::clone(ty),
    };
    owned::check(&declared, errors);
    let (ok, error) = match errors.check(split_result(&declared)).flatten() {
        Some((ok, error)) => (ok, Some(error)),
        None => (declared.clone(), None),
    };
    let name = signature.ident.unraw().to_string();
    Method {
        attrs: others.into_iter().cloned().collect(),
        constant: constant(&name, signature.ident.span()),
        ident: signature.ident.clone(),
        name,
        arguments,
        declared,
        ok,
        error,
        options,
    }
}

fn check_signature(signature: &Signature, errors: &mut Errors) {
    if signature.asyncness.is_none() {
        errors.refuse(
            signature.fn_token,
            "a method of a service is an `async fn`: its answer comes from elsewhere",
        );
    }
    if let Some(token) = &signature.constness {
        errors.refuse(token, "a method of a service cannot be `const`");
    }
    match &signature.safety {
        Safety::Unsafe(token) => errors.refuse(token, "a method of a service cannot be `unsafe`"),
        Safety::Safe(token) => errors.refuse(token, "a method of a service needs no `safe`"),
        Safety::Default => {}
    }
    if let Some(abi) = &signature.abi {
        errors.refuse(abi, "a method of a service has no ABI of its own");
    }
    if let Some(variadic) = &signature.variadic {
        errors.refuse(variadic, "a method of a service has a fixed number of arguments");
    }
    check_generics(&signature.generics, "a method of a service", errors);
    match signature.receiver() {
        Some(receiver) => check_receiver(receiver, errors),
        None => errors.refuse(&signature.ident, "a method of a service takes `&self`"),
    }
}

fn check_receiver(receiver: &Receiver, errors: &mut Errors) {
    if !matches!(receiver.kind, ReceiverKind::Reference(_, None, None)) {
        errors.refuse(receiver, "a method of a service takes `&self`: many calls share it at the same time");
    }
    for attr in &receiver.attrs {
        errors.refuse(attr, "attributes on arguments are not supported");
    }
}

fn read_arguments(signature: &Signature, errors: &mut Errors) -> Vec<Argument> {
    let typed = signature.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(argument) => Some(argument),
        FnArg::Receiver(_) => None,
    });
    let arguments: Vec<_> = typed.filter_map(|argument| read_argument(argument, errors)).collect();
    if arguments.len() > MAX_ARGUMENTS {
        let message = format!("a method takes at most {MAX_ARGUMENTS} arguments: put them into a struct");
        errors.refuse(&signature.inputs, message);
    }
    arguments
}

fn read_argument(argument: &PatType, errors: &mut Errors) -> Option<Argument> {
    for attr in &argument.attrs {
        errors.refuse(attr, "attributes on arguments are not supported");
    }
    owned::check(&argument.ty, errors);
    match &*argument.pat {
        Pat::Ident(pat) if pat.by_ref.is_none() && pat.mutability.is_none() && pat.subpat.is_none() => {
            Some(Argument { ident: pat.ident.clone(), ty: Type::clone(&argument.ty) })
        }
        pattern => {
            errors.refuse(pattern, "an argument is a plain name: the client shows it to its users");
            None
        }
    }
}

/// Splits `Result<T, E>`; `None` is a plain value.
fn split_result(declared: &Type) -> Result<Option<(Type, Type)>> {
    let path = match declared {
        Type::Group(group) => return split_result(&group.elem),
        Type::Paren(paren) => return split_result(&paren.elem),
        Type::Path(path) if path.qself.is_none() => path,
        _ => return Ok(None),
    };
    let Some(last) = path.path.segments.last().filter(|last| last.ident == "Result") else {
        return Ok(None);
    };
    if let PathArguments::AngleBracketed(arguments) = &last.arguments {
        let mut arguments = arguments.args.iter();
        if let (Some(GenericArgument::Type(ok)), Some(GenericArgument::Type(error)), None) =
            (arguments.next(), arguments.next(), arguments.next())
        {
            return Ok(Some((ok.clone(), error.clone())));
        }
    }
    Err(Error::new_spanned(
        path,
        "spell out both types, as in `Result<T, E>`: an alias hides the error type, which is part of the wire",
    ))
}

/// The name of the constant for a method: `render_page` is described by `RENDER_PAGE`.
fn constant(name: &str, span: Span) -> Ident {
    let shouty = name.to_shouty_snake_case();
    // `_1` and `__` are names of methods, but nothing remains of them that could name a constant.
    let is_name = shouty.starts_with(|c: char| !c.is_numeric());
    Ident::new(if is_name { &shouty } else { name }, Span::call_site().located_at(span))
}

fn check_names(service: &Ident, methods: &[Method], errors: &mut Errors) {
    for (i, method) in methods.iter().enumerate() {
        let name = &method.name;
        if TAKEN.contains(&name.as_str()) {
            let message =
                format!("`{name}` is taken by `{}Client` itself: choose another name", service.unraw());
            errors.refuse(&method.ident, message);
        }
        // Methods under a `cfg` may be alternatives of each other.
        let others =
            || methods[..i].iter().filter(|before| before.cfgs().is_empty() && method.cfgs().is_empty());
        if others().any(|before| before.name == *name) {
            errors.refuse(&method.ident, format!("there is a method `{name}` already: choose another name"));
        } else if let Some(before) = others().find(|before| before.constant == method.constant) {
            let (constant, before) = (&method.constant, &before.name);
            let message =
                format!("`{name}` and `{before}` are both described by `{constant}`: choose another name");
            errors.refuse(&method.ident, message);
        }
        let Some(pinned) = &method.options.id else { continue };
        let same_id =
            |before: &&Method| before.options.id.as_ref().is_some_and(|before| before.value == pinned.value);
        if let Some(before) = others().find(same_id) {
            let message = format!("`{}` is pinned to this id already: choose another one", before.name);
            errors.refuse(&pinned.literal, message);
        }
    }
}
