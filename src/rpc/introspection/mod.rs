//! Introspection (protocol section 9): a peer says what it offers, and a caller learns why a method is unknown.
//!
//! | file | is |
//! |---|---|
//! | `description`, `show` | what a side offers, as plain data and as text |
//! | `table`, `page` | the same on the wire |
//! | `explanation`, `compare` | why a peer does not know a method |
//!
//! # On the wire
//!
//! Every side answers one built-in method, `describe` of the service `adjoin`, before its dispatcher sees the
//! request. Its id is the one that any method of these names and types has, [`DESCRIBE_ID`]: what changes in
//! the types changes the id, so that two versions never misread each other. The argument is the place to begin
//! at (service and method, counted from 0), the result a page of what is offered from there on and the place
//! to go on at. The types of a method are a flat table in which each type comes behind its parts, see `table`.
//!
//! It is an ordinary request: it counts against the limit of concurrent ones, and its handler is a task.
//!
//! # Who asks, and when
//!
//! Nothing asks by itself. [`CallError::UnknownMethod`](crate::CallError::UnknownMethod) says that the method is
//! unknown, and a program that wants to know why asks with [`Connection::explain`]: an error that asked on its
//! own would add a round trip, of a length that the peer decides on, to a call that has failed already.

mod compare;
mod description;
mod explanation;
mod page;
mod show;
mod table;

use std::sync::Arc;

use postcard_schema::Schema;

pub use self::{
    description::{
        FieldDescription, MethodDescription, Primitive, ServiceDescription, Shape, SignatureDescription,
        TypeDescription, VariantDescription, VariantFields,
    },
    explanation::{Difference, Explanation},
};
use self::{
    page::{Assembly, Page, Position},
    table::Unreadable,
};
use super::{
    block::block_on_link,
    connection::Connection,
    dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
    errors::{CallError, Never},
    method::{Method, method},
    method_id::{MethodId, method_id},
};
use crate::strict::DecodeError;

/// The id of the built-in method, `0x60b7182c868e6ad3`. Nobody can pin it.
pub(crate) const DESCRIBE_ID: MethodId =
    method_id("adjoin", "describe", &[Position::SCHEMA], Page::SCHEMA, None);

/// The built-in method.
static DESCRIBE: Method = method("adjoin", "describe", DESCRIBE_ID, false, true);

/// Whether an id is the one of the built-in method; for generated code.
#[must_use]
pub const fn is_built_in(id: MethodId) -> bool {
    id.get() == DESCRIBE_ID.get()
}

/// Answers the built-in method for what `dispatcher` serves, in payloads of at most `max_payload_size`. Without
/// a dispatcher, nothing is served, which is an answer, too.
pub(super) fn describe(
    request: IncomingRequest<'_>,
    dispatcher: Option<Arc<dyn ServiceDispatcher>>,
    max_payload_size: u32,
) -> Dispatch {
    // The verdict of a Response takes a byte.
    let limit = (max_payload_size as usize).saturating_sub(1);
    request.serve(&DESCRIBE, move |(from,): (Position,)| async move {
        let services = dispatcher.map(|dispatcher| dispatcher.services()).unwrap_or_default();
        Page::of(&services, from, limit)
    })
}

impl Connection {
    /// Asks the peer which services it offers, with their methods and the types of these.
    ///
    /// One round trip for each 8 KiB of descriptions.
    ///
    /// ```
    /// # #[cfg(feature = "macros")] mod example {
    /// use adjoin::{Options, local};
    ///
    /// #[adjoin::service]
    /// trait Greeter {
    ///     async fn greet(&self, name: String) -> String;
    /// }
    /// # struct English;
    /// # impl Greeter for English {
    /// #     async fn greet(&self, name: String) -> String { format!("Hello, {name}!") }
    /// # }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (client, _server) = local::pair(Options::new(), Options::new().serve(GreeterDispatcher::new(English)));
    /// let services = client.describe().await?;
    /// assert_eq!(services[0].to_string(), "service Greeter\n    greet(name: String) -> String");
    /// # Ok(()) }
    /// # }
    /// # #[cfg(feature = "macros")] fn main() { example::main().unwrap() }
    /// # #[cfg(not(feature = "macros"))] fn main() {}
    /// ```
    ///
    /// # Errors
    ///
    /// As of any call. [`CallError::UnknownMethod`]: the peer does not say what it offers, because
    /// introspection is [switched off](crate::Options::introspection) there, or because it uses another
    /// library. [`CallError::InvalidResponse`] also for a description of more than 16 MiB, or with types that
    /// nest deeper than 128 levels.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing changes on the other side.
    pub async fn describe(&self) -> Result<Vec<ServiceDescription>, CallError> {
        let mut assembly = Assembly::new();
        let mut next = Some(Position::START);
        while let Some(from) = next {
            let page = self.call::<(Position,), Page, Never>(&DESCRIBE, (from,)).await?;
            let refused =
                |why: Unreadable| CallError::InvalidResponse(DecodeError::refused(&why.to_string()));
            next = assembly.add(from, page).map_err(refused)?;
        }
        Ok(assembly.finish())
    }

    /// As [`describe`](Connection::describe), from a plain thread. See [`Call::block`](crate::Call::block).
    ///
    /// # Errors
    ///
    /// As [`describe`](Connection::describe).
    pub fn blocking_describe(&self) -> Result<Vec<ServiceDescription>, CallError> {
        block_on_link(self.hub(), self.describe())
    }

    /// Asks the peer why it does not know a method: which service, which method, or which part of the
    /// signature is another one there. For the path on which a call has failed with
    /// [`CallError::UnknownMethod`].
    ///
    /// ```
    /// # #[cfg(feature = "macros")] mod example {
    /// use adjoin::{CallError, Options, local};
    ///
    /// #[adjoin::service]
    /// trait Archive {
    ///     async fn fetch(&self, page: u32) -> String;
    /// }
    ///
    /// mod of_last_year {
    ///     #[adjoin::service]
    ///     pub trait Archive {
    ///         async fn fetch(&self, page: u16) -> String;
    ///     }
    /// #   pub struct Paper;
    /// #   impl Archive for Paper {
    /// #       async fn fetch(&self, page: u16) -> String { page.to_string() }
    /// #   }
    /// }
    ///
    /// # use of_last_year::Paper;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Options::new().serve(of_last_year::ArchiveDispatcher::new(Paper));
    /// let (client, _server) = local::pair(Options::new(), server);
    /// if let Err(CallError::UnknownMethod) = ArchiveClient::new(&client).fetch(7).await {
    ///     let why = client.explain(ArchiveClient::FETCH).await?;
    ///     assert_eq!(
    ///         why.to_string(),
    ///         "the peer's method `Archive.fetch` has another signature: argument 1 \"page\": u32 here, u16 there",
    ///     );
    /// }
    /// # Ok(()) }
    /// # }
    /// # #[cfg(feature = "macros")] fn main() { example::main().unwrap() }
    /// # #[cfg(not(feature = "macros"))] fn main() {}
    /// ```
    ///
    /// # Errors
    ///
    /// As [`describe`](Connection::describe), but a peer that does not say what it offers is
    /// [`Explanation::NotStated`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing changes on the other side.
    pub async fn explain(&self, method: &'static Method) -> Result<Explanation, CallError> {
        match self.describe().await {
            Ok(offered) => Ok(Explanation::of(method, &offered)),
            Err(CallError::UnknownMethod) => Ok(Explanation::NotStated),
            Err(error) => Err(error),
        }
    }

    /// As [`explain`](Connection::explain), from a plain thread. See [`Call::block`](crate::Call::block).
    ///
    /// # Errors
    ///
    /// As [`explain`](Connection::explain).
    pub fn blocking_explain(&self, method: &'static Method) -> Result<Explanation, CallError> {
        block_on_link(self.hub(), self.explain(method))
    }
}

#[cfg(test)]
mod tests;
