//! The id of the method that describes services cannot be pinned.

#[adjoin::service]
trait Store {
    #[adjoin(id = 0x60b7182c868e6ad3)]
    async fn get(&self, key: String) -> u64;
}

fn main() {}
