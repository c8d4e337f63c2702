//! What stands around calls: who may call, how many at once, how long they take, and the trace that they belong to.
//!
//! ```text
//! cargo run --release --example interceptors
//! ```
//!
//! A vault is served with three interceptors, and called by somebody with a token and by somebody without one.

use std::{
    error::Error,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use adjoin::{
    CallError, Caller, Options,
    intercept::{Intercept, InterceptedCall, Intercepting, Interceptor, Next, Outcome},
    local,
    trace::Tracing,
};
use tokio::sync::Semaphore;

#[adjoin::service]
trait Vault {
    /// Opens a box, which takes its time.
    async fn open(&self, number: u32) -> String;
}

#[derive(Default)]
struct Guarded {
    inside: AtomicU32,
}

impl Vault for Guarded {
    async fn open(&self, number: u32) -> String {
        let inside = self.inside.fetch_add(1, Relaxed) + 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.inside.fetch_sub(1, Relaxed);
        format!("box {number}, with {inside} inside")
    }
}

/// Lets so many calls run at once; the others wait.
struct Limit(Semaphore);

impl Interceptor for Limit {
    fn intercept<'a>(&'a self, call: &'a mut InterceptedCall, next: Next<'a>) -> Intercepting<'a> {
        Box::pin(async move {
            let _permit = self.0.acquire().await; // given back also when the call is cancelled
            next.run(call).await
        })
    }
}

/// Lets those in who have a token.
struct Authorize;

impl Interceptor for Authorize {
    fn intercept<'a>(&'a self, call: &'a mut InterceptedCall, next: Next<'a>) -> Intercepting<'a> {
        Box::pin(async move {
            match call.metadata().get("token").and_then(|token| token.as_str()) {
                Some("open sesame") => next.run(call).await,
                _ => Outcome::rejected(format!("`{}` needs a token", call.method_name())),
            }
        })
    }
}

/// Says what was called, how it went and how long it took.
struct Log;

impl Interceptor for Log {
    fn intercept<'a>(&'a self, call: &'a mut InterceptedCall, next: Next<'a>) -> Intercepting<'a> {
        Box::pin(async move {
            let outcome = next.run(call).await;
            let (service, method, took) = (call.service_name(), call.method_name(), call.elapsed());
            println!("  {service}.{method}: {outcome}, after {} ms", took.as_millis());
            outcome
        })
    }
}

/// Sends the token along.
struct SignIn;

impl Interceptor for SignIn {
    fn intercept<'a>(&'a self, call: &'a mut InterceptedCall, next: Next<'a>) -> Intercepting<'a> {
        call.metadata_mut().push("token", "open sesame");
        Box::pin(next.run(call))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // Each call's spans, of both sides, when they close.
    tracing_subscriber::fmt()
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .with_max_level(tracing::Level::INFO)
        .init();
    let vault = VaultDispatcher::new(Guarded::default());
    let vault = Intercept::new(vault).with(Tracing).with(Log).with(Authorize).with(Limit(Semaphore::new(2)));
    let (connection, _server) = local::pair(Options::new(), Options::new().serve(vault));

    println!("without a token:");
    match VaultClient::new(&connection).open(1).await {
        Err(CallError::Rejected { reason }) => println!("rejected: {reason}"),
        other => return Err(format!("{other:?} is not what was expected").into()),
    }

    println!("with a token, six at once, of which two may run:");
    let caller = Caller::from(&connection).with_interceptor(Tracing).with_interceptor(SignIn);
    let vault = VaultClient::new(caller);
    let calls: Vec<_> = (1..=6).map(|number| tokio::spawn(vault.open(number))).collect();
    for call in calls {
        println!("{}", call.await??);
    }
    Ok(())
}
