//! The service that the suite of behaviours calls, with something of every shape.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use adjoin::{Bytes, CallError, Context, Rx, Schema, Tx, introspection::ServiceDescription};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema, thiserror::Error)]
#[postcard(crate = adjoin::postcard_schema)]
pub enum MathError {
    #[error("{dividend} divided by zero")]
    DividedByZero { dividend: i32 },
}

/// Handles at every depth and in every kind of container.
#[derive(Serialize, Deserialize, Schema)]
#[postcard(crate = adjoin::postcard_schema)]
pub struct Nested {
    pub name: String,
    pub one: Rx<u64>,
    pub maybe: Option<Rx<u64>>,
    pub none: Option<Rx<u64>>,
    pub many: Vec<Rx<u64>>,
    pub by_name: BTreeMap<String, Rx<u64>>,
    pub either: Either,
    pub pair: (Rx<u64>, Tx<u64>),
}

#[derive(Serialize, Deserialize, Schema)]
#[postcard(crate = adjoin::postcard_schema)]
pub enum Either {
    In(Rx<u64>),
    Out { to: Tx<u64> },
    Neither,
}

/// What a method returns with a handle deep inside.
#[derive(Serialize, Deserialize, Schema)]
#[postcard(crate = adjoin::postcard_schema)]
pub struct Reply {
    pub count: u32,
    pub streams: Vec<Rx<u32>>,
}

#[adjoin::service]
pub trait Suite {
    async fn echo(&self, data: Vec<u8>) -> Vec<u8>;
    #[adjoin(inline)]
    async fn add(&self, a: i32, b: i32) -> i32;
    async fn nothing(&self);
    async fn divide(&self, a: i32, b: i32) -> Result<i32, MathError>;
    async fn sum(&self, numbers: Rx<u64>) -> u64;
    async fn count(&self, upto: u32) -> Rx<u32>;
    async fn counts(&self, upto: Vec<u32>) -> Reply;
    async fn feed_me(&self) -> Tx<u64>;
    async fn fed(&self) -> u64;
    async fn pipe(&self, input: Rx<u64>, output: Tx<u64>);
    async fn nested(&self, handles: Nested) -> u64;
    async fn swallow(&self, data: Rx<Vec<u8>>) -> u64;
    async fn pour(&self, element: u32, times: u32) -> Rx<Vec<u8>>;
    async fn ignore(&self, data: Rx<Vec<u8>>);
    async fn hang(&self);
    async fn hang_with(&self, data: Rx<Vec<u8>>);
    async fn hangs_stopped(&self) -> u32;
    async fn call_back(&self, a: i32, b: i32) -> i32;
    async fn panics(&self);
    #[adjoin(inline)]
    async fn panics_inline(&self);
    async fn metadata(&self, key: String) -> Option<String>;
    async fn wait(&self, millis: u64) -> u64;
    async fn resident_kib(&self) -> u64;
    async fn answer_of(&self, len: u32) -> Vec<u8>;
    async fn echo_text(&self, text: String) -> String;
    async fn echo_shared(&self, bytes: Bytes) -> Bytes;
    /// Fails with flags of which the first is not set.
    async fn echo_flags(&self, flags: Vec<bool>) -> Result<Vec<bool>, Vec<bool>>;
    async fn echo_texts(&self, input: Rx<String>, output: Tx<String>);
    /// The methods that the caller offers; `None` if it does not say.
    async fn offered_back(&self) -> Option<Vec<String>>;
}

/// What the other side offers, to be called back.
#[adjoin::service]
pub trait Back {
    async fn add(&self, a: i32, b: i32) -> i32;
}

/// The same method with another signature, and one that nobody has.
#[adjoin::service(name = "Suite")]
pub trait Stranger {
    #[adjoin(id = 0x5eed)]
    async fn unheard_of(&self) -> u32;
}

/// The suite's service as a caller has it whose program is older.
#[adjoin::service(name = "Suite")]
pub trait OldSuite {
    async fn add(&self, a: i32, b: u64) -> i32;
    async fn divide(&self, a: i32, b: i32) -> Result<i32, OldMathError>;
    async fn nested(&self, handles: OldNested) -> u64;
    async fn sum(&self, numbers: Tx<u64>) -> u64;
    async fn panic(&self);
    #[adjoin(id = 0x5eee)]
    async fn nothing(&self);
}

#[derive(Clone, Debug, Serialize, Deserialize, Schema)]
#[postcard(crate = adjoin::postcard_schema)]
pub enum OldMathError {
    DividedByZero { dividend: i32 },
    Overflow,
}

#[derive(Serialize, Deserialize, Schema)]
#[postcard(crate = adjoin::postcard_schema)]
pub struct OldNested {
    pub name: String,
    pub one: Rx<u64>,
    pub maybe: Option<Rx<u64>>,
    pub none: Option<Rx<u64>>,
    pub many: Vec<Rx<u32>>,
    pub by_name: BTreeMap<String, Rx<u64>>,
    pub pair: (Rx<u64>, Tx<u64>),
}

/// Calls `add` of `Suite` by its id, with arguments that it cannot read.
pub fn add_id() -> u64 {
    SuiteClient::ADD.id.get()
}

#[derive(Default)]
pub struct SuiteService {
    stopped: std::sync::Arc<AtomicU32>,
    fed: std::sync::Arc<std::sync::Mutex<Option<tokio::task::JoinHandle<u64>>>>,
}

struct CountStop(std::sync::Arc<AtomicU32>);

impl Drop for CountStop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

async fn total(mut numbers: Rx<u64>) -> u64 {
    let mut sum = 0;
    while let Ok(Some(number)) = numbers.recv().await {
        sum += number;
    }
    sum
}

fn counting(upto: u32) -> Rx<u32> {
    let (tx, rx) = adjoin::channel();
    tokio::spawn(async move {
        for number in 0..upto {
            if tx.send(number).await.is_err() {
                return;
            }
        }
    });
    rx
}

impl Suite for SuiteService {
    async fn echo(&self, data: Vec<u8>) -> Vec<u8> {
        data
    }

    async fn add(&self, a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }

    async fn nothing(&self) {}

    async fn divide(&self, a: i32, b: i32) -> Result<i32, MathError> {
        a.checked_div(b).ok_or(MathError::DividedByZero { dividend: a })
    }

    async fn sum(&self, numbers: Rx<u64>) -> u64 {
        total(numbers).await
    }

    async fn count(&self, upto: u32) -> Rx<u32> {
        counting(upto)
    }

    async fn counts(&self, upto: Vec<u32>) -> Reply {
        Reply { count: upto.len() as u32, streams: upto.into_iter().map(counting).collect() }
    }

    async fn feed_me(&self) -> Tx<u64> {
        let (tx, rx) = adjoin::channel();
        *self.fed.lock().unwrap() = Some(tokio::spawn(total(rx)));
        tx
    }

    async fn fed(&self) -> u64 {
        let task = self.fed.lock().unwrap().take().unwrap();
        task.await.unwrap()
    }

    async fn pipe(&self, mut input: Rx<u64>, output: Tx<u64>) {
        while let Ok(Some(number)) = input.recv().await {
            if output.send(number * 2).await.is_err() {
                return;
            }
        }
    }

    async fn nested(&self, handles: Nested) -> u64 {
        let mut sum = handles.name.len() as u64 + total(handles.one).await;
        assert!(handles.none.is_none());
        for rx in handles.maybe.into_iter().chain(handles.many).chain(handles.by_name.into_values()) {
            sum += total(rx).await;
        }
        match handles.either {
            Either::In(rx) => sum += total(rx).await,
            Either::Out { to } => to.send(sum).await.unwrap(),
            Either::Neither => {}
        }
        sum += total(handles.pair.0).await;
        handles.pair.1.send(sum).await.unwrap();
        sum
    }

    async fn echo_text(&self, text: String) -> String {
        text
    }

    async fn echo_shared(&self, bytes: Bytes) -> Bytes {
        bytes
    }

    async fn echo_flags(&self, flags: Vec<bool>) -> Result<Vec<bool>, Vec<bool>> {
        if flags.first() == Some(&true) { Ok(flags) } else { Err(flags) }
    }

    async fn echo_texts(&self, mut input: Rx<String>, output: Tx<String>) {
        while let Ok(Some(text)) = input.recv().await {
            if output.send(text).await.is_err() {
                return;
            }
        }
    }

    async fn swallow(&self, mut data: Rx<Vec<u8>>) -> u64 {
        let mut bytes = 0;
        while let Ok(Some(element)) = data.recv().await {
            bytes += element.len() as u64;
        }
        bytes
    }

    async fn pour(&self, element: u32, times: u32) -> Rx<Vec<u8>> {
        let (tx, rx) = adjoin::channel();
        tokio::spawn(async move {
            for number in 0..times {
                if tx.send(vec![number as u8; element as usize]).await.is_err() {
                    return;
                }
            }
        });
        rx
    }

    async fn ignore(&self, data: Rx<Vec<u8>>) {
        let _stop = CountStop(self.stopped.clone());
        std::future::pending::<()>().await;
        drop(data);
    }

    async fn hang(&self) {
        let _stop = CountStop(self.stopped.clone());
        std::future::pending().await
    }

    async fn hang_with(&self, data: Rx<Vec<u8>>) {
        let _stop = CountStop(self.stopped.clone());
        std::future::pending::<()>().await;
        drop(data);
    }

    async fn hangs_stopped(&self) -> u32 {
        self.stopped.load(Ordering::SeqCst)
    }

    async fn call_back(&self, a: i32, b: i32) -> i32 {
        let context = Context::current().expect("a handler has a context");
        BackClient::new(context.connection()).add(a, b).await.expect("the host answers")
    }

    async fn panics(&self) {
        panic!("on purpose: a handler that panics");
    }

    async fn panics_inline(&self) {
        panic!("on purpose: an inline handler that panics");
    }

    async fn metadata(&self, key: String) -> Option<String> {
        let context = Context::current()?;
        context.metadata().get(&key)?.as_str().map(str::to_owned)
    }

    async fn wait(&self, millis: u64) -> u64 {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        millis
    }

    async fn resident_kib(&self) -> u64 {
        resident_kib()
    }

    async fn answer_of(&self, len: u32) -> Vec<u8> {
        vec![7; len as usize]
    }

    async fn offered_back(&self) -> Option<Vec<String>> {
        let context = Context::current().expect("a handler has a context");
        let services = match context.connection().describe().await {
            Ok(services) => services,
            Err(CallError::UnknownMethod) => return None,
            Err(error) => panic!("{error}"),
        };
        let methods = |service: &ServiceDescription| {
            let names = service.methods.iter().map(|method| format!("{}.{}", service.name, method.name));
            names.collect::<Vec<_>>()
        };
        Some(services.iter().flat_map(methods).collect())
    }
}

/// The calling side's answer to `call_back`.
pub struct BackService;

impl Back for BackService {
    async fn add(&self, a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }
}

/// Waits until the other half of a stream has been passed: until its call is out.
pub async fn until_passed<T>(tx: &Tx<T>) {
    while !format!("{tx:?}").contains("Some") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The memory that this process has in RAM, without files and shared memory.
pub fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse().ok())
        .unwrap_or(0)
}
