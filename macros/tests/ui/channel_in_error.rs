//! An error type cannot hold a `Tx` or an `Rx`.

#[adjoin::service]
trait Store {
    async fn get(&self) -> Result<adjoin::Rx<u64>, String>;
    async fn put(&self) -> Result<(), Option<adjoin::Rx<u64>>>;
}

fn main() {}
