//! A method cannot be generic: not in types, not in lifetimes, not by `impl Trait`.

#[adjoin::service]
trait Store {
    async fn put<T: Into<u64>>(&self, value: T);
    async fn get<'a>(&'a self);
    async fn add(&self, value: impl Into<u64>) -> impl Into<u64>;
}

fn main() {}
