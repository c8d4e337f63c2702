//! Two methods of one service cannot be pinned to one id.

#[adjoin::service]
trait Store {
    #[adjoin(id = 1)]
    async fn get(&self, key: String) -> u64;
    async fn put(&self, key: String, value: u64);
    #[adjoin(id = 1)]
    async fn remove(&self, key: String);
}

fn main() {}
