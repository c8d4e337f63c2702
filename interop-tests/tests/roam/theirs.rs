//! The service on roam's side: a dispatcher by number, and calls by number.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use facet::Facet;
use roam_session::{
    CallError, CallFuture, ChannelRegistry, ConnectionHandle, Context, Never, Rx, ServiceDispatcher, Tx,
    channel, dispatch_call, dispatch_call_infallible, dispatch_unknown_method,
};
use roam_wire::{Metadata, MetadataValue};

use crate::interface::{MathError, Noted, Shapes, id};

/// Calls a method that has no error of its own.
pub(crate) async fn call<A, T>(handle: &ConnectionHandle, id: u64, arguments: A) -> Result<T, CallError>
where
    A: Facet<'static> + Send + 'static,
    T: Facet<'static> + Send + 'static,
{
    call_fallible::<A, T, Never>(handle, id, arguments).await
}

/// Calls a method that has an error of its own.
pub(crate) async fn call_fallible<A, T, E>(
    handle: &ConnectionHandle,
    id: u64,
    arguments: A,
) -> Result<T, CallError<E>>
where
    A: Facet<'static> + Send + 'static,
    T: Facet<'static> + Send + 'static,
    E: Facet<'static> + Send + 'static,
{
    CallFuture::<_, A, T, E>::new(handle.clone(), id, arguments).await
}

/// Calls a method with metadata.
pub(crate) async fn call_with_metadata<A, T>(
    handle: &ConnectionHandle,
    id: u64,
    arguments: A,
    metadata: Metadata,
) -> Result<T, CallError>
where
    A: Facet<'static> + Send + 'static,
    T: Facet<'static> + Send + 'static,
{
    CallFuture::<_, A, T, Never>::new(handle.clone(), id, arguments).with_metadata(metadata).await
}

#[derive(Clone, Default)]
pub(crate) struct Theirs {
    waiting: Arc<Mutex<Option<Tx<u32>>>>,
    stopped: Arc<AtomicU32>,
}

/// Counts when its handler is stopped.
struct CountStop(Arc<AtomicU32>);

impl Drop for CountStop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

type Handling = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

impl ServiceDispatcher for Theirs {
    fn method_ids(&self) -> Vec<u64> {
        Vec::new() // nobody routes by them here
    }

    fn dispatch(&self, cx: &Context, payload: Vec<u8>, registry: &mut ChannelRegistry) -> Handling {
        match cx.method_id().raw() {
            id::ADD => dispatch_call_infallible(cx, payload, registry, |(a, b): (i32, i32)| async move {
                a.wrapping_add(b)
            }),
            id::DIVIDE => dispatch_call(cx, payload, registry, |(a, b): (i32, i32)| async move {
                match b {
                    0 => Err(MathError::DividedByZero { dividend: a }),
                    _ => a.checked_div(b).ok_or(MathError::Overflow),
                }
            }),
            id::ECHO => {
                dispatch_call_infallible(cx, payload, registry, |(shapes,): (Shapes,)| async move { shapes })
            }
            id::NOTE => {
                let noted = cx.metadata().clone();
                dispatch_call_infallible(cx, payload, registry, |(key,): (String,)| async move {
                    let noted = noted.into_iter().filter(|(name, _)| *name == key);
                    noted.map(|(_, value)| note(value)).collect::<Vec<Noted>>()
                })
            }
            id::LEN => dispatch_call_infallible(cx, payload, registry, |(payload,): (Vec<u8>,)| async move {
                payload.len() as u64
            }),
            id::HANG => {
                let stop = CountStop(Arc::clone(&self.stopped));
                dispatch_call_infallible(cx, payload, registry, |(): ()| async move {
                    let _stop = stop;
                    std::future::pending::<()>().await
                })
            }
            id::STOPPED => {
                let stopped = self.stopped.load(Ordering::SeqCst);
                dispatch_call_infallible(cx, payload, registry, move |(): ()| async move { stopped })
            }
            _ => self.dispatch_stream(cx, payload, registry),
        }
    }
}

impl Theirs {
    /// The methods with streams.
    fn dispatch_stream(&self, cx: &Context, payload: Vec<u8>, registry: &mut ChannelRegistry) -> Handling {
        match cx.method_id().raw() {
            id::SUM => dispatch_call_infallible(cx, payload, registry, |(numbers,): (Rx<u64>,)| sum(numbers)),
            id::COUNT => dispatch_call_infallible(cx, payload, registry, |(upto, out): (u32, Tx<u32>)| {
                send_all(upto, out)
            }),
            id::SHOUT => dispatch_call_infallible(cx, payload, registry, |(words, loud)| shout(words, loud)),
            id::LATER => {
                let waiting = Arc::clone(&self.waiting);
                dispatch_call_infallible(cx, payload, registry, |(): ()| async move {
                    let (mut tx, rx) = channel::<u32>();
                    // What a returned stream's sender sends would go to `rx`, which is dropped once its id was
                    // read: this makes it go to the link.
                    drop(tx.sender.take());
                    *waiting.lock().unwrap() = Some(tx);
                    rx
                })
            }
            id::GO => {
                let out = self.waiting.lock().unwrap().take().unwrap();
                dispatch_call_infallible(cx, payload, registry, |(upto,): (u32,)| send_all(upto, out))
            }
            id::GATHER => {
                dispatch_call_infallible(cx, payload, registry, |(parts,): (Rx<Vec<u8>>,)| gather(parts))
            }
            _ => dispatch_unknown_method(cx, registry),
        }
    }
}

async fn sum(mut numbers: Rx<u64>) -> u64 {
    let mut sum = 0;
    while let Some(number) = numbers.recv().await.unwrap() {
        sum += number;
    }
    sum
}

async fn send_all(upto: u32, out: Tx<u32>) {
    for number in 0..upto {
        if out.send(&number).await.is_err() {
            return; // the link is gone
        }
    }
}

async fn shout(mut words: Rx<String>, loud: Tx<String>) {
    while let Some(word) = words.recv().await.unwrap() {
        loud.send(&word.to_uppercase()).await.unwrap();
    }
}

async fn gather(mut parts: Rx<Vec<u8>>) -> u64 {
    let mut bytes = 0;
    while let Some(part) = parts.recv().await.unwrap() {
        bytes += part.len() as u64;
    }
    bytes
}

fn note(value: MetadataValue) -> Noted {
    match value {
        MetadataValue::String(text) => Noted::String(text),
        MetadataValue::Bytes(bytes) => Noted::Bytes(bytes),
        MetadataValue::U64(number) => Noted::U64(number),
    }
}
