//! Spans for calls, and what ties those of several processes together (feature `tracing`).
//!
//! [`Tracing`] is an [interceptor](crate::intercept) for both sides: each call gets a span of the `tracing` crate, on the
//! side that makes it and on the one that serves it, and a `traceparent` in its metadata, in the form of W3C Trace
//! Context. A call that a handler makes continues the trace of the call that it serves, on whichever link.
//!
//! ```
//! # #[cfg(feature = "macros")] mod example {
//! use adjoin::{Caller, Options, intercept::Intercept, local, trace::Tracing};
//!
//! # #[adjoin::service]
//! # trait Clock {
//! #     async fn ticks(&self) -> u64;
//! # }
//! # struct Stopped;
//! # impl Clock for Stopped {
//! #     async fn ticks(&self) -> u64 {
//! #         7
//! #     }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let clock = Intercept::new(ClockDispatcher::new(Stopped)).with(Tracing);
//! let (connection, _server) = local::pair(Options::new(), Options::new().serve(clock));
//! let clock = ClockClient::new(Caller::from(connection).with_interceptor(Tracing));
//! assert_eq!(clock.ticks().await?, 7); // two spans, of one trace
//! # Ok(()) }
//! # }
//! # #[cfg(feature = "macros")] fn main() { example::main().unwrap() }
//! # #[cfg(not(feature = "macros"))] fn main() {}
//! ```
//!
//! The spans are named `adjoin.call`, at level INFO, with the fields `side` (`caller` or `callee`), `service`, `method`,
//! `trace_id`, `span_id`, `parent_span_id` (empty at the beginning of a trace) and, when the call is over, `outcome`.
//! Spans of calls that are cancelled end without an outcome.

use std::fmt;

use tracing::{Instrument, field};

use crate::{
    rpc::{
        context::Context,
        intercept::{InterceptedCall, Intercepting, Interceptor, Next, Side},
    },
    session::metadata::Metadata,
};

/// An interceptor that gives each call a span and a place in its trace. See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracing;

/// The key of a call's place in its trace.
const PARENT: &str = "traceparent";
/// The key of what tracing systems add to that, which is passed on as it is.
const STATE: &str = "tracestate";

impl Interceptor for Tracing {
    fn intercept<'a>(&'a self, call: &'a mut InterceptedCall, next: Next<'a>) -> Intercepting<'a> {
        let (parent, side) = match call.side() {
            Side::Callee => (TraceParent::of(call.metadata()), "callee"),
            Side::Caller => (continued(call.metadata_mut()), "caller"),
        };
        let Some(own) = TraceParent::next(parent) else { return Box::pin(next.run(call)) };
        call.metadata_mut().set(PARENT, own.to_string());
        let span = tracing::info_span!(
            "adjoin.call",
            side,
            service = call.service_name(),
            method = call.method_name(),
            trace_id = %format_args!("{:032x}", own.trace_id),
            span_id = %format_args!("{:016x}", own.span_id),
            parent_span_id = parent.map(|parent| field::display(format!("{:016x}", parent.span_id))),
            outcome = field::Empty,
        );
        Box::pin(async move {
            let outcome = next.run(call).instrument(span.clone()).await;
            span.record("outcome", field::display(&outcome));
            outcome
        })
    }
}

/// The place of a call that is about to be made: what its metadata says, or else that of the request whose handler makes
/// it.
fn continued(metadata: &mut Metadata) -> Option<TraceParent> {
    if let Some(parent) = TraceParent::of(metadata) {
        return Some(parent);
    }
    let context = Context::current()?;
    let parent = TraceParent::of(context.metadata())?;
    if let Some(state) = context.metadata().get(STATE) {
        metadata.set(STATE, state.clone());
    }
    Some(parent)
}

/// A span's place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TraceParent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

/// Whoever began the trace records it.
const SAMPLED: u8 = 1;

impl TraceParent {
    fn of(metadata: &Metadata) -> Option<Self> {
        TraceParent::parse(metadata.get(PARENT)?.as_str()?)
    }

    /// A span below `parent`, or of a trace that begins. `None`: the system has no random numbers.
    fn next(parent: Option<TraceParent>) -> Option<Self> {
        let mut random = [0; 24];
        getrandom::fill(&mut random).ok()?;
        let (trace_id, span_id) = random.split_first_chunk()?;
        let span_id = u64::from_ne_bytes(*span_id.first_chunk()?).max(1); // zero means that there is none
        let begun =
            || TraceParent { trace_id: u128::from_ne_bytes(*trace_id).max(1), span_id, flags: SAMPLED };
        Some(parent.map_or_else(begun, |parent| TraceParent { span_id, ..parent }))
    }

    /// Reads `version-trace-span-flags`; a version above 0 may have more behind that.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let span_id = hex(parts.next()?, 16)? as u64;
        let flags = hex(parts.next()?, 2)? as u8;
        let is_valid = version != 0xff && trace_id != 0 && span_id != 0;
        (is_valid && (version > 0 || parts.next().is_none())).then_some(TraceParent {
            trace_id,
            span_id,
            flags,
        })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TraceParent { trace_id, span_id, flags } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    }
}

/// A number of so many lower-case digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == digits && text.bytes().all(is_hex)).then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = TraceParent::parse(text).unwrap();
        assert_eq!(parent.to_string(), text);
        let next = TraceParent::next(Some(parent)).unwrap();
        assert_eq!((next.trace_id, next.flags), (parent.trace_id, parent.flags));
        assert_ne!(next.span_id, parent.span_id);
        assert_eq!(TraceParent::parse(&next.to_string()), Some(next));
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes";
        assert_eq!(TraceParent::parse(later), Some(parent));
    }

    #[test]
    fn what_is_no_place_begins_a_trace() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
    }
}
