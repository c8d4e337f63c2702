//! A service has methods alone, and no default bodies.

#[adjoin::service]
unsafe trait Store {
    type Key;
    const LIMIT: u64;
    async fn get(&self) -> u64 {
        0
    }
    async unsafe fn put(&self, value: u64);
    async fn swap(&self, (a, b): (u64, u64), _: u64, mut c: u64);
    async fn other(&self, other: Self) -> Self::Key;
}

#[adjoin::service]
struct NotATrait;

fn main() {}
