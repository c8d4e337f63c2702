//! A pinned id cannot be the computed id of another method.

#[adjoin::service]
trait Store {
    async fn get(&self, key: String) -> u64;
    #[adjoin(id = 0xcc7b6682318ff30c)]
    async fn fetch(&self, key: String) -> u64;
}

fn main() {}
