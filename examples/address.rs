//! One service, reached over whatever an address says: shared memory, a Unix socket, TCP.
//!
//! ```text
//! cargo run --release --example address                            # both sides, over each kind
//! cargo run --release --example address -- serve shm:/tmp/a.sock   # and in another terminal:
//! cargo run --release --example address -- call shm:/tmp/a.sock
//! ```

use std::{env, error::Error, process::Command, time::Instant};

use adjoin::{Address, Options, address};

#[adjoin::service]
trait Shouts {
    async fn shout(&self, text: String) -> String;
}

struct Shouter;

impl Shouts for Shouter {
    async fn shout(&self, text: String) -> String {
        text.to_uppercase()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address] => serve(&address.parse()?).await,
        ["call", address] => call(&address.parse()?).await,
        [] => all().await,
        _ => Err("serve ADDRESS, call ADDRESS, or nothing".into()),
    }
}

/// Serves everybody who comes, until the process is ended.
async fn serve(at: &Address) -> Result<(), Box<dyn Error>> {
    let listener = address::listen(at).await?;
    println!("serving at {}", listener.address());
    listener.serve(Options::new().serve(ShoutsDispatcher::new(Shouter))).await;
    Ok(())
}

async fn call(at: &Address) -> Result<(), Box<dyn Error>> {
    const CALLS: u32 = 1000;
    let shouter = ShoutsClient::new(&address::connect(at, Options::new()).await?);
    let began = Instant::now();
    for _ in 0..CALLS {
        shouter.shout("hello".into()).await?;
    }
    println!("{at}: {} in {:?} a call", shouter.shout("hello".into()).await?, began.elapsed() / CALLS);
    Ok(())
}

/// Serves at an address of each kind, and has another process call.
async fn all() -> Result<(), Box<dyn Error>> {
    let name = format!("adjoin-example-{}", std::process::id());
    for text in [format!("shm:@{name}"), format!("uds:@{name}-uds"), "tcp:127.0.0.1:0".to_owned()] {
        let listener = address::listen(&text.parse()?).await?;
        let mut caller = Command::new(env::current_exe()?);
        caller.args(["call", &listener.address().to_string()]);
        let serving = tokio::spawn(listener.serve(Options::new().serve(ShoutsDispatcher::new(Shouter))));
        let called = tokio::task::spawn_blocking(move || caller.status()).await??;
        if !called.success() {
            return Err(format!("the caller failed: {called}").into());
        }
        serving.abort();
    }
    Ok(())
}
