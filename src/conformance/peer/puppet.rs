//! A raw peer in a process of its own: this test binary, started again by the library's own way of starting a
//! cell, and attached by the library's own way of attaching. The test tells it over its stdin, which is a
//! socket, what to say, and what to do to its half of the segment.

use std::{
    fs::{self, OpenOptions},
    io,
    os::{fd::OwnedFd, unix::fs::FileExt, unix::net::UnixStream as StdStream},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{Heard, end::EndPeer};
use crate::{
    conformance::{links::settings, note::Note, segment},
    segments::{attach, geometry},
};

/// The test's side of a puppet.
pub(in crate::conformance) struct PuppetPeer {
    strings: Strings,
}

/// What a puppet is told to do. It answers each with a [`Reply`], except the last.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Say(Vec<Note>),
    Hear,
    Grant { conn_id: u64, channel_id: u64, more: u32 },
    MoreCredit { conn_id: u64, channel_id: u64, known: u64 },
    Scribble(Scribble),
    Exit(i32),
}

#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Done,
    Heard(Heard),
    Total(u64),
}

/// Bytes for the puppet to put into its half of the segment, where its own library would not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::conformance) enum Scribble {
    /// Over the frame of a message that it has written, this far behind the frame's start, before it
    /// publishes it.
    Frame { note: Note, offset: u64, bytes: Vec<u8> },
    /// Over what it has granted on a channel; and something is published, so that our side looks.
    Granted { conn_id: u64, channel_id: u64, total: u64 },
    /// Over what it has published. Our side looks when the process exits at the latest.
    Head(u64),
}

impl PuppetPeer {
    /// The program that plays the puppet, and the strings that it will hang by.
    pub(in crate::conformance) fn command(role: &str) -> (Command, Self) {
        let (ours, theirs) = StdStream::pair().expect("the system has sockets");
        ours.set_nonblocking(true).expect("a socket can be told so");
        let mut command = Command::new(std::env::current_exe().expect("a process has a program"));
        let entry = concat!(module_path!(), "::a_puppet_does_as_it_is_told");
        let entry = entry.split_once("::").expect("the crate comes first").1;
        command.args(["--exact", entry, "--nocapture", "--test-threads=1", "--quiet"]);
        command.env(ROLE, role).stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
        let strings = Strings(UnixStream::from_std(ours).expect("the runtime has I/O"));
        (command, PuppetPeer { strings })
    }

    async fn order(&mut self, order: Order) -> Reply {
        self.strings.send(&order).await.expect("the puppet lives");
        self.strings.receive().await.expect("the puppet lives")
    }

    async fn done(&mut self, order: Order) {
        let reply = self.order(order).await;
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }

    pub(super) async fn say_together(&mut self, notes: &[Note]) {
        self.done(Order::Say(notes.to_vec())).await;
    }

    pub(super) async fn hear(&mut self) -> Heard {
        match self.order(Order::Hear).await {
            Reply::Heard(heard) => heard,
            reply => panic!("{reply:?}"),
        }
    }

    pub(super) async fn grant(&mut self, conn_id: u64, channel_id: u64, more: u32) {
        self.done(Order::Grant { conn_id, channel_id, more }).await;
    }

    pub(super) async fn more_credit(&mut self, conn_id: u64, channel_id: u64, known: u64) -> u64 {
        match self.order(Order::MoreCredit { conn_id, channel_id, known }).await {
            Reply::Total(total) => total,
            reply => panic!("{reply:?}"),
        }
    }

    pub(in crate::conformance) async fn scribble(&mut self, scribble: Scribble) {
        self.done(Order::Scribble(scribble)).await;
    }

    /// Ends the process.
    pub(in crate::conformance) async fn exit(&mut self, code: i32) {
        self.strings.send(&Order::Exit(code)).await.expect("the puppet lives");
    }

    /// What a puppet that does not do as it is told has to tell in the end.
    pub(in crate::conformance) async fn told(&mut self) -> String {
        self.strings.receive().await.expect("the puppet tells it")
    }
}

/// Set where this binary runs as a puppet: to what it plays.
const ROLE: &str = "ADJOIN_PUPPET";

/// The role that attaches and then does as it is told.
pub(in crate::conformance) const GUEST: &str = "guest";

/// One end of the socket between the test and its puppet: postcard behind its length.
struct Strings(UnixStream);

impl Strings {
    /// The puppet's.
    fn of_puppet() -> Self {
        let stdin = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3).expect("the test has put a socket there");
        let socket = StdStream::from(stdin);
        socket.set_nonblocking(true).expect("it is a socket");
        Strings(UnixStream::from_std(socket).expect("the runtime has I/O"))
    }

    async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let message = postcard::to_extend(message, Vec::new()).expect("it has an encoding");
        self.0.write_all(&(message.len() as u64).to_le_bytes()).await?;
        self.0.write_all(&message).await
    }

    async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut message = vec![0; self.0.read_u64_le().await? as usize];
        self.0.read_exact(&mut message).await?;
        Ok(postcard::from_bytes(&message).expect("both ends are of one program"))
    }
}

/// Not a test of its own: what the puppets of other tests run.
#[tokio::test]
async fn a_puppet_does_as_it_is_told() {
    match std::env::var(ROLE).as_deref() {
        Err(_) => {}
        Ok(GUEST) => {
            // It ends with the test that holds its strings.
            let Ok(code) = play().await else { return };
            std::process::exit(code);
        }
        Ok(role) => {
            let told = segment::play(role).await;
            let _ = Strings::of_puppet().send(&told).await;
        }
    }
}

async fn play() -> io::Result<i32> {
    let mut strings = Strings::of_puppet();
    let parts = attach(&settings()).await.expect("the host lets it attach");
    let mut peer = EndPeer::new(parts);
    loop {
        let reply = match strings.receive().await? {
            Order::Say(notes) => {
                peer.say_together(&notes);
                Reply::Done
            }
            Order::Hear => Reply::Heard(peer.hear().await),
            Order::Grant { conn_id, channel_id, more } => {
                peer.grant(conn_id, channel_id, more);
                Reply::Done
            }
            Order::MoreCredit { conn_id, channel_id, known } => {
                Reply::Total(peer.more_credit(conn_id, channel_id, known).await)
            }
            Order::Scribble(scribble) => {
                carry_out(&mut peer, &scribble)?;
                Reply::Done
            }
            Order::Exit(code) => return Ok(code),
        };
        strings.send(&reply).await?;
    }
}

/// Writes into this process's own half through `/proc/self/mem`, as a peer that is not this library would.
fn carry_out(peer: &mut EndPeer, scribble: &Scribble) -> io::Result<()> {
    let half = own_half()?;
    let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem")?;
    match scribble {
        Scribble::Head(head) => {
            let endpoint = geometry(&settings()).endpoint_offset().get();
            return memory.write_all_at(&head.to_le_bytes(), half.start + endpoint);
        }
        Scribble::Granted { conn_id, channel_id, total } => {
            const ENTRY: u64 = 64; // bytes, by the layout's table
            let entry = u64::from(peer.slot(*conn_id, *channel_id).index) * ENTRY;
            let table = geometry(&settings()).channels_offset().get();
            memory.write_all_at(&total.to_le_bytes(), half.start + table + entry)?;
            peer.write(&Note::Cancel { conn_id: 0, request_id: u64::MAX });
        }
        Scribble::Frame { note, offset, bytes } => {
            let before = read(&memory, &half)?;
            peer.write(note);
            let after = read(&memory, &half)?;
            let ring = geometry(&settings()).ring_offset().get() as usize;
            let frames = before[ring..].iter().zip(&after[ring..]);
            let first = frames.clone().position(|(before, after)| before != after);
            let first = (ring + first.expect("a frame was written")) as u64;
            // Frames start at multiples of eight, with their length, which was zero.
            memory.write_all_at(bytes, half.start + (first & !7) + offset)?;
        }
    }
    peer.publish();
    Ok(())
}

/// Where this process has its own half, the only one that it can write.
fn own_half() -> io::Result<std::ops::Range<u64>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let line = maps.lines().find(|line| line.contains("/memfd:") && line.contains(" rw-s "));
    let (range, _) = line.and_then(|line| line.split_once(' ')).ok_or(io::ErrorKind::NotFound)?;
    let (start, end) = range.split_once('-').ok_or(io::ErrorKind::InvalidData)?;
    let address = |text| u64::from_str_radix(text, 16).map_err(|_| io::ErrorKind::InvalidData);
    Ok(address(start)?..address(end)?)
}

fn read(memory: &fs::File, half: &std::ops::Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (half.end - half.start) as usize];
    memory.read_exact_at(&mut bytes, half.start)?;
    Ok(bytes)
}
