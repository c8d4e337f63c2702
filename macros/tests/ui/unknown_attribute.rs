//! Unknown keys, keys given twice, and values that do not fit their key.

#[adjoin::service(version = 2)]
trait Store {
    #[adjoin(timeout = 5)]
    async fn get(&self, key: String) -> u64;
    #[adjoin(inline, inline)]
    async fn put(&self, key: String, value: u64);
    #[adjoin(id = 1)]
    #[adjoin(id = 2)]
    async fn remove(&self, key: String);
    #[adjoin(id = "one")]
    async fn clear(&self);
    #[adjoin(id = 0x1_0000_0000_0000_0000)]
    async fn count(&self) -> u64;
    #[adjoin]
    async fn sync(&self);
    #[adjoin(id)]
    async fn pin(&self);
    #[adjoin(inline = true)]
    async fn ping(&self);
    #[adjoin(name = "length")]
    async fn len(&self) -> u64;
    #[adjoin()]
    async fn nothing(&self);
}

#[adjoin::service]
#[adjoin(name = "Stores")]
trait Misplaced {}

#[adjoin::service("Stores")]
trait NoKey {}

#[adjoin::service(name = "")]
trait Nameless {}

#[adjoin::service(name = "A", name = "B")]
trait TwoNames {}

fn main() {}
