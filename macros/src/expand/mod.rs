//! From the model to code: the trait, the client, the dispatcher, and the checks on their ids.
//!
//! Names of users stand only where they cannot meet a name of ours: their arguments are parameters of the
//! client's methods, whose bodies have no other locals, and the dispatcher numbers its own.

mod client;
mod dispatcher;
mod service_trait;

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::Type;
use syn::ext::IdentExt;
use syn::spanned::Spanned;

use crate::{
    bare,
    model::{Method, Service},
};

/// Writes all code of a service.
pub(crate) fn expand(service: &Service) -> TokenStream {
    let cfgs = service.cfgs();
    let service_trait = service_trait::expand(service);
    let client = client::declare(service);
    let client_impl = client::implement(service);
    let dispatcher = dispatcher::declare(service);
    let dispatcher_impl = dispatcher::implement(service);
    let checks = checks(service);
    quote! {
        #service_trait
        #client
        #dispatcher
        #(#cfgs)*
        #[allow(dead_code, deprecated, long_running_const_eval, clippy::too_many_arguments)]
        const _: () = {
            #checks
            #client_impl
            #dispatcher_impl
        };
    }
}

/// The name of the generated client.
fn client_name(service: &Service) -> Ident {
    format_ident!("{}Client", service.ident.unraw(), span = service.ident.span())
}

/// The name of the generated dispatcher.
fn dispatcher_name(service: &Service) -> Ident {
    format_ident!("{}Dispatcher", service.ident.unraw(), span = service.ident.span())
}

/// The tuple of all arguments, as it stands on the wire.
fn argument_tuple(method: &Method) -> TokenStream {
    let types = method.arguments.iter().map(|argument| bare::carried(&argument.ty));
    quote_spanned!(method.span()=> (#(#types,)*))
}

/// The schema of a type, with an error at the type where it has none, which says by the function's name what to do.
fn schema(method: &Method, ty: &Type) -> TokenStream {
    let ty = bare::carried(ty);
    quote_spanned!(method.span()=> ::adjoin::__private::derive_schema_or_pin_the_id::<#ty>())
}

/// Assertions at compile time: all types can be written and read, no id stands twice or is taken by the library, no
/// error type carries a channel.
fn checks(service: &Service) -> TokenStream {
    let client = client_name(service);
    let ids = service.methods.iter().map(|method| {
        let (cfgs, constant) = (method.cfgs(), &method.constant);
        quote!(#(#cfgs)* #client::#constant.id)
    });
    let types = service.methods.iter().map(check_types);
    let asserts = service.methods.iter().map(|method| check(service, &client, method));
    quote! {
        const IDS: &[::adjoin::MethodId] = &[#(#ids),*];
        #(#types)*
        #(#asserts)*
    }
}

/// Errors at the types themselves. What the rest of the code asks of them it asks far from where they stand, and what
/// a caller needs of a result is asked where a call is awaited.
fn check_types(method: &Method) -> TokenStream {
    let cfgs = method.cfgs();
    let arguments = method.arguments.iter().map(|argument| &argument.ty);
    let checks = arguments.chain([&method.ok]).chain(&method.error).map(|ty| {
        let ty = bare::carried(ty);
        quote_spanned! {method.span()=>
            #(#cfgs)*
            const _: () = ::adjoin::__private::derive_serialize_and_deserialize::<#ty>();
        }
    });
    quote!(#(#checks)*)
}

fn check(service: &Service, client: &Ident, method: &Method) -> TokenStream {
    let (cfgs, constant) = (method.cfgs(), &method.constant);
    let same_id = format!(
        "service `{}`: another method has the id of `{}`: rename one, or pin another id with \
         `#[adjoin(id = …)]`",
        service.name, method.name
    );
    let unique = quote_spanned! {method.span()=>
        #(#cfgs)*
        const _: () = ::core::assert!(::adjoin::__private::occurs_once(#client::#constant.id, IDS), #same_id);
    };
    if let Some(pinned) = &method.options.id {
        let at = Span::call_site().located_at(pinned.literal.span());
        let built_in = format!(
            "service `{}`: the id of `{}` is the one of the method that describes services: pin another",
            service.name, method.name
        );
        return quote_spanned! {at=>
            #unique
            #(#cfgs)*
            const _: () = ::core::assert!(!::adjoin::__private::is_built_in(#client::#constant.id), #built_in);
        };
    }
    let Some(error) = method.error.as_ref() else {
        return unique;
    };
    let channel = format!(
        "service `{}`: the error type of `{}` holds a `Tx`, an `Rx` or a descriptor, which an error cannot carry",
        service.name, method.name
    );
    let schema = schema(method, error);
    let at = Span::call_site().located_at(error.span());
    quote_spanned! {at=>
        #unique
        #(#cfgs)*
        const _: () = ::core::assert!(!::adjoin::__private::carries_channel(#schema), #channel);
    }
}
