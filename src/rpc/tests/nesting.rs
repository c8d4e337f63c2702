//! Values that are nested deeper than a side reads, wherever they come from.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{end_of, within};
use crate::{
    error::{LinkEnd, Violation},
    open::local,
    rpc::{
        dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
        errors::{CallError, Never, RecvError},
        method::{Method, Service, method, service},
        method_id::MethodId,
        options::Options,
        rx::Rx,
        tx::channel,
        waiters::lock,
    },
    settings::Settings,
    strict::DecodeError,
};

/// Three levels.
type Deep = Vec<Vec<Vec<u8>>>;

fn deep() -> Deep {
    vec![vec![vec![7]]]
}

const TAKE: Method = method("Deep", "take", MethodId::new(1), false, false);
const GIVE: Method = method("Deep", "give", MethodId::new(2), false, false);
const FAIL: Method = method("Deep", "fail", MethodId::new(3), false, false);
const READ: Method = method("Deep", "read", MethodId::new(4), false, false);

#[derive(Clone, Default)]
struct Diver {
    /// What its reader was told at last.
    told: Arc<Mutex<Option<RecvError>>>,
}

impl ServiceDispatcher for Diver {
    fn service(&self) -> &'static Service {
        static DIVER: Service = service("Deep", &[TAKE, GIVE, FAIL, READ]);
        &DIVER
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        let told = Arc::clone(&self.told);
        match request.method_id() {
            id if id == TAKE.id => request.serve(&TAKE, |(_,): (Deep,)| async {}),
            id if id == GIVE.id => request.serve(&GIVE, |()| async { deep() }),
            id if id == FAIL.id => request.serve_result(&FAIL, |()| async { Err::<(), _>(deep()) }),
            _ => request.serve(&READ, |(mut rx,): (Rx<Deep>,)| async move {
                while let Some(element) = rx.recv().await.transpose() {
                    *lock(&told) = element.err();
                    if lock(&told).is_some() {
                        break;
                    }
                }
            }),
        }
    }
}

fn options(max_nesting: u32) -> Options {
    Options::new().settings(Settings::default().max_nesting(max_nesting))
}

#[tokio::test]
async fn arguments_that_are_nested_too_deep_are_answered_invalid_payload() {
    for (limit, fits) in [(3, true), (2, false)] {
        let (client, _server) = local::pair(options(0), options(limit).serve(Diver::default()));
        let called = within(client.call::<(Deep,), (), Never>(&TAKE, (deep(),))).await;
        assert_eq!(called.is_ok(), fits, "{called:?}");
        assert!(fits || matches!(called, Err(CallError::InvalidPayload)), "{called:?}");
    }
}

#[tokio::test]
async fn results_that_are_nested_too_deep_fail_their_call() {
    for (limit, fits) in [(3, true), (2, false)] {
        let (client, _server) = local::pair(options(limit), options(0).serve(Diver::default()));
        let wrong = DecodeError::Nesting { limit };
        match within(client.call::<(), Deep, Never>(&GIVE, ())).await {
            Ok(value) => assert!(fits && value == deep()),
            Err(CallError::InvalidResponse(why)) => assert!(!fits && why == wrong, "{why}"),
            other => panic!("{other:?}"),
        }
        match within(client.call::<(), (), Deep>(&FAIL, ())).await {
            Err(CallError::User(error)) => assert!(fits && error == deep()),
            Err(CallError::InvalidResponse(why)) => assert!(!fits && why == wrong, "{why}"),
            other => panic!("{other:?}"),
        }
        assert!(client.end().is_none(), "the link goes on");
    }
}

#[tokio::test]
async fn an_element_that_is_nested_too_deep_ends_the_link() {
    let diver = Diver::default();
    let (client, server) = local::pair(options(0), options(2).serve(diver.clone()));
    let (tx, rx) = channel::<Deep>();
    let call = client.call::<(Rx<Deep>,), (), Never>(&READ, (rx,));
    let send = async {
        let _ = tx.send(vec![vec![]]).await;
        let _ = tx.send(deep()).await;
    };
    let (_answered_or_not, ()) = within(async { tokio::join!(call, send) }).await;
    let why = DecodeError::Nesting { limit: 2 };
    let violation = Violation::InvalidData { channel_id: 1, why };
    assert!(matches!(end_of(&server).await, LinkEnd::Violation(found) if found == violation));
    let told = lock(&diver.told).take();
    assert!(matches!(told, Some(RecvError::Ended(LinkEnd::Violation(found))) if found == violation));
}

/// What is written is not what is read.
struct Fickle;

impl Serialize for Fickle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        2u8.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fickle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        bool::deserialize(deserializer).map(|_| Fickle)
    }
}

#[tokio::test]
async fn an_element_within_the_process_that_cannot_be_read_says_why() {
    let (tx, mut rx) = channel::<Fickle>();
    tx.send(Fickle).await.unwrap();
    let read = rx.recv().await.err();
    assert!(matches!(read, Some(RecvError::InvalidElement(DecodeError::Bool { found: 2 }))), "{read:?}");
}
