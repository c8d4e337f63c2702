//! Requests that their dispatcher drops.

use std::sync::{Arc, Mutex};

use super::{NOP, within};
use crate::{
    open::local,
    rpc::{
        dispatch::{Dispatch, IncomingRequest, ServiceDispatcher},
        errors::{CallError, Never},
        method::{Service, service},
        options::Options,
        waiters::lock,
    },
};

/// Drops each request, and looks then how many run.
#[derive(Clone, Default)]
struct Drops(Arc<Mutex<Vec<usize>>>);

impl ServiceDispatcher for Drops {
    fn service(&self) -> &'static Service {
        static DROPS: Service = service("Raw", &[NOP]);
        &DROPS
    }

    fn dispatch(&self, request: IncomingRequest<'_>) -> Dispatch {
        let connection = request.connection().clone();
        let running = || {
            let mut session = lock(&connection.hub().session);
            session.connection(connection.key()).map_or(0, |open| open.serving.running())
        };
        let before = running();
        drop(request);
        self.0.lock().unwrap().extend([before, running()]);
        Dispatch(())
    }
}

/// Fails where it is answered when the dispatcher has returned: it may wait for what the caller does then.
#[tokio::test]
async fn a_request_that_is_dropped_is_answered_at_once() {
    let drops = Drops::default();
    let (client, _server) = local::pair(Options::new(), Options::new().serve(drops.clone()));
    let answer = within(client.call::<(), (), Never>(&NOP, ()).into_future()).await;
    assert!(matches!(answer, Err(CallError::Cancelled)), "{answer:?}");
    assert_eq!(*drops.0.lock().unwrap(), [1, 0]);
}
