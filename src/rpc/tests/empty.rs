//! Elements of zero bytes, from one end of a stream to the other.

use std::sync::Arc;

use super::within;
use crate::{
    open::local,
    rpc::{
        dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
        errors::Never,
        method::{Method, Service, method, service},
        method_id::MethodId,
        options::Options,
        rx::Rx,
        tx::channel,
    },
};

const COUNT: Method = method("Counter", "count", MethodId::new(1), false, false);

/// Counts the elements of a stream when it is told that all of them were sent.
struct Counter(Arc<tokio::sync::Notify>);

impl ServiceDispatcher for Counter {
    fn service(&self) -> &'static Service {
        static COUNTER: Service = service("Counter", &[COUNT]);
        &COUNTER
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        let all_sent = Arc::clone(&self.0);
        request.serve(&COUNT, |(mut units,): (Rx<()>,)| async move {
            all_sent.notified().await;
            let mut count = 0u64;
            while let Ok(Some(())) = units.recv().await {
                count += 1;
            }
            count
        })
    }
}

/// Some were queued before their stream was remote, and read in part; the others went straight to the link. All
/// waited at the other end.
#[tokio::test]
async fn units_that_were_sent_before_and_after_a_call_all_arrive() {
    let all_sent = Arc::new(tokio::sync::Notify::new());
    let (client, _server) = local::pair(Options::new(), Options::new().serve(Counter(Arc::clone(&all_sent))));
    let (tx, mut rx) = channel::<()>();
    for _ in 0..1000 {
        tx.send(()).await.unwrap();
    }
    rx.recv().await.unwrap();
    tx.send(()).await.unwrap();
    let send_more = async {
        for _ in 0..10_000 {
            tx.send(()).await.unwrap();
        }
        drop(tx);
        all_sent.notify_one();
    };
    let call = client.call::<(Rx<()>,), u64, Never>(&COUNT, (rx,));
    let (count, ()) = within(async { tokio::join!(call, send_more) }).await;
    assert_eq!(count.unwrap(), 999 + 1 + 10_000);
}
