//! A gibibyte through a tunnel over every link: exact, and memory stays flat. Alone in its process, which counts.
#![allow(missing_docs)]

mod common;

use adjoin::{
    Options,
    tunnel::{self, Tunnel},
};
use common::{
    links::{Kind, link},
    noise::{Check, Noise},
    suite::resident_kib,
    watchdog::Watchdog,
};
use tokio::io::AsyncWriteExt;

#[adjoin::service]
trait Pipes {
    /// Checks what comes against a `Noise`: how many bytes that were.
    async fn check(&self, tunnel: Tunnel) -> Result<u64, String>;
    /// Writes a `Noise` of so many bytes.
    async fn emit(&self, len: u64, tunnel: Tunnel) -> Result<u64, String>;
    async fn resident_kib(&self) -> u64;
}

struct Plain;

impl Pipes for Plain {
    async fn check(&self, mut tunnel: Tunnel) -> Result<u64, String> {
        let mut check = Check(Noise::endless());
        tokio::io::copy(&mut tunnel, &mut check).await.map_err(|error| error.to_string())
    }

    async fn emit(&self, len: u64, mut tunnel: Tunnel) -> Result<u64, String> {
        tokio::io::copy(&mut Noise::of(len), &mut tunnel).await.map_err(|error| error.to_string())
    }

    async fn resident_kib(&self) -> u64 {
        resident_kib()
    }
}

fn serving() -> Options {
    Options::new().serve(PipesDispatcher::new(Plain))
}

#[cfg(target_os = "linux")]
#[test]
fn cell_entry() {
    common::links::serve_if_cell_with(serving);
}

/// Carries so many bytes to the far end.
async fn forth(far: &PipesClient, len: u64) {
    let (mut near, other) = tunnel::pair();
    let write = async {
        let copied = tokio::io::copy(&mut Noise::of(len), &mut near).await;
        near.shutdown().await.unwrap();
        copied
    };
    let (checked, written) = tokio::join!(far.check(other), write);
    assert_eq!((checked.unwrap(), written.unwrap()), (len, len));
}

/// Carries so many bytes from the far end.
async fn back(far: &PipesClient, len: u64) {
    let (mut near, other) = tunnel::pair();
    let mut check = Check(Noise::endless());
    let (emitted, read) = tokio::join!(far.emit(len, other), tokio::io::copy(&mut near, &mut check));
    assert_eq!((emitted.unwrap(), read.unwrap()), (len, len));
}

/// What the memory may grow by, on either side.
const ROOM_KIB: u64 = 8 << 10;

fn a_gibibyte_is_exact_and_leaves_memory_flat(kind: Kind) {
    let _hang = Watchdog::seconds(300);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (connection, _far) = link(kind, Options::new(), serving()).await;
        let far = PipesClient::new(&connection);
        forth(&far, 64 << 20).await;
        back(&far, 64 << 20).await;
        let before = (resident_kib(), far.resident_kib().await.unwrap());
        forth(&far, 1 << 30).await;
        back(&far, 256 << 20).await;
        let after = (resident_kib(), far.resident_kib().await.unwrap());
        for (before, after) in [(before.0, after.0), (before.1, after.1)] {
            assert!(after < before + ROOM_KIB, "memory grew from {before} KiB to {after} KiB");
        }
        println!("{kind:?}: {before:?} KiB before, {after:?} KiB after");
    });
}

// One behind the other: they count the same memory.
#[test]
fn a_gibibyte_is_exact_and_leaves_memory_flat_on_every_link() {
    Kind::all().into_iter().for_each(a_gibibyte_is_exact_and_leaves_memory_flat);
}
