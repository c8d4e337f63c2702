//! Names that the client needs for itself, and two methods with one constant.

#[adjoin::service]
trait Store {
    async fn new(&self);
    async fn connection(&self);
    async fn service(&self);
    async fn get_key(&self);
    async fn getKey(&self);
}

fn main() {}
