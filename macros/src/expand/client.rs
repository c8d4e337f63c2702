//! The client: constants that describe the methods, and a lazy call for each.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;

use super::{argument_tuple, client_name, schema};
use crate::{
    bare,
    model::{Method, PinnedId, Service},
};

/// Writes the struct.
pub(super) fn declare(service: &Service) -> TokenStream {
    let (cfgs, vis, docs) = (service.cfgs(), &service.vis, service.docs());
    let client = client_name(service);
    let doc = format!("Calls [`{}`] on the other side of a connection.", service.ident.unraw());
    quote! {
        #(#cfgs)*
        #[doc = #doc]
        ///
        /// Each method returns a lazy call: nothing is sent before it is awaited or blocked on.
        ///
        #(#docs)*
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #[allow(dead_code)]
        #vis struct #client {
            caller: ::adjoin::Caller,
        }
    }
}

/// Writes the inherent impl.
pub(super) fn implement(service: &Service) -> TokenStream {
    let vis = &service.vis;
    let client = client_name(service);
    let description = describe_service(service);
    let descriptions = service.methods.iter().map(|method| describe(service, method));
    let methods = service.methods.iter().map(|method| call(service, method));
    quote! {
        impl #client {
            #description
            #(#descriptions)*

            /// Makes a client that calls over this connection, or whatever else is a caller.
            #[must_use]
            #vis fn new(caller: impl ::core::convert::Into<::adjoin::Caller>) -> Self {
                Self { caller: ::core::convert::Into::into(caller) }
            }

            /// What the calls go out on.
            #[must_use]
            #vis fn caller(&self) -> &::adjoin::Caller {
                &self.caller
            }

            #(#methods)*
        }
    }
}

/// The constant `SERVICE`.
fn describe_service(service: &Service) -> TokenStream {
    let (vis, name) = (&service.vis, &service.name);
    let client = client_name(service);
    let methods = service.methods.iter().map(|method| {
        let (cfgs, constant) = (method.cfgs(), &method.constant);
        quote!(#(#cfgs)* *#client::#constant)
    });
    quote! {
        /// Describes the service: its name on the wire and its methods.
        #vis const SERVICE: &'static ::adjoin::Service = {
            const METHODS: &[::adjoin::Method] = &[#(#methods),*];
            &::adjoin::__private::service(#name, METHODS)
        };
    }
}

/// The constant that describes a method, `RENDER` for `render`.
fn describe(service: &Service, method: &Method) -> TokenStream {
    let (vis, cfgs, constant) = (&service.vis, method.cfgs(), &method.constant);
    let (service_name, name) = (&service.name, &method.name);
    let (inline, idempotent) = (method.options.inline, method.options.idempotent);
    let value = match &method.options.id {
        Some(PinnedId { value, .. }) => quote_spanned! {method.span()=>
            &::adjoin::__private::method(
                #service_name, #name, ::adjoin::MethodId::new(#value), #inline, #idempotent
            )
        },
        None => {
            let signature = signature(method);
            quote_spanned! {method.span()=> {
                static SIGNATURE: ::adjoin::__private::Signature = #signature;
                &::adjoin::__private::described_method(
                    #service_name, #name, &SIGNATURE, #inline, #idempotent
                )
            }}
        }
    };
    let doc = format!("Describes the method `{name}`: its names, its id and its attributes.");
    quote_spanned! {method.span()=>
        #(#cfgs)*
        #[doc = #doc]
        #vis const #constant: &'static ::adjoin::Method = #value;
    }
}

/// The names and schemas of the arguments, and the schemas of the result.
fn signature(method: &Method) -> TokenStream {
    let names = method.arguments.iter().map(|argument| argument.ident.unraw().to_string());
    let arguments = method.arguments.iter().map(|argument| schema(method, &argument.ty));
    let ok = schema(method, &method.ok);
    let error = match &method.error {
        None => quote!(::core::option::Option::None),
        Some(error) => {
            let error = schema(method, error);
            quote!(::core::option::Option::Some(#error))
        }
    };
    quote_spanned! {method.span()=>
        ::adjoin::__private::signature(&[#(#names),*], &[#(#arguments),*], #ok, #error)
    }
}

/// The method itself.
fn call(service: &Service, method: &Method) -> TokenStream {
    let vis = &service.vis;
    let Method { attrs, ident, constant, ok, .. } = method;
    let names = method.arguments.iter().map(|argument| &argument.ident);
    let values = method.arguments.iter().map(|argument| {
        let name = &argument.ident;
        bare::into_carried(&argument.ty, quote!(#name))
    });
    let types = method.arguments.iter().map(|argument| &argument.ty);
    let arguments = argument_tuple(method);
    let error = match &method.error {
        None => quote!(::adjoin::Never),
        Some(error) => quote!(#error),
    };
    let doc = (!method.has("doc")).then(|| {
        let doc = format!("Calls `{}`.", method.name);
        quote!(#[doc = #doc])
    });
    let must_use = (!method.has("must_use"))
        .then(|| quote!(#[must_use = "nothing is sent before the call is awaited or blocked on"]));
    let (call, prepare) = if bare::is_bare(ok) {
        (quote!(::adjoin::BareCall), quote!(::adjoin::__private::bare_call))
    } else {
        (quote!(::adjoin::Call), quote!(::adjoin::__private::call))
    };
    quote_spanned! {method.span()=>
        #doc
        #(#attrs)*
        #must_use
        #vis fn #ident(&self #(, #names: #types)*) -> #call<#arguments, #ok, #error> {
            #prepare(&self.caller, Self::#constant, (#(#values,)*))
        }
    }
}
