//! A method takes `&self`, and nothing else in its place.

#[adjoin::service]
trait Store {
    async fn nothing();
    async fn unique(&mut self);
    async fn consumed(self);
    async fn shared(self: &Self);
}

fn main() {}
