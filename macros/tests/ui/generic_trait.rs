//! A service cannot be generic, and neither can it have a where clause.

#[adjoin::service]
trait Store<K>
where
    K: Ord,
{
    async fn get(&self, key: K) -> u64;
}

fn main() {}
