//! A `Result` with one type argument hides the error type.

#[adjoin::service]
trait Store {
    async fn get(&self, key: String) -> std::io::Result<u64>;
    async fn show(&self) -> std::fmt::Result;
}

fn main() {}
