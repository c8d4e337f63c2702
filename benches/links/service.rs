//! What the server does for the client.

use adjoin::{Bytes, Context, RecvError, Rx, SendError, Tx};

use crate::machine;

/// The server's side of every workload.
#[adjoin::service]
pub(crate) trait Work {
    /// Answers with what it was sent: the decoded vector itself.
    #[adjoin(inline)]
    async fn echo(&self, data: Vec<u8>) -> Vec<u8>;

    /// Receives a stream to its end: how many elements, how many bytes, and the sum of their first bytes. It says when
    /// it is there.
    async fn ingest(&self, elements: Rx<Vec<u8>>, ready: Tx<bool>) -> Result<(u64, u64, u64), String>;

    /// Answers with as many bytes as it was sent, which it writes once.
    #[adjoin(inline)]
    async fn echo_loaned(&self, data: Bytes) -> Result<Bytes, String>;

    /// As `ingest`, with elements that are handles.
    async fn ingest_loaned(&self, elements: Rx<Bytes>, ready: Tx<bool>) -> Result<(u64, u64, u64), String>;

    /// The CPU time that this process has taken so far, in nanoseconds.
    #[adjoin(inline)]
    async fn cpu_ns(&self) -> u64;
}

/// The server.
pub(crate) struct Worker;

impl Work for Worker {
    async fn echo(&self, data: Vec<u8>) -> Vec<u8> {
        data
    }

    async fn ingest(&self, mut elements: Rx<Vec<u8>>, ready: Tx<bool>) -> Result<(u64, u64, u64), String> {
        ready.send(true).await.map_err(|error: SendError| error.to_string())?;
        drop(ready);
        let (mut count, mut bytes, mut sum) = (0, 0, 0);
        while let Some(element) = elements.recv().await.map_err(|error: RecvError| error.to_string())? {
            count += 1;
            bytes += element.len() as u64;
            sum += u64::from(element[0]);
        }
        Ok((count, bytes, sum))
    }

    async fn echo_loaned(&self, data: Bytes) -> Result<Bytes, String> {
        let context = Context::current().ok_or("a handler has a context")?;
        let mut answer = context.connection().loan(data.len()).await.map_err(|error| error.to_string())?;
        answer.fill(data.first().copied().unwrap_or_default());
        Ok(answer.freeze())
    }

    async fn ingest_loaned(
        &self,
        mut elements: Rx<Bytes>,
        ready: Tx<bool>,
    ) -> Result<(u64, u64, u64), String> {
        ready.send(true).await.map_err(|error: SendError| error.to_string())?;
        drop(ready);
        let (mut count, mut bytes, mut sum) = (0, 0, 0);
        while let Some(element) = elements.recv().await.map_err(|error: RecvError| error.to_string())? {
            count += 1;
            bytes += element.len() as u64;
            sum += u64::from(element[0]);
        }
        Ok((count, bytes, sum))
    }

    async fn cpu_ns(&self) -> u64 {
        machine::cpu_ns()
    }
}
