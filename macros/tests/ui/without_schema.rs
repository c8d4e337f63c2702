//! A type needs a `Schema`, unless the id is pinned.

#[derive(serde::Serialize, serde::Deserialize)]
struct Opaque(u64);

#[adjoin::service]
trait Store {
    #[adjoin(id = 1)]
    async fn pinned(&self, value: Opaque) -> Result<Opaque, Opaque>;
    async fn put(&self, value: Opaque);
    async fn get(&self) -> Opaque;
    async fn try_get(&self) -> Result<u64, Vec<Opaque>>;
}

fn main() {}
