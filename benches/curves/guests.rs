//! Cells that call their host, all at once.

use std::{
    env,
    process::Command,
    time::{Duration, Instant},
};

use adjoin::{Context, Options, Settings};
use tokio::runtime::Runtime;

use crate::draw::Curve;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the host serves.
#[adjoin::service]
trait Host {
    #[adjoin(inline)]
    async fn echo(&self, data: Vec<u8>) -> Vec<u8>;
}

/// What each guest serves.
#[adjoin::service]
trait Guest {
    /// Calls the host for so many microseconds; how often.
    async fn call(&self, micros: u64) -> Result<u64, String>;
}

struct Echo;

impl Host for Echo {
    async fn echo(&self, data: Vec<u8>) -> Vec<u8> {
        data
    }
}

struct Caller;

impl Guest for Caller {
    async fn call(&self, micros: u64) -> Result<u64, String> {
        let context = Context::current().ok_or("a handler has a context")?;
        let host = HostClient::new(context.connection());
        let (began, mut data, mut calls) = (Instant::now(), vec![7; 32], 0);
        while began.elapsed() < Duration::from_micros(micros) {
            data = host.echo(data).await.map_err(|error| error.to_string())?;
            calls += 1;
        }
        Ok(calls)
    }
}

fn runtime() -> Result<Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// This process is a guest.
pub(crate) fn be_one() -> Result<(), Failure> {
    runtime()?.block_on(async {
        let host = adjoin::cell(Options::new().serve(GuestDispatcher::new(Caller))).await?;
        host.closed().await;
        Ok(())
    })
}

/// Calls in a second of so many guests together.
pub(crate) fn measure(counts: &[u32], secs: f64) -> Result<Curve, Failure> {
    let most = counts.iter().copied().max().unwrap_or(0);
    runtime()?.block_on(async {
        let mut cells = Vec::new();
        for _ in 0..most {
            let mut command = Command::new(env::current_exe()?);
            command.arg("--guest");
            let settings = Settings::default().handshake_timeout(Duration::from_secs(30));
            let options = Options::new().settings(settings).serve(HostDispatcher::new(Echo));
            cells.push(adjoin::spawn(command, options).await?);
        }
        let mut points = Vec::new();
        for &count in counts {
            let began = Instant::now();
            let calling: Vec<_> = cells
                .iter()
                .take(count as usize)
                .map(|cell| {
                    let guest = GuestClient::new(cell.connection());
                    tokio::spawn(async move { guest.call((secs * 1e6) as u64).await })
                })
                .collect();
            let mut calls = 0;
            for guest in calling {
                calls += guest.await??;
            }
            points.push((count.into(), calls as f64 / began.elapsed().as_secs_f64()));
        }
        for cell in cells {
            cell.stop(Duration::from_secs(5)).await?;
        }
        Ok(Curve { name: "shm".into(), points })
    })
}
