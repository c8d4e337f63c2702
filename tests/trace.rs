//! Spans of calls, and the trace that they belong to, over several links.
#![allow(missing_docs)]
#![cfg(feature = "tracing")]

mod common;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use adjoin::{Caller, Context, Metadata, Options, intercept::Intercept, trace::Tracing};
use common::{
    links::{Kind, link},
    watchdog::Watchdog,
};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    Layer,
    layer::{Context as LayerContext, SubscriberExt},
    registry::LookupSpan,
};

#[adjoin::service]
trait Relay {
    /// Calls on, so many times.
    async fn hop(&self, more: u32) -> Result<u32, String>;
}

/// Has the next one to call.
struct Hop(Mutex<Option<RelayClient>>);

impl Relay for Hop {
    async fn hop(&self, more: u32) -> Result<u32, String> {
        tracing::info!("in a handler");
        let next = self.0.lock().unwrap().clone();
        match next {
            Some(next) if more > 0 => {
                next.hop(more - 1).await.map(|hops| hops + 1).map_err(|error| error.to_string())
            }
            _ if more > 0 => Err("the end".to_owned()),
            _ => Ok(0),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

/// All spans that were opened, with what was recorded in them, and the events in each.
#[derive(Clone, Default)]
struct Seen {
    spans: Arc<Mutex<BTreeMap<u64, Fields>>>,
    events: Arc<Mutex<Vec<Option<u64>>>>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Seen {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, _: LayerContext<'_, S>) {
        if attributes.metadata().name() == "adjoin.call" {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            self.spans.lock().unwrap().insert(id.into_u64(), fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, _: LayerContext<'_, S>) {
        if let Some(fields) = self.spans.lock().unwrap().get_mut(&id.into_u64()) {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: LayerContext<'_, S>) {
        if event.metadata().target() == "trace" {
            self.events.lock().unwrap().push(context.event_span(event).map(|span| span.id().into_u64()));
        }
    }
}

#[test]
fn the_spans_of_calls_that_call_on_are_one_trace_over_all_links() {
    let _hang = Watchdog::seconds(60);
    let seen = Seen::default();
    // Before anything is logged in this process, of which this is the one test.
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(seen.clone())).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut next = None;
        let mut far = Vec::new();
        for kind in [Kind::Tcp, Kind::Uds, Kind::Local] {
            let service = Intercept::new(RelayDispatcher::new(Hop(Mutex::new(next)))).with(Tracing);
            let (connection, end) = link(kind, Options::new(), Options::new().serve(service)).await;
            next = Some(RelayClient::new(Caller::from(connection).with_interceptor(Tracing)));
            far.push(end);
        }
        let first = next.unwrap();
        assert_eq!(first.hop(2).await.unwrap(), 2);
        assert!(Context::current().is_none());
        // The outcome is recorded behind the answer.
        let spans = loop {
            let spans: Vec<_> = seen.spans.lock().unwrap().values().cloned().collect();
            if spans.iter().filter(|span| span.0.contains_key("outcome")).count() == 6 {
                break spans;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(spans.len(), 6, "{spans:?}");
        let field = |span: &Fields, name: &str| span.0.get(name).cloned();
        let mut parent = None;
        for hop in 0..6 {
            let below = spans.iter().filter(|span| field(span, "parent_span_id") == parent);
            let [span] = below.collect::<Vec<_>>()[..] else { panic!("{spans:?}") };
            assert_eq!(field(span, "side").unwrap(), ["caller", "callee"][hop % 2]);
            assert_eq!(field(span, "service").unwrap() + "." + &field(span, "method").unwrap(), "Relay.hop");
            assert_eq!(field(span, "outcome").unwrap(), "done");
            assert_eq!(field(span, "trace_id"), field(&spans[0], "trace_id"));
            parent = field(span, "span_id");
            assert!(parent.is_some());
        }
        // What a handler logs is in the span of its call.
        let events = seen.events.lock().unwrap().clone();
        let callees: Vec<_> = seen
            .spans
            .lock()
            .unwrap()
            .iter()
            .filter(|(_, span)| field(span, "side").unwrap() == "callee")
            .map(|(id, _)| Some(*id))
            .collect();
        assert_eq!(events.len(), 3);
        assert!(events.iter().all(|event| callees.contains(event)), "{events:?} {callees:?}");

        // A trace that came from elsewhere is continued, and another call is another trace.
        seen.spans.lock().unwrap().clear();
        let mut metadata = Metadata::new();
        metadata.push("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert_eq!(first.hop(0).with_metadata(metadata).await.unwrap(), 0);
        assert_eq!(first.hop(0).await.unwrap(), 0);
        let spans: Vec<_> = seen.spans.lock().unwrap().values().cloned().collect();
        let of_trace = |id: &str| spans.iter().filter(|span| field(span, "trace_id").unwrap() == id).count();
        assert_eq!((of_trace("4bf92f3577b34da6a3ce929d0e0e4736"), spans.len()), (2, 4));
    });
}
