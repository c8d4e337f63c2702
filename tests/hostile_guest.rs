//! A guest that attaches as any other, and then writes whatever it likes into its half, at any time: its link ends with an
//! error, or goes on, and nothing else happens.
//!
//! `ADJOIN_MUTATIONS` is how many words are overwritten at random; 300,000 in debug, 3,000,000 with `--release`.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod common;
#[path = "death/load.rs"]
#[allow(dead_code, reason = "the other test uses all of it")]
mod load;

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use adjoin::{Connection, Launch, LinkEnd, Options, Settings, channel};
use common::{
    links::{cell_command, serve_if_cell_with},
    suite::resident_kib,
    watchdog::Watchdog,
};
use load::{Load, LoadClient, LoadDispatcher, Service};
use tempfile::TempDir;

/// What a hostile guest does: see [`Attack`].
const ATTACK: &str = "ADJOIN_TEST_ATTACK";
/// Where it counts.
const COUNT: &str = "ADJOIN_TEST_COUNT";

#[test]
fn cell_entry() {
    let attack = env::var(ATTACK).ok();
    if let Some(attack) = attack {
        std::thread::spawn(move || Attack::parse(&attack).carry_out(Path::new(&env::var_os(COUNT).unwrap())));
    }
    serve_if_cell_with(|| Options::new().settings(settings()).serve(LoadDispatcher::new(Service)));
}

fn settings() -> Settings {
    Settings::default().ring_bytes(64 << 10).channel_slots(16).max_payload_size(1 << 20)
}

fn serving() -> Options {
    Options::new().settings(settings()).serve(LoadDispatcher::new(Service))
}

/// Where things lie in a half of these settings, in bytes.
mod place {
    pub(super) const ENDPOINT: u64 = 128;
    pub(super) const CHANNELS: u64 = 4096;
    pub(super) const RETURNED: u64 = 8192;
    pub(super) const RING: u64 = RETURNED + 16384;
    pub(super) const ARENA: u64 = RING + (64 << 10);
    pub(super) const END: u64 = ARENA + (2 << 20);
}

/// Every word that the peer reads while a link runs, but for what is in the ring and in blocks.
fn control_words() -> Vec<u64> {
    // head, consumed, returned; parked; wake and starved.
    let mut words: Vec<u64> = [0, 128, 256, 384, 392].map(|offset| place::ENDPOINT + offset).to_vec();
    // granted_total; generation and waiting.
    words.extend((0..16).flat_map(|slot| [0, 8].map(|offset| place::CHANNELS + 64 * slot + offset)));
    words.extend((0..4).map(|number| place::RETURNED + 8 * number));
    words.extend((0..16).map(|word| 8 * word)); // the header
    words
}

/// What is written there.
const VALUES: [u64; 14] = [
    0,
    1,
    7,
    8,
    16,
    4096,
    (64 << 10) - 8,
    64 << 10,
    (1 << 31) - 1,
    u32::MAX as u64,
    1 << 32,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

/// What a guest writes.
#[derive(Clone, Copy, Debug)]
enum Attack {
    /// One value into one word, after so many microseconds.
    Word { offset: u64, value: u64, after: u64 },
    /// Words at random, so many, between two places.
    Random { seed: u64, words: u64, from: u64, to: u64 },
}

impl Attack {
    fn text(self) -> String {
        match self {
            Attack::Word { offset, value, after } => format!("word {offset} {value} {after}"),
            Attack::Random { seed, words, from, to } => format!("random {seed} {words} {from} {to}"),
        }
    }

    fn parse(text: &str) -> Self {
        let (kind, rest) = text.split_once(' ').unwrap();
        let numbers: Vec<u64> = rest.split(' ').map(|number| number.parse().unwrap()).collect();
        match kind {
            "word" => Attack::Word { offset: numbers[0], value: numbers[1], after: numbers[2] },
            _ => Attack::Random { seed: numbers[0], words: numbers[1], from: numbers[2], to: numbers[3] },
        }
    }

    /// In the guest: waits until there is a half, and writes into it, through the system and not through its own mapping.
    fn carry_out(self, count: &Path) {
        let count = OpenOptions::new().write(true).open(count).unwrap();
        let start = loop {
            if let Some(start) = own_half() {
                break start;
            }
            std::thread::yield_now();
        };
        // Attached, and under load.
        std::thread::sleep(Duration::from_millis(10));
        let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem").unwrap();
        match self {
            Attack::Word { offset, value, after } => {
                std::thread::sleep(Duration::from_micros(after));
                memory.write_all_at(&value.to_le_bytes(), start + offset).unwrap();
                tell(&count, 1);
            }
            Attack::Random { seed, words, from, to } => {
                scribble(&memory, start, (seed, words, from, to), &count)
            }
        }
    }
}

fn scribble(memory: &File, start: u64, (seed, words, from, to): (u64, u64, u64, u64), count: &File) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut done = 0;
    let mut many = vec![0; 8 * 512];
    while done < words {
        // Mostly one word at a time; now and then many at once, where that is more than a few.
        let run = if to - from > 1 << 16 && random.u32(0..8) == 0 { 512 } else { 1 };
        let bytes = &mut many[..8 * run];
        for word in bytes.chunks_exact_mut(8) {
            let value = match random.u32(0..5) {
                0 => VALUES[random.usize(0..VALUES.len())],
                1 => random.u64(0..64),
                2 => random.u64(0..64 << 10) & !7,
                3 => random.u64(0..1 << 20) | u64::from(random.u32(..)) << 32,
                _ => random.u64(..),
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
        let places = (to - from) / 8 - run as u64;
        let offset = from + 8 * random.u64(0..=places);
        if memory.write_all_at(bytes, start + offset).is_err() {
            return; // the link is gone, and its memory with it
        }
        done += run as u64;
        if done % 64 < run as u64 {
            tell(count, done);
        }
    }
    tell(count, done);
}

fn tell(count: &File, done: u64) {
    count.write_all_at(&done.to_le_bytes(), 0).unwrap();
}

/// Where this process has its own half, the only one that it can write.
fn own_half() -> Option<u64> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.contains("/memfd:adjoin") && line.contains(" rw-s "))?;
    u64::from_str_radix(line.split_once('-')?.0, 16).ok()
}

/// What came of the links of hostile guests.
#[derive(Default)]
struct Tally {
    links: u64,
    mutations: u64,
    ends: BTreeMap<String, u64>,
}

/// Starts a hostile guest, and calls and streams with it until its link has ended or it has done what it wanted to.
async fn face(attack: Attack, folder: &Path, idle: bool, tally: &mut Tally) {
    let file: PathBuf = folder.join("count");
    fs::write(&file, 0_u64.to_le_bytes()).unwrap();
    let mut command = cell_command();
    command.env(ATTACK, attack.text()).env(COUNT, &file).stderr(Stdio::null());
    let launch = Launch::new(command).stderr(adjoin::CellOutput::Null);
    let cell = match launch.spawn(serving()).await {
        Ok(cell) => cell,
        Err(error) => {
            // It wrote before it was attached.
            let mut told = String::from("not attached");
            let mut source = std::error::Error::source(&error);
            while let Some(error) = source {
                told = format!("not attached: {error}");
                source = error.source();
            }
            *tally.ends.entry(told).or_default() += 1;
            tally.links += 1;
            tally.mutations += 1;
            return;
        }
    };
    let wanted = match attack {
        Attack::Word { .. } => 1,
        Attack::Random { words, .. } => words,
    };
    let busy = if idle { Vec::new() } else { keep_busy(cell.connection()) };
    let done = || u64::from_le_bytes(fs::read(&file).unwrap().try_into().unwrap_or_default());
    let began = Instant::now();
    while cell.connection().end().is_none() && done() < wanted {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // What it wrote last has its effect, if it has any.
    tokio::time::sleep(Duration::from_millis(2)).await;
    if let Some(LinkEnd::Corrupt { field, .. }) = cell.connection().end() {
        *tally.ends.entry(format!("corrupt {field}")).or_default() += 1;
    } else {
        let end = cell.connection().end().map_or("went on".to_owned(), |end| match end {
            LinkEnd::Violation(violation) => violation.rule().to_owned(),
            end => end.to_string(),
        });
        *tally.ends.entry(end).or_default() += 1;
    }
    tally.links += 1;
    tally.mutations += done();
    cell.kill().unwrap();
    for task in busy {
        task.abort();
        let _ = task.await;
    }
    cell.connection().closed().await;
    assert!(began.elapsed() < Duration::from_secs(60));
}

/// Calls and streams of which nothing is expected: what comes back is the guest's to falsify.
fn keep_busy(connection: &Connection) -> Vec<tokio::task::JoinHandle<()>> {
    let client = LoadClient::new(connection);
    let patience = Duration::from_millis(100);
    let calls = client.clone();
    let small = tokio::spawn(async move {
        while !matches!(calls.small(1).with_timeout(patience).await, Err(adjoin::CallError::Ended(_))) {}
    });
    let calls = client.clone();
    let large = tokio::spawn(async move {
        for len in [100, 5000, 20_000, 100_000, 900_000].into_iter().cycle() {
            let sent = calls.large(1, vec![7; len]).with_timeout(patience).await;
            if matches!(sent, Err(adjoin::CallError::Ended(_))) {
                return;
            }
        }
    });
    let calls = client.clone();
    let back = tokio::spawn(async move {
        while !matches!(calls.call_back(1).with_timeout(patience).await, Err(adjoin::CallError::Ended(_))) {}
    });
    let stream = tokio::spawn(async move {
        loop {
            let (input, theirs) = channel();
            let (out, mut output) = channel();
            let call = tokio::spawn({
                let client = client.clone();
                async move { client.pipe(theirs, out).with_timeout(Duration::from_millis(100)).await }
            });
            for number in 0..200 {
                let sent =
                    tokio::time::timeout(Duration::from_millis(100), input.send((number, vec![1; 300], 0)));
                if !matches!(sent.await, Ok(Ok(()))) {
                    break;
                }
                let _ = output.try_recv();
            }
            drop((input, output));
            if matches!(call.await, Ok(Err(adjoin::CallError::Ended(_)))) {
                return;
            }
        }
    });
    vec![small, large, back, stream]
}

/// User and system time of this process so far.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn mutations() -> u64 {
    let usually = if cfg!(debug_assertions) { 300_000 } else { 3_000_000 };
    env::var("ADJOIN_MUTATIONS").map_or(usually, |mutations| mutations.parse().expect("a number"))
}

#[test]
fn whatever_a_guest_writes_ends_its_own_link_at_most() {
    let mutations = mutations();
    let _hang = Watchdog::seconds(300 + mutations / 20_000);
    // A panic anywhere in this process is a failure, whoever would catch it.
    let panicked = Arc::new(AtomicBool::new(false));
    let (seen, default) = (panicked.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        seen.store(true, Ordering::Relaxed); // a flag and nothing else
        default(panic);
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = TempDir::new().unwrap();
        let roomy = Settings::default().initial_channel_credit(256 << 10);
        let options = Options::new().settings(roomy).serve(LoadDispatcher::new(Service));
        let survivor = Launch::new(cell_command()).name("survivor").spawn(options).await.unwrap();
        let mut checks = Load::start(survivor.connection(), random.u64(..));
        let mut tally = Tally::default();
        // Every value into every word takes a while: some of them in debug, each time others.
        let share = if cfg!(debug_assertions) { 12 } else { 1 };
        for offset in control_words() {
            for value in VALUES {
                if random.u32(0..share) == 0 {
                    let (after, idle) = (random.u64(0..3000), random.u32(0..3) == 0);
                    face(Attack::Word { offset, value, after }, folder.path(), idle, &mut tally).await;
                }
            }
        }
        assert!(!checks.has_failed());
        let before = resident_kib();
        while tally.mutations < mutations {
            let left = mutations - tally.mutations;
            let (from, to) = match random.u32(0..6) {
                0 => (0, place::RING),
                1 => (place::RING, place::ARENA),
                2 => (0, place::END),
                _ => (place::ARENA, place::END),
            };
            let most = 100_000 << random.u32(0..5);
            let words = random.u64(1..most).min(left);
            let attack = Attack::Random { seed: random.u64(..), words, from, to };
            face(attack, folder.path(), false, &mut tally).await;
            assert!(!checks.has_failed() && !panicked.load(Ordering::Relaxed), "{attack:?}");
        }
        println!("{} words in {} links", tally.mutations, tally.links);
        for (end, times) in &tally.ends {
            println!("{times:6} x {end}");
        }
        let grown = resident_kib().saturating_sub(before);
        assert!(grown < 64 << 10, "{grown} KiB more");
        let done = checks.stop().await.expect("the other guest is unharmed");
        println!("the other one: {done:?}");
        // Nobody is left spinning.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let began = cpu();
        tokio::time::sleep(Duration::from_millis(1000)).await;
        let spent = cpu() - began;
        assert!(spent < Duration::from_millis(500), "{spent:?} of a second");
        survivor.stop(Duration::from_secs(10)).await.unwrap();
    });
    assert!(!panicked.load(Ordering::Relaxed));
}
