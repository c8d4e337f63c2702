//! Many cells of one host: how long they take to start, what they cost while they are idle, and what a call to one of them
//! costs beside the others.
//!
//! ```text
//! cargo bench --bench cells -- [--cells N] [--idle SECS] [--json]
//! ```
//!
//! | figure | is |
//! |---|---|
//! | `start_s` | from nothing to all of them serving, started at once |
//! | `idle_cpu` | user and system time of the host and of all cells while nobody calls, as a part of one core |
//! | `idle_wakeups` | voluntary context switches of all of them in that time |
//! | `p50_ns_alone`, `p50_ns_among` | a call of 32 B to one cell: with no other, and with all the others idle; in turns, the median of the rounds |
//! | `ratio` | the second by the first |
//! | `descriptors`, `kib` | of the host, for each cell; resident memory of a cell, which shares its segment with the host |
//!
//! Under `cargo test`, which passes no `--bench`, everything runs for a moment, to see that it works.

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        env, fs,
        process::Command,
        time::{Duration, Instant},
    };

    use adjoin::{Cell, CellOutput, Launch, Options};
    use clap::Parser;

    type Failure = Box<dyn std::error::Error + Send + Sync>;

    #[derive(Parser)]
    struct Args {
        /// How many cells.
        #[arg(long, default_value_t = 200)]
        cells: usize,
        /// How long they are idle, in seconds.
        #[arg(long, default_value_t = 10.0)]
        idle: f64,
        /// One line of JSON in place of the text.
        #[arg(long)]
        json: bool,
        /// Passed by `cargo bench`.
        #[arg(long, hide = true)]
        bench: bool,
        /// This is a cell.
        #[arg(long, hide = true)]
        cell: bool,
    }

    #[adjoin::service]
    trait Echo {
        #[adjoin(inline)]
        async fn echo(&self, bytes: Vec<u8>) -> Vec<u8>;
    }

    struct Plain;

    impl Echo for Plain {
        async fn echo(&self, bytes: Vec<u8>) -> Vec<u8> {
            bytes
        }
    }

    pub(crate) fn main() -> Result<(), Failure> {
        let args = if env::args().any(|arg| arg == "--bench" || arg == "--cell") {
            Args::parse()
        } else {
            Args { cells: 3, idle: 0.1, json: false, bench: false, cell: false }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            if args.cell {
                let options = Options::new().serve(EchoDispatcher::new(Plain));
                adjoin::cell(options).await?.closed().await;
                return Ok(());
            }
            measure(&args).await
        })
    }

    async fn start() -> Result<Cell, Failure> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("--cell");
        Ok(Launch::new(command).stderr(CellOutput::Inherit).spawn(Options::new()).await?)
    }

    async fn measure(args: &Args) -> Result<(), Failure> {
        let first = start().await?;
        let client = EchoClient::new(first.connection());
        let mut alone = vec![p50(&client).await?];
        let descriptors = entries("self/fd");
        let began = Instant::now();
        let starting: Vec<_> = (1..args.cells).map(|_| tokio::spawn(start())).collect();
        let mut others = Vec::new();
        for cell in starting {
            others.push(cell.await??);
        }
        let start_s = began.elapsed().as_secs_f64();
        let descriptors = (entries("self/fd") - descriptors) as f64 / others.len().max(1) as f64;
        let mut among = vec![p50(&client).await?];
        let all = || others.iter().chain([&first]).map(|cell| cell.id().to_string()).chain(["self".into()]);
        tokio::time::sleep(Duration::from_millis(300)).await; // what was begun comes to its end
        let cost =
            || (all().map(|id| cpu(&id)).sum::<Duration>(), all().map(|id| switches(&id)).sum::<u64>());
        let before = cost();
        let began = Instant::now();
        tokio::time::sleep(Duration::from_secs_f64(args.idle)).await;
        let idle = began.elapsed().as_secs_f64();
        let after = cost();
        let idle_cpu = (after.0 - before.0).as_secs_f64() / idle;
        let wakeups = after.1 - before.1;
        let kib = resident(&first.id().to_string());
        // In turns, since the machine is not the same from one second to the next.
        for _ in 0..ROUNDS {
            among.push(p50(&client).await?);
        }
        others.clear();
        tokio::time::sleep(Duration::from_millis(300)).await;
        for _ in 0..ROUNDS {
            alone.push(p50(&client).await?);
        }
        let (alone, among) = (median(alone), median(among));
        let ratio = among / alone;
        let cells = args.cells;
        if args.json {
            println!(
                "{{\"cells\":{cells},\"start_s\":{start_s:.3},\"idle_cpu\":{idle_cpu:.5},\"idle_wakeups\":{wakeups},\
                 \"p50_ns_alone\":{alone:.0},\"p50_ns_among\":{among:.0},\"ratio\":{ratio:.3},\
                 \"descriptors\":{descriptors:.1},\"kib\":{kib}}}"
            );
        } else {
            println!("{cells} cells served after {start_s:.2} s");
            println!(
                "idle for {idle:.1} s: {:.3} % of a core, {wakeups} wake-ups, all together",
                100.0 * idle_cpu
            );
            println!("a call of 32 B: {alone:.0} ns alone, {among:.0} ns among {cells}, {ratio:.2} times");
            println!(
                "for each cell: {descriptors:.1} descriptors of the host; {kib} KiB resident in the cell"
            );
        }
        Ok(())
    }

    async fn p50(client: &EchoClient) -> Result<f64, Failure> {
        const CALLS: usize = 20_000;
        let mut nanos = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let began = Instant::now();
            client.echo(vec![7; 32]).await?;
            nanos.push(began.elapsed().as_nanos() as f64);
        }
        Ok(median(nanos))
    }

    fn median(mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    fn entries(folder: &str) -> usize {
        fs::read_dir(format!("/proc/{folder}")).map_or(0, Iterator::count)
    }

    /// User and system time of a process so far.
    fn cpu(id: &str) -> Duration {
        // Nanoseconds, of each thread.
        let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
        let of = |task: fs::DirEntry| -> Option<u64> {
            let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
            stat.split_whitespace().next()?.parse().ok()
        };
        Duration::from_nanos(tasks.filter_map(of).sum())
    }

    fn switches(id: &str) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
        let of = |task: fs::DirEntry| -> Option<u64> {
            field(&task.path().join("status"), "voluntary_ctxt_switches")
        };
        tasks.filter_map(of).sum()
    }

    fn resident(id: &str) -> u64 {
        field(format!("/proc/{id}/status").as_ref(), "VmRSS").unwrap_or(0)
    }

    fn field(file: &std::path::Path, name: &str) -> Option<u64> {
        let status = fs::read_to_string(file).ok()?;
        status.lines().find(|line| line.starts_with(name))?.split_whitespace().nth(1)?.parse().ok()
    }

    const ROUNDS: usize = 4;
}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
