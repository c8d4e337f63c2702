//! Memory of long byte vectors that is used again.
//!
//! A vector belongs to the application, which frees it: an allocator may give so much back to the system, and get it anew
//! with a page fault for each 4 KiB. A [`Bytes`](crate::Bytes) comes back here when its last handle is dropped, and the next
//! payload is copied into memory that is there, and still in a cache.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

/// The memory of one link.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Vec<Vec<u8>>>);

/// Bytes of a vector that is worth it.
const LEAST: usize = 16 << 10;

/// Bytes that are kept.
const MOST: usize = 2 << 20;

/// Of the memory that is used for a vector, what it needs at least: a half.
const SHARE: usize = 2;

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        // Nothing under the lock can fail halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty vector with room for `len` bytes: what was put here last, if it fits. A short lock.
    pub(crate) fn take(&self, len: usize) -> Vec<u8> {
        if len >= LEAST {
            let mut spare = self.lock();
            let fits = |bytes: &Vec<u8>| (len..=len.saturating_mul(SHARE)).contains(&bytes.capacity());
            if let Some(place) = spare.iter().rposition(fits) {
                return spare.remove(place);
            }
        }
        Vec::with_capacity(len)
    }

    /// Keeps the memory of a vector, in place of what has been here longest.
    fn put(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        let mut spare = self.lock();
        let mut kept = bytes.capacity() + spare.iter().map(Vec::capacity).sum::<usize>();
        let given_up = spare.iter().take_while(|oldest| {
            let gives = kept > MOST;
            kept -= if gives { oldest.capacity() } else { 0 };
            gives
        });
        let given_up = given_up.count();
        let given_up: Vec<_> = spare.drain(..given_up).collect();
        if bytes.capacity() <= MOST {
            spare.push(bytes);
        }
        drop(spare);
        drop(given_up); // outside of the lock
    }
}

/// A byte vector for the application.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    pub(crate) bytes: Vec<u8>,
    /// Where its memory may come back to.
    pub(crate) pool: Option<Arc<Pool>>,
}

impl Owned {
    /// As a handle whose memory comes back, if it is long. One small allocation more than a vector then.
    pub(crate) fn into_shared(self) -> Bytes {
        match self.pool {
            Some(pool) if self.bytes.len() >= LEAST => Bytes::from_owner(Pooled { bytes: self.bytes, pool }),
            _ => self.bytes.into(),
        }
    }
}

/// What a handle is one on.
struct Pooled {
    bytes: Vec<u8>,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.pool.put(mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(pool: &Arc<Pool>, len: usize) -> (Bytes, *const u8) {
        let mut bytes = pool.take(len);
        bytes.resize(len, 7);
        let place = bytes.as_ptr();
        (Owned { bytes, pool: Some(Arc::clone(pool)) }.into_shared(), place)
    }

    #[test]
    fn memory_is_used_again_once_the_last_handle_is_gone() {
        let pool = Arc::default();
        let (first, place) = used(&pool, 70_000);
        let part = first.slice(5..10);
        drop(first);
        let other = pool.take(70_000);
        assert_ne!(other.as_ptr(), place, "somebody has a handle");
        drop(part);
        for (len, fits) in [(20_000, false), (70_001, false), (36_000, true)] {
            let (again, found) = used(&pool, len);
            assert_eq!(found == place, fits, "{len}");
            if fits {
                assert_eq!(again, vec![7; len]);
            } else {
                mem::forget(again);
            }
        }
    }

    #[test]
    fn no_more_is_kept_than_may_be_and_nothing_short() {
        let pool: Arc<Pool> = Arc::default();
        let many: Vec<_> = (0..100).map(|_| used(&pool, 100_000).0).collect();
        drop(many);
        let kept: usize = pool.lock().iter().map(Vec::capacity).sum();
        assert!((MOST - 100_000..=MOST).contains(&kept), "{kept}");
        drop(used(&pool, MOST + 1));
        assert!(pool.lock().iter().all(|bytes| bytes.capacity() <= MOST));
        let before = pool.lock().len();
        drop(used(&pool, 1000));
        assert_eq!(pool.lock().len(), before);
    }
}
