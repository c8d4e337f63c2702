//! The dispatcher: finds the method by its id, decodes, calls the implementation, answers.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;

use super::{argument_tuple, client_name, dispatcher_name};
use crate::{
    bare,
    model::{Method, Service},
};

/// Writes the struct.
pub(super) fn declare(service: &Service) -> TokenStream {
    let (cfgs, vis, docs) = (service.cfgs(), &service.vis, service.docs());
    let dispatcher = dispatcher_name(service);
    let doc = format!("Serves an implementation of [`{}`].", service.ident.unraw());
    quote! {
        #(#cfgs)*
        #[doc = #doc]
        ///
        /// A clone serves the same implementation.
        ///
        #(#docs)*
        #[allow(dead_code)]
        #vis struct #dispatcher<S> {
            service: ::std::sync::Arc<S>,
        }
    }
}

/// Writes the impls.
pub(super) fn implement(service: &Service) -> TokenStream {
    let (vis, ident) = (&service.vis, &service.ident);
    let dispatcher = dispatcher_name(service);
    let name = dispatcher.to_string();
    let served = serve(service);
    quote! {
        impl<__S: #ident> #dispatcher<__S> {
            /// Makes a dispatcher that serves this implementation.
            #[must_use]
            #vis fn new(service: __S) -> Self {
                Self::from_arc(::std::sync::Arc::new(service))
            }

            /// Makes a dispatcher that serves an implementation which others hold as well.
            #[must_use]
            #vis fn from_arc(service: ::std::sync::Arc<__S>) -> Self {
                Self { service }
            }
        }

        #[automatically_derived]
        impl<__S> ::core::clone::Clone for #dispatcher<__S> {
            fn clone(&self) -> Self {
                Self { service: ::std::sync::Arc::clone(&self.service) }
            }
        }

        #[automatically_derived]
        impl<__S> ::core::fmt::Debug for #dispatcher<__S> {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_struct(#name).finish_non_exhaustive()
            }
        }

        #served
    }
}

/// The impl of `ServiceDispatcher`. Its type parameter has a name that no argument's type has.
fn serve(service: &Service) -> TokenStream {
    let ident = &service.ident;
    let client = client_name(service);
    let dispatcher = dispatcher_name(service);
    let ids = service.methods.iter().enumerate().map(|(i, method)| {
        let (cfgs, constant, id) = (method.cfgs(), &method.constant, id(i));
        quote!(#(#cfgs)* const #id: ::adjoin::MethodId = #client::#constant.id;)
    });
    let arms = service.methods.iter().enumerate().map(|(i, method)| arm(service, &client, i, method));
    quote! {
        #[automatically_derived]
        impl<__S: #ident> ::adjoin::ServiceDispatcher for #dispatcher<__S> {
            fn service(&self) -> &'static ::adjoin::Service {
                #client::SERVICE
            }

            fn dispatch(&self, request: ::adjoin::IncomingRequest<'_>) -> ::adjoin::Dispatch {
                #(#ids)*
                match request.method_id() {
                    #(#arms)*
                    _ => request.unknown_method(),
                }
            }
        }
    }
}

/// The name of a method's id inside `dispatch`: a match needs a constant with a plain path.
fn id(index: usize) -> Ident {
    format_ident!("METHOD_{index}")
}

fn arm(service: &Service, client: &Ident, index: usize, method: &Method) -> TokenStream {
    let (cfgs, id) = (method.cfgs(), id(index));
    let Method { ident, constant, ok, .. } = method;
    let service_trait = &service.ident;
    let arguments = argument_tuple(method);
    let names: Vec<_> = (0..method.arguments.len()).map(|i| format_ident!("argument_{i}")).collect();
    let carried = bare::carried(ok);
    let serve = match &method.error {
        None => quote_spanned!(method.span()=> serve::<#arguments, #carried, _, _>),
        Some(error) => quote_spanned!(method.span()=> serve_result::<#arguments, #carried, #error, _, _>),
    };
    let values = method
        .arguments
        .iter()
        .zip(&names)
        .map(|(argument, name)| bare::from_carried(&argument.ty, quote!(#name)));
    let served = quote!(<__S as #service_trait>::#ident(&*service, #(#values),*).await);
    let returned = match &method.error {
        Some(_) if bare::is_bare(ok) => {
            quote!(::core::result::Result::map(#served, <#ok as ::adjoin::__private::Bare>::into_carried))
        }
        Some(_) => served,
        None => bare::into_carried(ok, served),
    };
    let future = quote!(async move { #returned });
    quote! {
        #(#cfgs)*
        #id => {
            let service = ::std::sync::Arc::clone(&self.service);
            request.#serve(#client::#constant, move |(#(#names,)*): #arguments| #future)
        }
    }
}
