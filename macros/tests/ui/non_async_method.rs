//! A method is an `async fn`.

#[adjoin::service]
trait Store {
    fn get(&self, key: String) -> u64;
}

fn main() {}
