//! Several services on one connection: over every link, and while they come and go.
#![allow(missing_docs)]

mod common;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use adjoin::{
    CallError, Connection, Context, Deduplicate, Dispatch, IncomingRequest, Nonce, Options, Route,
    RouteError, Router, Rx, Service, ServiceDispatcher, Tx, channel, introspection::Explanation, local,
};
use common::{
    links::{Far, Kind, link, settings},
    watchdog::Watchdog,
};

/// Says what the router is to do, from the other side.
#[adjoin::service]
trait Switch {
    async fn add_counter(&self) -> Result<(), String>;
    /// In place: whoever receives on the link changes what is served.
    #[adjoin(inline)]
    async fn add_tags(&self) -> Result<(), String>;
    #[adjoin(inline)]
    async fn remove(&self, service: String) -> bool;
    async fn remove_last(&self) -> bool;
    async fn set_fallback(&self);
    #[adjoin(inline)]
    async fn remove_fallback(&self) -> bool;
    /// Calls `tag` of the caller. `None`: it does not know that.
    async fn tag_back(&self, text: String) -> Option<String>;
    /// How many counters are gone, with all that ran on them.
    async fn gone(&self) -> u32;
}

#[adjoin::service]
trait Counter {
    async fn next(&self) -> u32;
    #[adjoin(inline)]
    async fn twice(&self, number: u32) -> u32;
    /// Says that it runs, takes a number, and returns its double.
    async fn hold(&self, runs: Tx<u8>, number: Rx<u32>) -> u32;
}

#[adjoin::service]
trait Tags {
    async fn tag(&self, text: String) -> String;
}

/// Nobody adds it, but it may be behind the fallback.
#[adjoin::service]
trait Rest {
    #[adjoin(id = 77)]
    async fn rest(&self) -> u32;
}

/// Another service with an id that `Rest` has.
#[adjoin::service]
trait Squatter {
    #[adjoin(id = 78)]
    async fn harmless(&self) -> u32;
    #[adjoin(id = 77)]
    async fn squat(&self) -> u32;
}

#[derive(Default)]
struct State {
    router: Router,
    last: Mutex<Option<Route>>,
    gone: Arc<AtomicU32>,
}

struct Switched(Arc<State>);

impl Switch for Switched {
    async fn add_counter(&self) -> Result<(), String> {
        self.add(CounterDispatcher::new(Counted { gone: Arc::clone(&self.0.gone), count: AtomicU32::new(0) }))
    }

    async fn add_tags(&self) -> Result<(), String> {
        self.add(TagsDispatcher::new(Tagged))
    }

    async fn remove(&self, service: String) -> bool {
        self.0.router.remove(&service)
    }

    async fn remove_last(&self) -> bool {
        self.0.last.lock().unwrap().as_ref().is_some_and(Route::remove)
    }

    async fn set_fallback(&self) {
        self.0.router.set_fallback(RestDispatcher::new(Rested));
    }

    async fn remove_fallback(&self) -> bool {
        self.0.router.remove_fallback()
    }

    async fn tag_back(&self, text: String) -> Option<String> {
        let context = Context::current().expect("a handler has a context");
        match TagsClient::new(context.connection()).tag(text).await {
            Ok(tagged) => Some(tagged),
            Err(CallError::UnknownMethod) => None,
            Err(error) => panic!("{error}"),
        }
    }

    async fn gone(&self) -> u32 {
        self.0.gone.load(Ordering::SeqCst)
    }
}

impl Switched {
    fn add(&self, dispatcher: impl ServiceDispatcher) -> Result<(), String> {
        let route = self.0.router.add(dispatcher).map_err(|error| error.to_string())?;
        *self.0.last.lock().unwrap() = Some(route);
        Ok(())
    }
}

#[derive(Default)]
struct Counted {
    gone: Arc<AtomicU32>,
    count: AtomicU32,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gone.fetch_add(1, Ordering::SeqCst);
    }
}

impl Counter for Counted {
    async fn next(&self) -> u32 {
        self.count.fetch_add(1, Ordering::SeqCst) + 1
    }

    async fn twice(&self, number: u32) -> u32 {
        number.wrapping_mul(2)
    }

    async fn hold(&self, runs: Tx<u8>, mut number: Rx<u32>) -> u32 {
        runs.send(1).await.unwrap();
        number.recv().await.unwrap().unwrap() * 2
    }
}

struct Tagged;

impl Tags for Tagged {
    async fn tag(&self, text: String) -> String {
        format!("<{text}>")
    }
}

struct Rested;

impl Rest for Rested {
    async fn rest(&self) -> u32 {
        7
    }
}

impl Squatter for Rested {
    async fn harmless(&self) -> u32 {
        8
    }

    async fn squat(&self) -> u32 {
        9
    }
}

/// A router that has the switch alone, which changes it.
fn switched() -> Router {
    let state = Arc::new(State::default());
    state.router.add(SwitchDispatcher::new(Switched(Arc::clone(&state)))).unwrap();
    state.router.clone()
}

#[cfg(target_os = "linux")]
#[test]
fn cell_entry() {
    common::links::serve_if_cell_with(|| Options::new().settings(settings()).serve(switched()));
}

/// Clients of all services, and what keeps the far end alive.
struct Near {
    connection: Connection,
    switch: SwitchClient,
    counter: CounterClient,
    tags: TagsClient,
    rest: RestClient,
    _far: Far,
}

fn run<F: Future<Output = ()>>(test: F) {
    let _hang = Watchdog::seconds(180);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

async fn connect(kind: Kind) -> Near {
    let options = Options::new().settings(settings());
    let (connection, far) = link(kind, options.clone(), options.serve(switched())).await;
    Near {
        switch: SwitchClient::new(&connection),
        counter: CounterClient::new(&connection),
        tags: TagsClient::new(&connection),
        rest: RestClient::new(&connection),
        connection,
        _far: far,
    }
}

macro_rules! over_every_link {
    ($($name:ident)*) => {
        mod over_local { $(#[test] fn $name() { super::over(super::Kind::Local, super::$name); })* }
        mod over_uds { $(#[test] fn $name() { super::over(super::Kind::Uds, super::$name); })* }
        mod over_tcp { $(#[test] fn $name() { super::over(super::Kind::Tcp, super::$name); })* }
        #[cfg(target_os = "linux")]
        mod over_shm { $(#[test] fn $name() { super::over(super::Kind::Shm, super::$name); })* }
    };
}

fn over<F: Future<Output = ()>>(kind: Kind, test: impl FnOnce(Near) -> F) {
    run(async { test(connect(kind).await).await });
}

over_every_link! {
    each_request_goes_to_the_service_that_has_its_method
    what_is_offered_changes_with_what_is_served
    a_request_that_runs_when_its_service_is_removed_is_answered
    a_service_that_is_there_twice_is_refused_by_name
    what_nobody_has_goes_to_the_fallback
    services_come_and_go_while_many_tasks_call
}

async fn each_request_goes_to_the_service_that_has_its_method(near: Near) {
    assert!(matches!(near.counter.next().await, Err(CallError::UnknownMethod)));
    near.switch.add_counter().await.unwrap();
    near.switch.add_tags().await.unwrap();
    for number in 1..100 {
        assert_eq!(near.counter.next().await.unwrap(), number);
        assert_eq!(near.counter.twice(number).await.unwrap(), 2 * number);
        assert_eq!(near.tags.tag(number.to_string()).await.unwrap(), format!("<{number}>"));
    }
    assert!(near.switch.remove("Counter".into()).await.unwrap());
    assert!(!near.switch.remove("Counter".into()).await.unwrap());
    assert!(matches!(near.counter.twice(1).await, Err(CallError::UnknownMethod)));
    assert_eq!(near.tags.tag("still".into()).await.unwrap(), "<still>");
    // The last that was added are the tags.
    assert!(near.switch.remove_last().await.unwrap());
    assert!(!near.switch.remove_last().await.unwrap());
    assert!(matches!(near.tags.tag("gone".into()).await, Err(CallError::UnknownMethod)));
    near.switch.add_counter().await.unwrap();
    assert_eq!(near.counter.next().await.unwrap(), 1, "another one");
}

async fn what_is_offered_changes_with_what_is_served(near: Near) {
    assert_eq!(offered(&near.connection).await, ["Switch"]);
    let shown = near.connection.explain(CounterClient::NEXT).await.unwrap().to_string();
    assert_eq!(shown, "the peer has no service `Counter`; it offers `Switch`");
    near.switch.add_tags().await.unwrap();
    near.switch.add_counter().await.unwrap();
    assert_eq!(offered(&near.connection).await, ["Switch", "Tags", "Counter"]);
    let explained = near.connection.explain(CounterClient::NEXT).await.unwrap();
    assert!(
        matches!(&explained, Explanation::Offered { service, .. } if service == "Counter"),
        "{explained:?}"
    );
    near.switch.remove("Tags".into()).await.unwrap();
    assert_eq!(offered(&near.connection).await, ["Switch", "Counter"]);
    near.switch.set_fallback().await.unwrap();
    assert_eq!(offered(&near.connection).await, ["Switch", "Counter", "Rest"]);
    near.switch.add_tags().await.unwrap();
    assert_eq!(offered(&near.connection).await, ["Switch", "Counter", "Tags", "Rest"]);
}

async fn offered(connection: &Connection) -> Vec<String> {
    let services = connection.describe().await.unwrap();
    services.into_iter().map(|service| service.name).collect()
}

async fn a_request_that_runs_when_its_service_is_removed_is_answered(near: Near) {
    for by_name in [true, false] {
        near.switch.add_counter().await.unwrap();
        let gone = near.switch.gone().await.unwrap();
        let (runs, mut is_running) = channel();
        let (number, taken) = channel();
        let counter = near.counter.clone();
        let held = tokio::spawn(async move { counter.hold(runs, taken).await });
        assert_eq!(is_running.recv().await.unwrap(), Some(1));

        let removed = if by_name {
            near.switch.remove("Counter".into()).await.unwrap()
        } else {
            near.switch.remove_last().await.unwrap()
        };
        assert!(removed);
        assert!(matches!(near.counter.next().await, Err(CallError::UnknownMethod)));
        assert_eq!(near.switch.gone().await.unwrap(), gone, "it runs");
        number.send(21).await.unwrap();
        assert_eq!(held.await.unwrap().unwrap(), 42);
        while near.switch.gone().await.unwrap() == gone {} // ends: its last request took it along
    }
}

async fn a_service_that_is_there_twice_is_refused_by_name(near: Near) {
    near.switch.add_counter().await.unwrap();
    let id = CounterClient::NEXT.id;
    match near.switch.add_counter().await {
        Err(CallError::User(text)) => assert_eq!(
            text,
            format!("`Counter.next` cannot be added: `Counter.next` is served, and has the same id, {id}")
        ),
        other => panic!("{other:?}"),
    }
    assert_eq!(near.counter.next().await.unwrap(), 1);
    assert_eq!(near.counter.next().await.unwrap(), 2, "the first is there");
    assert_eq!(offered(&near.connection).await, ["Switch", "Counter"]);
}

async fn what_nobody_has_goes_to_the_fallback(near: Near) {
    assert!(matches!(near.rest.rest().await, Err(CallError::UnknownMethod)));
    assert!(!near.switch.remove_fallback().await.unwrap());
    near.switch.set_fallback().await.unwrap();
    near.switch.add_tags().await.unwrap();
    assert_eq!(near.rest.rest().await.unwrap(), 7);
    assert_eq!(near.tags.tag("a".into()).await.unwrap(), "<a>");
    assert!(
        matches!(near.counter.next().await, Err(CallError::UnknownMethod)),
        "the fallback has no such one"
    );
    assert!(near.switch.remove_fallback().await.unwrap());
    assert!(matches!(near.rest.rest().await, Err(CallError::UnknownMethod)));
}

async fn services_come_and_go_while_many_tasks_call(near: Near) {
    near.switch.add_tags().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let (counter, tags, stop) = (near.counter.clone(), near.tags.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut served, mut unknown) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    // Nobody removes it: it never fails.
                    assert_eq!(tags.tag("x".into()).await.unwrap(), "<x>");
                    let called = if task % 2 == 0 {
                        counter.twice(task).await.map(|twice| assert_eq!(twice, 2 * task))
                    } else {
                        counter.next().await.map(|number| assert!(number > 0))
                    };
                    match called {
                        Ok(()) => served += 1,
                        Err(CallError::UnknownMethod) => unknown += 1,
                        Err(other) => panic!("{other}"),
                    }
                }
                (served, unknown)
            })
        })
        .collect();
    let (mut removed, changes) = (0, 200);
    for _ in 0..changes {
        near.switch.add_counter().await.unwrap();
        near.counter.next().await.unwrap();
        removed += u32::from(near.switch.remove("Counter".into()).await.unwrap());
        assert!(matches!(near.counter.next().await, Err(CallError::UnknownMethod)));
    }
    stop.store(true, Ordering::Relaxed);
    let (mut served, mut unknown) = (0, 0);
    for task in tasks {
        let (task_served, task_unknown) = task.await.unwrap();
        served += task_served;
        unknown += task_unknown;
    }
    assert_eq!(removed, changes);
    assert!(served + unknown > 0, "the tasks called");
    while near.switch.gone().await.unwrap() < changes {} // ends: no request of theirs is left
    assert_eq!(offered(&near.connection).await, ["Switch", "Tags"]);
}

/// A client of what this dispatcher serves, and the serving side.
fn served(dispatcher: impl ServiceDispatcher) -> (Connection, Connection) {
    local::pair(Options::new(), Options::new().serve(dispatcher))
}

#[test]
fn two_services_with_the_same_id_are_refused_and_nothing_is_added() {
    run(async {
        let router = Router::new();
        router.add(RestDispatcher::new(Rested)).unwrap();
        let refused = router.add(SquatterDispatcher::new(Rested)).unwrap_err();
        assert_eq!(
            refused,
            RouteError::MethodTaken { method: SquatterClient::SQUAT, taken_by: RestClient::REST }
        );
        assert_eq!(
            refused.to_string(),
            "`Squatter.squat` cannot be added: `Rest.rest` is served, and has the same id, 0x000000000000004d"
        );
        let (client, _server) = served(router.clone());
        let squatter = SquatterClient::new(&client);
        assert!(matches!(squatter.harmless().await, Err(CallError::UnknownMethod)), "not even in part");
        assert_eq!(squatter.squat().await.unwrap(), 7, "the id is the one of `Rest.rest`");
        assert!(router.remove("Rest"));
        router.add(SquatterDispatcher::new(Rested)).unwrap();
        assert_eq!(squatter.squat().await.unwrap(), 9);
    });
}

/// Several services at one dispatcher, one of them perhaps twice.
struct Several(Vec<&'static Service>, Router);

impl ServiceDispatcher for Several {
    fn service(&self) -> &'static Service {
        self.1.service()
    }

    fn services(&self) -> Vec<&'static Service> {
        self.0.clone()
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        self.1.dispatch(request)
    }
}

fn tags_and_rest() -> Router {
    let router = Router::new();
    router.add(TagsDispatcher::new(Tagged)).unwrap();
    router.add(RestDispatcher::new(Rested)).unwrap();
    router
}

#[test]
fn removing_a_service_by_name_leaves_the_others_of_its_dispatcher() {
    run(async {
        let router = Router::new();
        let services = vec![TagsClient::SERVICE, RestClient::SERVICE, TagsClient::SERVICE];
        let route = router.add(Several(services, tags_and_rest())).unwrap();
        let (client, _server) = served(router.clone());
        let (tags, rest) = (TagsClient::new(&client), RestClient::new(&client));
        assert_eq!(tags.tag("a".into()).await.unwrap(), "<a>");
        assert!(router.remove("Tags"));
        assert!(matches!(tags.tag("a".into()).await, Err(CallError::UnknownMethod)));
        assert_eq!(rest.rest().await.unwrap(), 7);
        assert_eq!(offered(&client).await, ["Rest"]);
        assert!(route.remove());
        assert!(!router.remove("Rest"));
        assert!(matches!(rest.rest().await, Err(CallError::UnknownMethod)));
    });
}

#[test]
fn a_method_that_a_dispatcher_has_twice_stays_while_one_of_its_services_does() {
    run(async {
        let router = Router::new();
        // Of two services with the same id, one goes.
        let services = vec![SquatterClient::SERVICE, RestClient::SERVICE];
        let _route = router.add(Several(services, tags_and_rest())).unwrap();
        let (client, _server) = served(router.clone());
        assert!(router.remove("Squatter"));
        assert_eq!(RestClient::new(&client).rest().await.unwrap(), 7);
        assert_eq!(offered(&client).await, ["Rest"]);
    });
}

#[test]
fn a_dispatcher_that_tells_no_service_can_only_be_the_fallback() {
    run(async {
        let router = Router::new();
        let inner = Router::new();
        assert_eq!(router.add(inner.clone()).unwrap_err(), RouteError::NoService);
        router.set_fallback(inner.clone());
        let (client, _server) = served(router.clone());
        // What comes to the inner one later is reached, and offered.
        inner.add(TagsDispatcher::new(Tagged)).unwrap();
        assert_eq!(TagsClient::new(&client).tag("a".into()).await.unwrap(), "<a>");
        assert_eq!(offered(&client).await, ["Tags"]);
        router.add(TagsDispatcher::new(Tagged)).unwrap();
        assert_eq!(offered(&client).await, ["Tags"], "once, though the fallback has it, too");
    });
}

#[test]
fn a_router_behind_deduplicate_and_before_it_runs_a_marked_call_once() {
    async fn once(dispatcher: impl ServiceDispatcher + Clone) {
        let nonce = Nonce::random().unwrap();
        for _ in 0..3 {
            let (client, _server) = served(dispatcher.clone());
            let counter = CounterClient::new(&client);
            assert_eq!(counter.next().with_nonce(nonce).await.unwrap(), 1);
            assert_eq!(TagsClient::new(&client).tag("a".into()).await.unwrap(), "<a>");
        }
        let (client, _server) = served(dispatcher);
        assert_eq!(offered(&client).await, ["Tags", "Counter"]);
        assert_eq!(CounterClient::new(&client).next().await.unwrap(), 2);
    }
    run(async {
        let inside = Router::new();
        let outside = Deduplicate::new(inside.clone());
        inside.add(TagsDispatcher::new(Tagged)).unwrap();
        inside.add(CounterDispatcher::new(Counted::default())).unwrap(); // later than `outside`
        once(outside).await;

        let outside = Router::new();
        outside.add(TagsDispatcher::new(Tagged)).unwrap();
        outside.add(Deduplicate::new(CounterDispatcher::new(Counted::default()))).unwrap();
        once(outside).await;
    });
}

#[test]
fn links_of_all_kinds_share_one_router() {
    run(async {
        let router = Router::new();
        let mut peers = Vec::new();
        for kind in Kind::all() {
            let near = Options::new().settings(settings()).serve(router.clone());
            let (connection, far) = link(kind, near, Options::new().serve(switched())).await;
            peers.push((SwitchClient::new(&connection), far));
        }
        for round in 0..50 {
            router.add(TagsDispatcher::new(Tagged)).unwrap();
            for (peer, _) in &peers {
                assert_eq!(peer.tag_back("a".into()).await.unwrap().unwrap(), "<a>", "{round}");
            }
            assert!(router.remove("Tags"));
            for (peer, _) in &peers {
                assert_eq!(peer.tag_back("a".into()).await.unwrap(), None, "{round}");
            }
        }
    });
}

/// The id of the built-in method.
const DESCRIBE: u64 = 0x60b7_182c_868e_6ad3;

/// Remembers that it was asked what is offered.
struct Asked(Arc<AtomicBool>);

impl ServiceDispatcher for Asked {
    fn service(&self) -> &'static Service {
        RestClient::SERVICE
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        if request.method_id().get() == DESCRIBE {
            self.0.store(true, Ordering::SeqCst);
        }
        request.unknown_method()
    }
}

#[test]
fn where_the_library_does_not_say_what_is_offered_the_fallback_is_asked() {
    run(async {
        for answered in [true, false] {
            let (router, asked) = (Router::new(), Arc::new(AtomicBool::new(false)));
            router.add(TagsDispatcher::new(Tagged)).unwrap();
            router.set_fallback(Asked(Arc::clone(&asked)));
            let options = Options::new().serve(router).introspection(answered);
            let (client, _server) = local::pair(Options::new(), options);
            assert_eq!(client.describe().await.is_ok(), answered);
            assert_eq!(asked.load(Ordering::SeqCst), !answered);
        }
    });
}

/// A dispatcher that uses its router when it is dropped.
struct Last(TagsDispatcher<Tagged>, Router, Arc<AtomicU32>);

impl Drop for Last {
    fn drop(&mut self) {
        let _ = self.1.services();
        self.1.remove("nothing");
        self.2.fetch_add(1, Ordering::SeqCst);
    }
}

impl ServiceDispatcher for Last {
    fn service(&self) -> &'static Service {
        self.1.remove("nothing");
        self.0.service()
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        self.1.remove("Tags"); // itself: it is dropped when it returns
        self.0.dispatch(request)
    }
}

#[test]
fn a_dispatcher_may_use_its_router_whenever_it_runs_or_is_dropped() {
    run(async {
        let (router, drops) = (Router::new(), Arc::new(AtomicU32::new(0)));
        let last = || Last(TagsDispatcher::new(Tagged), router.clone(), Arc::clone(&drops));
        let dropped = |times| assert_eq!(drops.load(Ordering::SeqCst), times);
        let route = router.add(last()).unwrap();
        assert!(router.add(last()).is_err());
        dropped(1);
        assert!(route.remove());
        dropped(2);
        router.add(last()).unwrap();
        assert!(router.remove("Tags"));
        dropped(3);
        router.set_fallback(last());
        router.set_fallback(last());
        dropped(4);
        assert!(router.remove_fallback());
        dropped(5);

        router.add(last()).unwrap();
        let (client, _server) = served(router.clone());
        let tags = TagsClient::new(&client);
        assert_eq!(tags.tag("a".into()).await.unwrap(), "<a>");
        dropped(6);
        assert!(matches!(tags.tag("a".into()).await, Err(CallError::UnknownMethod)));
    });
}

#[test]
fn a_route_outlives_its_router_and_is_no_reason_to_keep_it() {
    let counted = Arc::new(Counted::default());
    let router = Router::new();
    let route = router.add(CounterDispatcher::from_arc(Arc::clone(&counted))).unwrap();
    drop(route.clone());
    assert_eq!(
        format!("{router:?}"),
        "Router { services: [\"Counter\"], .. }",
        "dropping a route removes nothing"
    );
    drop(router);
    assert_eq!(Arc::strong_count(&counted), 1);
    assert!(!route.remove());
}
