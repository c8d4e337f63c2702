//! The trait that whoever serves implements.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};

use crate::model::{Method, Service};

/// Writes the trait back, with supertraits and futures that can be served from any thread.
pub(super) fn expand(service: &Service) -> TokenStream {
    let Service { attrs, vis, ident, .. } = service;
    let supertraits = service.supertraits.iter();
    let methods = service.methods.iter().map(method);
    quote! {
        #(#attrs)*
        #vis trait #ident:
            #(#supertraits +)* ::core::marker::Send + ::core::marker::Sync + 'static
        {
            #(#methods)*
        }
    }
}

/// `async fn f(&self, a: A) -> R` as a function whose future is `Send`, which an `async fn` implements.
fn method(method: &Method) -> TokenStream {
    let Method { attrs, ident, declared, .. } = method;
    let names = method.arguments.iter().map(|argument| &argument.ident);
    let types = method.arguments.iter().map(|argument| &argument.ty);
    quote_spanned! {method.span()=>
        #(#attrs)*
        fn #ident(&self #(, #names: #types)*)
            -> impl ::core::future::Future<Output = #declared> + ::core::marker::Send;
    }
}
