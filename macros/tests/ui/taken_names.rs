//! Names that the client needs for itself, two methods with one constant, and two with one name.

#[adjoin::service]
trait Store {
    async fn new(&self);
    async fn caller(&self);
    async fn service(&self);
    async fn get_key(&self);
    async fn getKey(&self);
    async fn get_key(&self);
}

fn main() {}
