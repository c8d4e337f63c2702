//! The service on adjoin's side.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use adjoin::{Context, MetadataValue, Rx, Tx, channel};

use crate::interface::{Interop, MathError, Noted, Shapes};

#[derive(Default)]
pub(crate) struct Ours {
    waiting: Mutex<Option<Tx<u32>>>,
    stopped: Arc<AtomicU32>,
}

/// Counts when its handler is stopped.
struct CountStop(Arc<AtomicU32>);

impl Drop for CountStop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

async fn send_all(upto: u32, out: Tx<u32>) {
    for number in 0..upto {
        out.send(number).await.unwrap();
    }
}

impl Interop for Ours {
    async fn add(&self, a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }

    async fn divide(&self, a: i32, b: i32) -> Result<i32, MathError> {
        match b {
            0 => Err(MathError::DividedByZero { dividend: a }),
            _ => a.checked_div(b).ok_or(MathError::Overflow),
        }
    }

    async fn echo(&self, shapes: Shapes) -> Shapes {
        shapes
    }

    async fn sum(&self, mut numbers: Rx<u64>) -> u64 {
        let mut sum = 0;
        while let Some(number) = numbers.recv().await.unwrap() {
            sum += number;
        }
        sum
    }

    async fn count(&self, upto: u32, out: Tx<u32>) {
        send_all(upto, out).await;
    }

    async fn shout(&self, mut words: Rx<String>, loud: Tx<String>) {
        while let Some(word) = words.recv().await.unwrap() {
            loud.send(word.to_uppercase()).await.unwrap();
        }
    }

    async fn later(&self) -> Rx<u32> {
        let (tx, rx) = channel();
        *self.waiting.lock().unwrap() = Some(tx);
        rx
    }

    async fn go(&self, upto: u32) {
        let out = self.waiting.lock().unwrap().take().unwrap();
        send_all(upto, out).await;
    }

    async fn gather(&self, mut parts: Rx<Vec<u8>>) -> u64 {
        let mut bytes = 0;
        while let Some(part) = parts.recv().await.unwrap() {
            bytes += part.len() as u64;
        }
        bytes
    }

    async fn note(&self, key: String) -> Vec<Noted> {
        let context = Context::current().unwrap();
        let values = context.metadata().iter().filter(|(name, _)| *name == key);
        values
            .map(|(_, value)| match value {
                MetadataValue::String(text) => Noted::String(text.clone()),
                MetadataValue::Bytes(bytes) => Noted::Bytes(bytes.clone()),
                MetadataValue::U64(number) => Noted::U64(*number),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    async fn hang(&self) {
        let _stop = CountStop(Arc::clone(&self.stopped));
        std::future::pending().await
    }

    async fn stopped(&self) -> u32 {
        self.stopped.load(Ordering::SeqCst)
    }

    async fn len(&self, payload: Vec<u8>) -> u64 {
        payload.len() as u64
    }
}
