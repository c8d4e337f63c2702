//! Arguments and results are owned, at any depth.

#[adjoin::service]
trait Store {
    async fn get(&self, key: &str) -> u64;
    async fn put(&self, blob: &[u8], tags: Vec<(&[String], Option<&'static u64>)>);
    async fn find(&self, text: std::borrow::Cow<'_, str>) -> Result<&str, String>;
}

fn main() {}
