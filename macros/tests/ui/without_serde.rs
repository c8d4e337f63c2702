//! A type must be written and read, also where the id is pinned.

#[derive(adjoin::Schema)]
#[postcard(crate = adjoin::postcard_schema)]
struct Silent(u64);

#[derive(serde::Serialize)]
struct WriteOnly(u64);

#[adjoin::service]
trait Store {
    async fn put(&self, value: Silent);
    #[adjoin(id = 1)]
    async fn get(&self) -> Option<WriteOnly>;
    #[adjoin(id = 2)]
    async fn try_get(&self) -> Result<u64, WriteOnly>;
}

fn main() {}
