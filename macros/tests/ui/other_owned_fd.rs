/// A type that only has the name of a descriptor.
#[derive(serde::Serialize, serde::Deserialize, adjoin::Schema)]
#[postcard(crate = adjoin::postcard_schema)]
pub struct OwnedFd(u64);

#[adjoin::service]
pub trait Store {
    async fn put(&self, it: Option<OwnedFd>);
}

fn main() {}
