//! Several services on one connection, by method.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak},
};

use crate::rpc::{
    dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
    method::{Method, Service, service},
    method_id::MethodId,
};

/// Serves any number of dispatchers as one: each request goes to the one that has its method.
///
/// Clones share everything: give one to each link, keep one, and what is [added](Router::add) and
/// [removed](Router::remove) holds for all links at once, from the next request on. The peer is
/// [told](crate::Connection::describe) what is served at the moment it asks; what changes while it reads a long
/// answer, page by page, it may miss.
///
/// - A method is found by its id. Two dispatchers that have the same one are refused: see [`RouteError`].
/// - What a dispatcher serves is [read](ServiceDispatcher::services) once, when it is added. One that changes later
///   (another router) or that does not know what it serves (a proxy) can be the
///   [fallback](Router::set_fallback), which gets what nobody else has.
/// - A request that runs when its service is removed goes on, and so do its streams; it is answered as ever.
///
/// What a request pays for the way through a router: one look-up under a read lock that nobody holds against it
/// but for the moment in which a service is added or removed, one count of references up and down, and no
/// allocation.
///
/// ```
/// # #[cfg(feature = "macros")] mod example {
/// use adjoin::{CallError, Options, Router, local};
///
/// #[adjoin::service]
/// trait Greeter {
///     async fn greet(&self, name: String) -> String;
/// }
///
/// #[adjoin::service]
/// trait Adder {
///     async fn add(&self, a: u32, b: u32) -> u32;
/// }
/// # struct English;
/// # impl Greeter for English {
/// #     async fn greet(&self, name: String) -> String { format!("Hello, {name}!") }
/// # }
/// # struct Plain;
/// # impl Adder for Plain {
/// #     async fn add(&self, a: u32, b: u32) -> u32 { a + b }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let router = Router::new();
/// router.add(GreeterDispatcher::new(English))?;
/// let (client, _server) = local::pair(Options::new(), Options::new().serve(router.clone()));
/// let (greeter, adder) = (GreeterClient::new(&client), AdderClient::new(&client));
///
/// assert_eq!(greeter.greet("world".into()).await?, "Hello, world!");
/// assert!(matches!(adder.add(1, 2).await, Err(CallError::UnknownMethod)));
///
/// let route = router.add(AdderDispatcher::new(Plain))?; // while the link runs
/// assert_eq!(adder.add(1, 2).await?, 3);
/// assert_eq!(client.describe().await?.len(), 2);
///
/// assert!(route.remove() && router.remove("Greeter"));
/// assert!(client.describe().await?.is_empty());
/// # Ok(()) }
/// # }
/// # #[cfg(feature = "macros")] fn main() { example::main().unwrap() }
/// # #[cfg(not(feature = "macros"))] fn main() {}
/// ```
#[derive(Clone, Default)]
#[must_use = "clones share it: keep one to change what is served"]
pub struct Router {
    shared: Arc<Shared>,
}

impl Router {
    /// Serves nothing yet: what the peer calls is answered "unknown method".
    pub fn new() -> Self {
        Router::default()
    }

    /// Adds the services of a dispatcher, after those that are there. To be removed again by the handle that is
    /// returned, or [by name](Router::remove).
    ///
    /// # Errors
    ///
    /// As [`RouteError`] says. Nothing has changed then.
    pub fn add(&self, dispatcher: impl ServiceDispatcher) -> Result<Route, RouteError> {
        // Code of others: it runs, and on an error is dropped, outside of the lock.
        let services = dispatcher.services();
        if services.is_empty() {
            return Err(RouteError::NoService);
        }
        let dispatcher: Arc<dyn ServiceDispatcher> = Arc::new(dispatcher);
        let key = self.shared.write().add(&dispatcher, services)?;
        Ok(Route { shared: Arc::downgrade(&self.shared), key })
    }

    /// Removes the services of this name, and tells whether there was one. Requests that run go on.
    ///
    /// Other services of the same dispatcher stay. A dispatcher of which none is left is dropped, here or by the
    /// request that is being handed to it.
    pub fn remove(&self, service: &str) -> bool {
        let (found, dropped) = self.shared.write().remove_service(service);
        drop(dropped); // outside of the lock
        found
    }

    /// Hands what no other dispatcher has to this one: a proxy, or another router. Replaces the one before.
    ///
    /// A router that is its own fallback, at whatever remove, never comes to an end with a request that nobody
    /// has.
    pub fn set_fallback(&self, dispatcher: impl ServiceDispatcher) {
        let dispatcher: Arc<dyn ServiceDispatcher> = Arc::new(dispatcher);
        let before = self.shared.write().fallback.replace(dispatcher);
        drop(before); // outside of the lock
    }

    /// Removes the fallback, and tells whether there was one: what nobody has is an unknown method again.
    pub fn remove_fallback(&self) -> bool {
        let before = self.shared.write().fallback.take();
        before.is_some()
    }
}

impl ServiceDispatcher for Router {
    /// The router itself, under the name `router` and without a method; [`services`](Router::services) has those
    /// that it serves.
    fn service(&self) -> &'static Service {
        &ROUTER
    }

    /// All services, in the order in which they were added, and those that the fallback knows of.
    fn services(&self) -> Vec<&'static Service> {
        let (mut services, fallback) = {
            let routes = self.shared.read();
            let services = routes.added.iter().flat_map(|added| added.services.iter().copied());
            (services.collect::<Vec<_>>(), routes.fallback.clone())
        };
        let routed = services.len();
        for service in fallback.map(|fallback| fallback.services()).unwrap_or_default() {
            if !services[..routed].contains(&service) {
                services.push(service);
            }
        }
        services
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        // A statement of its own, with which the lock ends: a handler that runs in place may change what is served.
        let found = self.shared.read().find(request.method_id());
        match found {
            Some(dispatcher) => dispatcher.dispatch(request),
            None => request.unknown_method(),
        }
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services = self.services();
        let names: Vec<_> = services.iter().map(|service| service.name).collect();
        f.debug_struct("Router").field("services", &names).finish_non_exhaustive()
    }
}

/// A dispatcher's place in a [`Router`], to remove it. Dropped, it leaves the dispatcher where it is.
#[derive(Clone)]
pub struct Route {
    shared: Weak<Shared>,
    key: u64,
}

impl Route {
    /// Removes the dispatcher with all its services, and tells whether any was left. Requests that run go on.
    pub fn remove(&self) -> bool {
        let dropped = self.shared.upgrade().and_then(|shared| shared.write().remove(self.key));
        dropped.is_some()
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").finish_non_exhaustive()
    }
}

/// Why a dispatcher cannot be added to a [`Router`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// Another dispatcher has a method of the same id. The same service twice, or an id that was pinned twice.
    #[error(
        "`{}.{}` cannot be added: `{}.{}` is served, and has the same id, {}",
        method.service, method.name, taken_by.service, taken_by.name, method.id
    )]
    MethodTaken {
        /// The method that is not added; it knows its service.
        method: &'static Method,
        /// The method that is there.
        taken_by: &'static Method,
    },
    /// The dispatcher does not tell any service, so that nothing could be handed to it but as the
    /// [fallback](Router::set_fallback).
    #[error("the dispatcher tells no service: it can only be the fallback")]
    NoService,
}

/// What a router says that it is.
static ROUTER: Service = service("router", &[]);

/// What all clones of a router share. No code of others runs under the lock, and nothing of theirs is dropped
/// there: that may change what is served.
#[derive(Default)]
struct Shared(RwLock<Routes>);

impl Shared {
    /// Goes on after a panic, which could only have come before a change or after it.
    fn read(&self) -> RwLockReadGuard<'_, Routes> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Routes> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who serves what. Invariant: `by_method` has the methods of all services in `added`, and nothing else.
#[derive(Default)]
struct Routes {
    /// The peer chooses what is looked up here, but not what is in it: a fixed hash will do.
    by_method: HashMap<MethodId, Target, foldhash::fast::FixedState>,
    added: Vec<Added>,
    fallback: Option<Arc<dyn ServiceDispatcher>>,
    next_key: u64,
}

/// A dispatcher, and what is left of its services.
struct Added {
    key: u64,
    services: Vec<&'static Service>,
    dispatcher: Arc<dyn ServiceDispatcher>,
}

/// Where a method's requests go.
struct Target {
    /// The key of the dispatcher.
    key: u64,
    method: &'static Method,
    dispatcher: Arc<dyn ServiceDispatcher>,
}

impl Routes {
    fn find(&self, id: MethodId) -> Option<Arc<dyn ServiceDispatcher>> {
        let target = self.by_method.get(&id).map(|target| &target.dispatcher);
        target.or(self.fallback.as_ref()).cloned()
    }

    fn add(
        &mut self,
        dispatcher: &Arc<dyn ServiceDispatcher>,
        services: Vec<&'static Service>,
    ) -> Result<u64, RouteError> {
        for method in methods(&services) {
            if let Some(Target { method: taken_by, .. }) = self.by_method.get(&method.id) {
                return Err(RouteError::MethodTaken { method, taken_by });
            }
        }
        let key = self.next_key;
        self.next_key += 1;
        let added = Added { key, services, dispatcher: Arc::clone(dispatcher) };
        self.claim(&added);
        self.added.push(added);
        Ok(key)
    }

    /// Enters the methods of a dispatcher. What it has twice, it has once: it tells the two apart by the same id.
    fn claim(&mut self, added: &Added) {
        for method in methods(&added.services) {
            let dispatcher = Arc::clone(&added.dispatcher);
            self.by_method.insert(method.id, Target { key: added.key, method, dispatcher });
        }
    }

    /// Takes out the methods of some services of a dispatcher.
    fn give_up(&mut self, key: u64, services: &[&'static Service]) {
        for method in methods(services) {
            if let Entry::Occupied(entry) = self.by_method.entry(method.id)
                && entry.get().key == key
            {
                entry.remove();
            }
        }
    }

    /// Removes a dispatcher, and returns it to be dropped.
    fn remove(&mut self, key: u64) -> Option<Added> {
        let at = self.added.iter().position(|added| added.key == key)?;
        let removed = self.added.remove(at);
        self.give_up(key, &removed.services);
        Some(removed)
    }

    /// Removes the services of a name, and tells whether there was one. Returns the dispatchers that are to be
    /// dropped.
    fn remove_service(&mut self, name: &str) -> (bool, Vec<Added>) {
        let (mut found, mut kept, mut dropped) = (false, Vec::new(), Vec::new());
        for mut added in std::mem::take(&mut self.added) {
            let gone: Vec<_> = added.services.extract_if(.., |service| service.name == name).collect();
            if !gone.is_empty() {
                found = true;
                self.give_up(added.key, &gone);
                self.claim(&added); // what it has twice stays
            }
            if added.services.is_empty() { dropped.push(added) } else { kept.push(added) }
        }
        self.added = kept;
        (found, dropped)
    }
}

/// The methods of all services.
fn methods(services: &[&'static Service]) -> impl Iterator<Item = &'static Method> {
    services.iter().flat_map(|service| service.methods)
}
