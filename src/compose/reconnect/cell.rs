//! Cells that are started again when they are gone.

use std::{process::Command, sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::timeout};

use super::connector::{ConnectFailure, Connector, Established};
use crate::{
    open::cell::{Cell, spawn},
    rpc::options::Options,
};

/// Spawns a cell, and another one when it is gone, with a command that is made anew each time.
///
/// There is one process at a time. When the link of a cell has ended, its process has a second to exit by itself;
/// then it is killed. It is reaped before the next one is started.
///
/// A cell that crashes on each call is started again as fast as calls come. What calls may cost is bounded by
/// [`Builder::max_repeats`](super::Builder::max_repeats) and the [`RetryBudget`](super::RetryBudget).
pub fn cell(command: impl Fn() -> Command + Send + Sync + 'static, options: Options) -> impl Connector {
    let alone = Arc::new(Mutex::new(()));
    move || {
        let (alone, command, options) = (Arc::clone(&alone), command(), options.clone());
        async move {
            let alone = alone.lock_owned().await;
            Ok::<_, ConnectFailure>(established(spawn(command, options).await?, alone))
        }
    }
}

impl From<Cell> for Established {
    fn from(cell: Cell) -> Self {
        established(cell, ())
    }
}

/// The connection of a cell, kept with its process, and with something that is dropped after the process's end.
fn established(cell: Cell, kept: impl Send + 'static) -> Established {
    let (connection, process) = cell.into_parts();
    let keeper = Box::pin(async move {
        if timeout(GRACE, process.wait()).await.is_err() && process.kill().is_ok() {
            // An error is that how it ended is lost, and it has ended then.
            let _ = process.wait().await;
        }
        drop((process, kept));
    });
    Established { connection, keeper, asked: None }
}

/// How long a cell has to exit after the end of its link.
const GRACE: Duration = Duration::from_secs(1);
