//! The attribute macro of `adjoin`. Use it as `adjoin::service`; this crate is never named directly.
//!
//! Reading order: [`macro@service`] is the entry; `parse` turns a trait into the types of `model`, or into all
//! that is wrong with it at once; `expand` writes the code. `options` reads the attributes, `owned` knows
//! which types can cross a link. The generated code reaches the library through `::adjoin` alone.

mod expand;
mod model;
mod options;
mod owned;
mod parse;
#[cfg(test)]
mod tests;

use proc_macro::TokenStream;

/// Makes a service of a trait: a client that calls it, and a dispatcher that serves it.
///
/// ```text
/// #[adjoin::service]
/// pub trait Thumbnails {
///     /// Renders a page.
///     async fn render(&self, page: Page) -> Result<Image, RenderError>;
///     async fn ingest(&self, rows: Rx<Row>) -> u64;
///     #[adjoin(inline)]
///     async fn ping(&self);
/// }
/// ```
///
/// From this trait come, with its visibility:
///
/// - the trait itself, with `Send + Sync + 'static` as supertraits and futures that are `Send`. It is
///   implemented with plain `async fn`s;
/// - `ThumbnailsClient`, made of a `Connection`. Each method takes the arguments and returns a lazy `Call`.
///   `ThumbnailsClient::RENDER` describes the method (its names, its id, its attributes), and
///   `ThumbnailsClient::SERVICE` describes all of them;
/// - `ThumbnailsDispatcher<S>`, a `ServiceDispatcher` that answers with an implementation `S`.
///
/// Arguments and results are owned values that are `Serialize + Deserialize + Schema`. A method that returns
/// `Result<T, E>`, with both types written out, answers the caller with either; any other return type is a
/// plain value. Doc comments and attributes are carried over to the trait and to the client, `cfg`s to all
/// that belongs to the method.
///
/// # On the trait
///
/// - `#[adjoin::service(name = "Thumbs")]`: the name on the wire, where it is not the name of the trait. Keeps
///   the ids of the methods when the trait is renamed.
///
/// # On a method
///
/// - `#[adjoin(id = 0x1122334455667788)]` pins the id, for renames and for foreign peers. Its types need no
///   `Schema` then.
/// - `#[adjoin(inline)]`: the handler is polled once where its request was read, and spawned only if it is
///   not done by then. For handlers that hardly ever wait.
/// - `#[adjoin(idempotent)]`: running it twice does no harm, so that a reconnecting client may try again.
///
/// # Errors
///
/// Generics, references, default bodies and whatever else cannot cross a link are refused where they stand,
/// all at once. Two methods with the same id do not compile, and neither do a method pinned to the id of the one
/// that describes services, and an error type with a `Tx` or an `Rx` in it.
#[proc_macro_attribute]
pub fn service(args: TokenStream, input: TokenStream) -> TokenStream {
    match parse::service(args.into(), input.into()) {
        Ok(service) => expand::expand(&service).into(),
        Err(errors) => errors.into_compile_error().into(),
    }
}
