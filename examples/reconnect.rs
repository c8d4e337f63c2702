//! A server is killed and comes back, again and again, while its clients go on.
//!
//! ```text
//! cargo run --release --example reconnect
//! ```
//!
//! It starts itself a second time, as the server: a bank that writes each coin into a book. What the callers were told is
//! compared with the book at the end: each coin that was reported as paid in is there, and there is none that nobody
//! knows of. It takes some four seconds.

use std::{
    env,
    fs::{File, OpenOptions},
    io::Write,
    mem::discriminant,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use adjoin::{
    CallError, Options,
    reconnect::{self, Backoff, Reconnecting, Watch},
    stream,
};
use tokio::{net::UnixListener, time::sleep};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[adjoin::service]
trait Bank {
    /// Pays a coin in. Not a call to make twice.
    async fn pay_in(&self);

    /// How many coins there are.
    #[adjoin(idempotent)]
    async fn balance(&self) -> Result<u64, String>;
}

// ---- The clients.

async fn clients(folder: &Path) -> Result<(), Failure> {
    let (socket, book) = (folder.join("bank.sock"), folder.join("book"));
    let start = Instant::now();
    let say = |text: &str| println!("{:6.3} s  {text}", start.elapsed().as_secs_f64());

    let bank = Reconnecting::builder(reconnect::uds(&socket, Options::new()))
        .backoff(Backoff::default().max(Duration::from_millis(200)))
        .max_outage(Duration::from_secs(1))
        .build();
    let work = async {
        let server = call_while_it_restarts(&bank, &socket, &book, &say).await?;

        let mut lost = bank.watch();
        drop(server);
        lost.changed().await;
        match BankClient::new(&bank).pay_in().await {
            Err(error @ CallError::Unconnected { .. }) => say(&error.to_string()),
            other => return Err(format!("there is no server, and yet: {other:?}").into()),
        }
        bank.close().await;
        Ok(())
    };
    let (worked, ()) = tokio::join!(work, tell_states(bank.watch(), &say));
    worked
}

/// Says where the client stands, until it is closed.
async fn tell_states(mut watch: Watch, say: &impl Fn(&str)) {
    let mut last = watch.state();
    while let Some(state) = watch.changed().await {
        // Not each attempt.
        if discriminant(&state) != discriminant(&last) {
            say(&format!("{state:?}"));
        }
        last = state;
    }
}

/// Calls while the server is killed and started again, and compares what the callers were told with the book.
async fn call_while_it_restarts(
    bank: &Reconnecting,
    socket: &Path,
    book: &Path,
    say: &impl Fn(&str),
) -> Result<Server, Failure> {
    let (client, over) = (BankClient::new(bank), AtomicBool::new(false));
    let restarts = async {
        let server = restart(socket, book, say).await;
        over.store(true, Ordering::Relaxed);
        server
    };
    let (server, first, second, read) =
        tokio::join!(restarts, pay(&client, &over), pay(&client, &over), read(&client, &over));
    let (server, first, second, read) = (server?, first?, second?, read?);

    let (done, unknown) = (first.done + second.done, first.unknown + second.unknown);
    let balance = client.balance().await?;
    println!("\n{done} coins were paid in, {unknown} perhaps; the book says {balance}.");
    println!("The balance was asked for {read} times, and told each time.\n");
    if balance < done || balance > done + unknown {
        return Err("that cannot be".into());
    }
    Ok(server)
}

async fn restart(socket: &Path, book: &Path, say: &impl Fn(&str)) -> Result<Server, Failure> {
    let mut server = Server::start(socket, book)?;
    for _ in 0..5 {
        sleep(Duration::from_millis(400)).await;
        say("-- the server is killed");
        drop(server);
        sleep(Duration::from_millis(200)).await;
        say("-- the server is started again");
        server = Server::start(socket, book)?;
    }
    Ok(server)
}

/// What callers were told of their coins.
struct Paid {
    done: u64,
    unknown: u64,
}

/// Pays in one coin after the other.
async fn pay(bank: &BankClient, over: &AtomicBool) -> Result<Paid, Failure> {
    let mut paid = Paid { done: 0, unknown: 0 };
    while !over.load(Ordering::Relaxed) {
        match bank.pay_in().await {
            Ok(()) => paid.done += 1,
            // It was sent, and then the link ended. That is for the caller to clear up.
            Err(CallError::OutcomeUnknown { .. }) => paid.unknown += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(paid)
}

/// Asks for the balance again and again, and never learns that the server was away.
async fn read(bank: &BankClient, over: &AtomicBool) -> Result<u64, Failure> {
    let mut times = 0;
    while !over.load(Ordering::Relaxed) {
        bank.balance().await?;
        times += 1;
    }
    Ok(times)
}

// ---- The server.

struct Book {
    path: PathBuf,
    file: File,
}

impl Bank for Book {
    async fn pay_in(&self) {
        sleep(Duration::from_millis(2)).await;
        if let Err(error) = (&self.file).write_all(b".") {
            panic!("the coin cannot be written down: {error}"); // the caller finds its call cancelled
        }
        sleep(Duration::from_millis(2)).await;
    }

    async fn balance(&self) -> Result<u64, String> {
        sleep(Duration::from_millis(2)).await;
        self.path.metadata().map(|book| book.len()).map_err(|error| error.to_string())
    }
}

async fn serve(socket: &Path, book: &Path) -> Result<(), Failure> {
    let file = OpenOptions::new().append(true).create(true).open(book)?;
    let options = Options::new().serve(BankDispatcher::new(Book { path: book.to_owned(), file }));
    let _ = std::fs::remove_file(socket); // one that was killed leaves it behind
    let listener = UnixListener::bind(socket)?;
    loop {
        let (socket, _) = listener.accept().await?;
        let options = options.clone();
        tokio::spawn(async move {
            match stream::accept(socket, options).await {
                Ok(connection) => drop(connection.closed().await),
                Err(error) => eprintln!("a client that was none: {error}"),
            }
        });
    }
}

/// The server's process. Killed and reaped when it is dropped.
struct Server(Child);

impl Server {
    fn start(socket: &Path, book: &Path) -> Result<Self, Failure> {
        Ok(Server(Command::new(env::current_exe()?).arg("serve").args([socket, book]).spawn()?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill(); // fails if it has gone already
        let _ = self.0.wait();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let args: Vec<_> = env::args_os().skip(1).collect();
    match &args[..] {
        [role, socket, book] if role == "serve" => serve(socket.as_ref(), book.as_ref()).await,
        _ => clients(tempfile::tempdir()?.path()).await,
    }
}
