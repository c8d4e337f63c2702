//! Work that is the same over everything that is asynchronous: callers that each call in a loop.

use std::future::Future;

use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    Failure,
    measure::{Begun, Run},
    payload,
};

/// A client whose calls take a vector, and return what the other side sent for it.
pub(crate) trait Caller: Clone + Send + 'static {
    fn call(&mut self, data: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, Failure>> + Send;
}

/// A runtime of this thread alone.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Calls from as many tasks as the case wants calls in flight, until the time is over; how often.
pub(crate) async fn calls(run: &Run, caller: impl Caller) -> Result<u64, Failure> {
    let mut callers = JoinSet::new();
    for _ in 0..run.case.inflight {
        callers.spawn(repeat(run.clone(), caller.clone()));
    }
    let mut n = 0;
    while let Some(done) = callers.join_next().await {
        n += done??;
    }
    Ok(n)
}

/// One of the callers. The vector that comes back is the next that is sent, with another number.
async fn repeat(run: Run, mut caller: impl Caller) -> Result<u64, Failure> {
    let mut data = run.payload();
    let mut n = 0;
    loop {
        let begun = run.begin(n);
        if begun == Begun::Over {
            return Ok(n);
        }
        payload::stamp(&mut data, n);
        data = caller.call(data).await?;
        run.end(begun, n, &data)?;
        n += 1;
    }
}
