//! A cell that is kept running: started by the first call, again after a crash, stopped when nobody has used it for a while.
//!
//! ```text
//! cargo run --release --example supervise
//! ```

use std::{env, error::Error, process::Command, time::Duration};

use adjoin::{
    Options,
    supervise::{State, Supervised},
};

#[adjoin::service]
trait Worker {
    #[adjoin(idempotent)]
    async fn id(&self) -> u32;
    async fn crash(&self);
}

struct Works;

impl Worker for Works {
    async fn id(&self) -> u32 {
        std::process::id()
    }

    async fn crash(&self) {
        std::process::exit(3);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    if env::args().nth(1).as_deref() == Some("cell") {
        adjoin::cell(Options::new().serve(WorkerDispatcher::new(Works))).await?.closed().await;
        return Ok(());
    }
    let program = env::current_exe()?;
    let command = move || {
        let mut command = Command::new(&program);
        command.arg("cell");
        command
    };
    let cell = Supervised::builder("worker", command).idle_stop(Duration::from_millis(200)).build();
    let mut states = cell.watch();
    let worker = WorkerClient::new(&cell);
    println!("nothing runs yet: {:?}", cell.state());
    println!("the first call starts process {}", worker.id().await?);
    if let Err(error) = worker.crash().await {
        println!("{error}");
    }
    println!("the next call starts process {}", worker.id().await?);
    while states.changed().await != Some(State::Idle) {}
    println!("nobody has used it for a while, and it was stopped");
    println!("process {} is the third", worker.id().await?);
    cell.close(Duration::from_secs(1)).await;
    Ok(())
}
