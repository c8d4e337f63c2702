//! What a program learns of its peer: over every link, from peers that serve much, little or nothing, and from
//! peers that lie.
#![allow(missing_docs)]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use adjoin::{
    CallError, ConnectOptions, Connection, Deduplicate, Dispatch, IncomingRequest, MethodId, Options,
    Service, ServiceDispatcher, Settings, introspection::Explanation, local,
};
use common::{
    links::{Kind, calling, connect_with, settings},
    suite::{BackClient, BackDispatcher, BackService, SuiteClient, SuiteDispatcher, SuiteService},
    watchdog::Watchdog,
};

#[cfg(target_os = "linux")]
#[test]
fn cell_entry() {
    common::links::serve_if_cell();
}

fn run<F: Future<Output = ()>>(test: F) {
    let _hang = Watchdog::seconds(180);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

/// The id of the built-in method, as the documentation says it.
const DESCRIBE: MethodId = MethodId::new(0x60b7_182c_868e_6ad3);

/// A client of what this dispatcher serves, and the serving side.
fn served(options: Options) -> (Connection, Connection) {
    local::pair(Options::new(), options)
}

#[test]
fn a_side_that_does_not_say_is_told_from_one_that_has_nothing() {
    run(async {
        for kind in Kind::all() {
            let open = connect_with(kind, calling(), settings()).await;
            assert_eq!(
                open.suite.offered_back().await.unwrap(),
                Some(vec!["Back.add".to_owned()]),
                "{kind:?}"
            );
            let closed = connect_with(kind, calling().introspection(false), settings()).await;
            assert_eq!(closed.suite.offered_back().await.unwrap(), None, "{kind:?}");
            assert_eq!(closed.suite.call_back(1, 2).await.unwrap(), 3, "it still serves");
            let idle = connect_with(kind, Options::new().settings(settings()), settings()).await;
            assert_eq!(idle.suite.offered_back().await.unwrap(), Some(Vec::new()), "{kind:?}");
        }
    });
}

#[test]
fn a_side_that_does_not_say_is_explained_as_such() {
    run(async {
        let service = SuiteDispatcher::new(SuiteService::default());
        let (client, _server) = served(Options::new().serve(service).introspection(false));
        assert!(matches!(client.describe().await, Err(CallError::UnknownMethod)));
        assert_eq!(client.explain(BackClient::ADD).await.unwrap(), Explanation::NotStated);
    });
}

/// Hands all requests on, and remembers the question for what is offered.
struct Forward {
    to: SuiteDispatcher<SuiteService>,
    asked: Arc<AtomicU32>,
}

impl ServiceDispatcher for Forward {
    fn service(&self) -> &'static Service {
        self.to.service()
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        if request.method_id() == DESCRIBE {
            self.asked.fetch_add(1, Ordering::SeqCst);
        }
        self.to.dispatch(request)
    }
}

#[test]
fn a_dispatcher_sees_the_question_only_where_the_library_does_not_answer_it() {
    run(async {
        for (answered, asked) in [(true, 0), (false, 1)] {
            let seen = Arc::default();
            let forward =
                Forward { to: SuiteDispatcher::new(SuiteService::default()), asked: Arc::clone(&seen) };
            let (client, _server) = served(Options::new().serve(forward).introspection(answered));
            assert_eq!(client.describe().await.is_ok(), answered);
            assert_eq!(seen.load(Ordering::SeqCst), asked);
        }
    });
}

/// Two services at one dispatcher.
struct Both(SuiteDispatcher<SuiteService>, BackDispatcher<BackService>);

impl ServiceDispatcher for Both {
    fn service(&self) -> &'static Service {
        self.0.service()
    }

    fn services(&self) -> Vec<&'static Service> {
        vec![self.0.service(), self.1.service()]
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        if request.method_id() == BackClient::ADD.id {
            self.1.dispatch(request)
        } else {
            self.0.dispatch(request)
        }
    }
}

#[test]
fn a_dispatcher_of_several_services_offers_all_of_them() {
    run(async {
        for payload in [1 << 20, 200] {
            let both = Both(SuiteDispatcher::new(SuiteService::default()), BackDispatcher::new(BackService));
            let settings = Settings::default().max_payload_size(payload);
            let both = Deduplicate::new(both); // hands the question on
            let (client, _server) = served(Options::new().serve(both).settings(settings));
            let services = client.describe().await.unwrap();
            let names: Vec<_> = services.iter().map(|service| &service.name[..]).collect();
            assert_eq!(names, ["Suite", "Back"]);
            assert_eq!(services[0].methods.len(), SuiteClient::SERVICE.methods.len());
            let ids = services[0].methods.iter().map(|method| method.id);
            assert!(ids.eq(SuiteClient::SERVICE.methods.iter().map(|method| method.id)));
            // `nested` is longer than 200 bytes.
            let stated = services[0].methods.iter().filter(|method| method.signature.is_some()).count();
            assert_eq!(stated == services[0].methods.len(), payload > 200);
            assert!(stated > 20);
        }
    });
}

#[test]
fn each_connection_of_a_link_offers_its_own_services() {
    run(async {
        let root = Options::new().serve(SuiteDispatcher::new(SuiteService::default()));
        for (allowed, root) in [(true, root.clone()), (false, root.introspection(false))] {
            let server = root.on_connect(|incoming| {
                let accepted = incoming.accept(ConnectOptions::new().serve(BackDispatcher::new(BackService)));
                let accepted = accepted.unwrap();
                tokio::spawn(async move { accepted.closed().await });
            });
            let (client, _server) = served(server);
            let other = client.connect(ConnectOptions::new()).await.unwrap();
            if allowed {
                assert_eq!(client.describe().await.unwrap(), [SuiteClient::SERVICE.into()]);
                assert_eq!(other.describe().await.unwrap(), [BackClient::SERVICE.into()]);
                let shown = other.explain(SuiteClient::ADD).await.unwrap().to_string();
                assert_eq!(shown, "the peer has no service `Suite`; it offers `Back`");
            } else {
                assert_eq!(client.explain(SuiteClient::ADD).await.unwrap(), Explanation::NotStated);
                assert_eq!(other.explain(BackClient::ADD).await.unwrap(), Explanation::NotStated);
            }
        }
    });
}

/// Answers the question with bytes of its own, page by page.
struct Liar(fn(u32) -> Vec<u8>);

impl ServiceDispatcher for Liar {
    fn service(&self) -> &'static Service {
        BackClient::SERVICE
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        let answer = self.0;
        request.serve(BackClient::ADD, move |(_service, page): (u32, u32)| async move { Raw(answer(page)) })
    }
}

/// Bytes that stand in an answer as they are.
struct Raw(Vec<u8>);

impl serde::Serialize for Raw {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple;
        let mut bytes = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|byte| bytes.serialize_element(byte))?;
        bytes.end()
    }
}

#[test]
fn a_peer_that_lies_costs_an_error() {
    fn nothing(_: u32) -> Vec<u8> {
        Vec::new()
    }
    fn counts_without_end(_: u32) -> Vec<u8> {
        vec![0xff, 0xff, 0xff, 0xff, 0x0f, 1]
    }
    fn the_same_page_again(_: u32) -> Vec<u8> {
        b"\x01\x01S\x00\x01\x00\x00".to_vec() // the service S, no method; go on at (0, 0)
    }
    fn pages_without_end(page: u32) -> Vec<u8> {
        let mut bytes = b"\x01\x01S\x00\x01\x00".to_vec(); // the service S, no method; go on at (0, page + 1)
        let mut rest = page + 1;
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    }
    fn a_type_that_contains_itself(_: u32) -> Vec<u8> {
        let mut bytes = b"\x01\x01S\x01\x01m\x07\x00\x00\x01".to_vec(); // the service S, method m with id 7
        bytes.extend(b"\x01\x00\x01\x00"); // one type: without name, an option of itself
        bytes.extend(b"\x00\x00\x00\x00"); // no argument, the type as result, no error; the last page
        bytes
    }
    run(async {
        for (lie, said) in [
            (nothing as fn(u32) -> Vec<u8>, "the bytes end within the value"),
            (counts_without_end, "elements are announced, more than the bytes can hold"),
            (the_same_page_again, "the pages of a description do not continue each other"),
            (a_type_that_contains_itself, "a description refers to a type that does not stand before it"),
            (pages_without_end, "a description takes more than 16 MiB"),
        ] {
            let (client, _server) = served(Options::new().serve(Liar(lie)).introspection(false));
            let described = client.describe().await;
            assert!(matches!(&described, Err(CallError::InvalidResponse(_))), "{described:?}");
            let explained = client.explain(SuiteClient::ADD).await.unwrap_err().to_string();
            assert!(explained.contains(said), "{explained}");
        }
    });
}
