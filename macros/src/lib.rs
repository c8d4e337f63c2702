//! The attribute macro of `adjoin`. Use it as `adjoin::service`; this crate is never named directly.
//!
//! Reading order: [`macro@service`] is the entry; `parse` turns a trait into the types of `model`, or into all
//! that is wrong with it at once; `expand` writes the code. `options` reads the attributes, `owned` knows
//! which types can cross a link, `bare` those that cross it as something else. The generated code reaches the library through `::adjoin` alone.

mod bare;
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
/// ```
/// use adjoin::{Options, Rx, Schema, local};
///
/// #[derive(Debug, serde::Serialize, serde::Deserialize, Schema)]
/// #[postcard(crate = adjoin::postcard_schema)]
/// pub enum RenderError {
///     NoSuchPage,
/// }
///
/// /// Small pictures of pages.
/// #[adjoin::service]
/// pub trait Thumbnails {
///     /// Renders a page.
///     async fn render(&self, page: u32) -> Result<Vec<u8>, RenderError>;
///     async fn ingest(&self, rows: Rx<String>) -> u64;
/// }
///
/// struct Blank;
///
/// impl Thumbnails for Blank {
///     async fn render(&self, page: u32) -> Result<Vec<u8>, RenderError> {
///         if page == 0 { Err(RenderError::NoSuchPage) } else { Ok(vec![0; 16]) }
///     }
///
///     async fn ingest(&self, mut rows: Rx<String>) -> u64 {
///         let mut count = 0;
///         while let Ok(Some(_)) = rows.recv().await {
///             count += 1;
///         }
///         count
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Options::new().serve(ThumbnailsDispatcher::new(Blank));
/// let (connection, _server) = local::pair(Options::new(), server);
/// let thumbnails = ThumbnailsClient::new(&connection);
/// assert_eq!(thumbnails.render(1).await.unwrap().len(), 16);
/// assert_eq!(ThumbnailsClient::RENDER.name, "render");
/// # Ok(()) }
/// ```
///
/// From this trait come, with its visibility:
///
/// - the trait itself, with `Send + Sync + 'static` as supertraits and futures that are `Send`. It is
///   implemented with plain `async fn`s;
/// - `ThumbnailsClient`, made of a `Connection`, or whatever else is a `Caller`. Each method takes the arguments
///   and returns a lazy `Call`. `ThumbnailsClient::RENDER` describes the method (its names, its id, its
///   attributes), and `ThumbnailsClient::SERVICE` describes all of them;
/// - `ThumbnailsDispatcher<S>`, a `ServiceDispatcher` that answers with an implementation `S`.
///
/// Arguments and results are owned values that are `Serialize + Deserialize + Schema`. A method that returns
/// `Result<T, E>`, with both types written out, answers the caller with either; any other return type is a
/// plain value.
///
/// An argument, a result or the value of an `Ok` may be an `OwnedFd` as well, or an `Option` or a `Vec` of it: an open file
/// or socket, which links over shared memory, Unix sockets and within a process carry. Elsewhere, as in a struct, it is an
/// `adjoin::Descriptor`, which is what crosses the link. The method of the client then returns a `BareCall`, if its result
/// has one.
///
/// What the trait's documentation says, that of the client and of the dispatcher says, too. Doc comments and
/// attributes of methods stand at the client's methods, `cfg`s at all that belongs to the method.
///
/// # `#[adjoin::service(name = "…")]`
///
/// The name on the wire, where it is not the name of the trait. It keeps the ids of the methods when the trait is
/// renamed.
///
/// ```
/// mod before {
///     #[adjoin::service]
///     pub trait Thumbs {
///         async fn count(&self) -> u64;
///     }
/// }
///
/// #[adjoin::service(name = "Thumbs")]
/// pub trait Thumbnails {
///     async fn count(&self) -> u64;
/// }
///
/// assert_eq!(ThumbnailsClient::SERVICE.name, "Thumbs");
/// assert_eq!(ThumbnailsClient::COUNT.id, before::ThumbsClient::COUNT.id);
/// ```
///
/// # `#[adjoin(id = …)]` on a method
///
/// Pins the id, which is computed of the names and the types otherwise: for renames, for types that changed and that
/// the old ones can still be read as, and for foreign peers. The types need no `Schema` then.
///
/// What is known of types at compile time is their `Schema`. So an error type with a `Tx`, an `Rx` or a descriptor in it,
/// which does not compile otherwise, is found at run time under a pinned id: its caller is answered `Cancelled`, and the serving
/// side logs why.
///
/// ```
/// #[derive(serde::Serialize, serde::Deserialize)]
/// pub struct Opaque(u64);
///
/// #[adjoin::service]
/// pub trait Store {
///     #[adjoin(id = 0x1122334455667788)]
///     async fn get(&self, key: Opaque) -> Opaque;
/// }
///
/// assert_eq!(StoreClient::GET.id, adjoin::MethodId::new(0x1122334455667788));
/// ```
///
/// # `#[adjoin(inline)]` on a method
///
/// The handler is polled once where its request was read, and spawned only if it is not done by then. For handlers
/// that hardly ever wait, and are quick: nothing else is read from the link meanwhile.
///
/// ```
/// #[adjoin::service]
/// pub trait Clock {
///     #[adjoin(inline)]
///     async fn now(&self) -> u64;
/// }
///
/// assert!(ClockClient::NOW.inline);
/// ```
///
/// # `#[adjoin(idempotent)]` on a method
///
/// Running it twice does no harm, so that a call whose outcome is not known may be made again by what stands between
/// a client and its connection. Without it, what may have run is not repeated.
///
/// ```
/// #[adjoin::service]
/// pub trait Store {
///     #[adjoin(idempotent, inline)]
///     async fn get(&self, key: String) -> Option<u64>;
///     async fn append(&self, value: u64);
/// }
///
/// assert!(StoreClient::GET.idempotent && !StoreClient::APPEND.idempotent);
/// ```
///
/// # Errors
///
/// Generics, references, default bodies, attributes in the wrong place and whatever else cannot cross a link are
/// refused where they stand, all at once. Two methods with the same id do not compile, and neither do a method pinned
/// to the id of the one that describes services, and an error type with a `Tx`, an `Rx` or a descriptor in it.
#[proc_macro_attribute]
pub fn service(args: TokenStream, input: TokenStream) -> TokenStream {
    match parse::service(args.into(), input.into()) {
        Ok(service) => expand::expand(&service).into(),
        Err(errors) => errors.into_compile_error().into(),
    }
}
