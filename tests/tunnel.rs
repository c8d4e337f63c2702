//! Tunnels over every link: whole and exact, and with an end of every kind in every order.
#![allow(missing_docs)]

mod common;

use std::{
    future::Future,
    io::{self, ErrorKind},
};

use adjoin::{
    Connection, LinkEnd, Options, RecvError, Schema, Settings, channel,
    tunnel::{self, PumpError, Pumped, ReadHalf, Tunnel, WriteHalf, pump, splice},
};
use common::{
    links::{Far, Kind, link},
    noise::{Check, Noise},
    watchdog::Watchdog,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter},
    net::{TcpListener, TcpStream},
};

/// What the far end does with a tunnel.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, Schema)]
#[postcard(crate = adjoin::postcard_schema)]
enum Does {
    /// Writes what it reads, and shuts down at the end.
    Echo,
    /// Shuts down at once, and reads to the end.
    ShutDownFirst,
    /// Drops it.
    Drop,
    /// Breaks it off.
    Reset,
    /// Reads to the end, and writes nothing.
    Read,
    /// Writes for as long as it can, and then reads to the end.
    WriteThenRead,
    /// Checks what comes against a `Noise`.
    Check,
    /// Writes some, reads nothing, and drops it.
    Say,
    /// Keeps it.
    Hold,
}

/// How many bytes came, and how they ended: `None` at the end of file.
type Outcome = (u64, Option<String>);

#[adjoin::service]
trait Tunnels {
    async fn act(&self, does: Does, tunnel: Tunnel) -> Outcome;
    /// A tunnel that echoes.
    async fn open(&self) -> Tunnel;
    /// One direction alone.
    async fn length(&self, input: ReadHalf) -> u64;
    /// Carries the tunnel to a TCP service.
    async fn connect(&self, address: String, tunnel: Tunnel) -> Result<(u64, u64), String>;
}

struct Plain;

async fn read_out(mut input: impl AsyncRead + Unpin) -> Outcome {
    let (mut bytes, mut room) = (0, vec![0; 10_000]);
    loop {
        match input.read(&mut room).await {
            Ok(0) => return (bytes, None),
            Ok(read) => bytes += read as u64,
            Err(error) => return (bytes, Some(format!("{:?}", error.kind()))),
        }
    }
}

async fn copied(copy: impl Future<Output = io::Result<u64>>) -> Outcome {
    match copy.await {
        Ok(bytes) => (bytes, None),
        Err(error) => (0, Some(format!("{:?}: {error}", error.kind()))),
    }
}

impl Tunnels for Plain {
    async fn act(&self, does: Does, mut tunnel: Tunnel) -> Outcome {
        match does {
            Does::Echo => {
                let (mut input, mut output) = tunnel.into_split();
                let outcome = copied(tokio::io::copy(&mut input, &mut output)).await;
                output.shutdown().await.unwrap();
                outcome
            }
            Does::ShutDownFirst => {
                tunnel.shutdown().await.unwrap();
                tunnel.shutdown().await.unwrap();
                read_out(tunnel).await
            }
            Does::Drop => (0, None),
            Does::Reset => {
                tunnel.reset();
                (0, None)
            }
            Does::Read => read_out(tunnel).await,
            Does::WriteThenRead => {
                while tunnel.write_all(b"more").await.is_ok() {}
                read_out(tunnel).await
            }
            Does::Check => copied(tokio::io::copy(&mut tunnel, &mut Check(Noise::endless()))).await,
            Does::Say => {
                tunnel.write_all(b"leaving").await.unwrap();
                (0, None)
            }
            Does::Hold => std::future::pending().await,
        }
    }

    async fn open(&self) -> Tunnel {
        let (near, far) = tunnel::pair();
        tokio::spawn(Plain.act(Does::Echo, near));
        far
    }

    async fn length(&self, input: ReadHalf) -> u64 {
        read_out(input).await.0
    }

    async fn connect(&self, address: String, tunnel: Tunnel) -> Result<(u64, u64), String> {
        let socket = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let pumped = pump(socket, tunnel).await.map_err(|error| error.to_string())?;
        Ok((pumped.sent, pumped.received))
    }
}

fn serving() -> Options {
    Options::new().serve(TunnelsDispatcher::new(Plain))
}

#[cfg(target_os = "linux")]
#[test]
fn cell_entry() {
    common::links::serve_if_cell_with(serving);
}

struct Peer {
    far: TunnelsClient,
    connection: Connection,
    _far: Far,
}

impl Peer {
    /// A tunnel with which the far end does so, and what comes of that.
    fn tunnel(&self, does: Does) -> (Tunnel, tokio::task::JoinHandle<Outcome>) {
        let (near, far) = tunnel::pair();
        let client = self.far.clone();
        let call =
            async move { client.act(does, far).await.unwrap_or_else(|error| (0, Some(error.to_string()))) };
        (near, tokio::spawn(call))
    }
}

fn run<F: Future<Output = ()>>(kind: Kind, behaviour: impl Fn(Peer) -> F) {
    let _hang = Watchdog::seconds(300);
    let one = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let many = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for runtime in [one, many] {
        runtime.block_on(async {
            let (connection, far) = link(kind, Options::new(), serving()).await;
            behaviour(Peer { far: TunnelsClient::new(&connection), connection, _far: far }).await;
        });
    }
}

macro_rules! behaviours {
    ($($name:ident)*) => {
        mod local { $(#[test] fn $name() { super::run(super::Kind::Local, super::$name); })* }
        mod uds { $(#[test] fn $name() { super::run(super::Kind::Uds, super::$name); })* }
        mod tcp { $(#[test] fn $name() { super::run(super::Kind::Tcp, super::$name); })* }
        #[cfg(target_os = "linux")]
        mod shm { $(#[test] fn $name() { super::run(super::Kind::Shm, super::$name); })* }
        /// Through a proxy, from a socket into shared memory.
        #[cfg(target_os = "linux")]
        mod uds_proxy_shm {
            $(#[test] fn $name() {
                super::run(super::Kind::Proxied(&[super::Kind::Uds, super::Kind::Shm]), super::$name);
            })*
        }
    };
}

behaviours! {
    bytes_go_both_ways_and_each_way_ends_by_itself
    the_other_side_may_end_its_direction_first
    a_tunnel_that_is_dropped_ends_both_ways
    a_tunnel_that_is_reset_fails
    a_reader_that_leaves_breaks_the_pipe_and_nothing_else
    what_is_dropped_was_delivered
    the_end_of_the_link_is_an_error_that_says_so
    a_tunnel_may_be_returned
    a_direction_may_be_passed_alone
    what_was_read_in_part_is_passed_on_in_part
    chunks_of_any_size_are_exact
    lines_are_read_where_they_lie
    a_client_that_ends_first_gets_its_answer
    a_service_that_ends_first_hears_the_rest
    a_service_that_breaks_off_is_no_clean_end
    a_client_that_breaks_off_is_no_clean_end
    a_pump_that_is_dropped_is_no_clean_end
    a_pump_does_not_outlive_the_other_side
    who_talks_on_to_a_side_that_left_gets_what_that_said
    a_stream_that_buffers_is_flushed_while_nothing_comes
    two_tunnels_are_spliced
}

async fn bytes_go_both_ways_and_each_way_ends_by_itself(peer: Peer) {
    let (near, echoed) = peer.tunnel(Does::Echo);
    let (mut input, mut output) = near.into_split();
    let len = 3 << 20;
    let write = async {
        tokio::io::copy(&mut Noise::of(len), &mut output).await.unwrap();
        output.shutdown().await.unwrap();
        assert_eq!(output.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    };
    let mut check = Check(Noise::endless());
    let (read, ()) = tokio::join!(tokio::io::copy(&mut input, &mut check), write);
    assert_eq!(read.unwrap(), len);
    assert_eq!(input.read(&mut [0; 8]).await.unwrap(), 0, "the end stays the end");
    assert_eq!(echoed.await.unwrap(), (len, None));
}

async fn the_other_side_may_end_its_direction_first(peer: Peer) {
    let (mut near, outcome) = peer.tunnel(Does::ShutDownFirst);
    assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
    near.write_all(&[7; 100_000]).await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(outcome.await.unwrap(), (100_000, None));
}

/// Writes until that fails, and says why.
async fn broken(near: &mut (impl AsyncWrite + Unpin)) -> io::Error {
    loop {
        if let Err(error) = near.write_all(&[7; 1000]).await {
            return error;
        }
    }
}

async fn a_tunnel_that_is_dropped_ends_both_ways(peer: Peer) {
    let (mut near, outcome) = peer.tunnel(Does::Drop);
    assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(broken(&mut near).await.kind(), ErrorKind::BrokenPipe);
    near.shutdown().await.unwrap();
    assert_eq!(outcome.await.unwrap(), (0, None));
}

async fn a_tunnel_that_is_reset_fails(peer: Peer) {
    let (mut near, outcome) = peer.tunnel(Does::Reset);
    let error = near.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    assert!(matches!(inner, Some(RecvError::Reset)), "{error:?}");
    assert_eq!(broken(&mut near).await.kind(), ErrorKind::BrokenPipe);
    outcome.await.unwrap();

    let (near, outcome) = peer.tunnel(Does::Read);
    near.reset();
    assert_eq!(outcome.await.unwrap(), (0, Some("ConnectionReset".into())));
}

async fn a_reader_that_leaves_breaks_the_pipe_and_nothing_else(peer: Peer) {
    let (near, outcome) = peer.tunnel(Does::WriteThenRead);
    let (mut input, mut output) = near.into_split();
    input.read_exact(&mut [0; 100]).await.unwrap();
    drop(input);
    output.write_all(&[7; 100_000]).await.unwrap();
    drop(output);
    assert_eq!(outcome.await.unwrap(), (100_000, None));
}

async fn what_is_dropped_was_delivered(peer: Peer) {
    let (mut near, outcome) = peer.tunnel(Does::Read);
    near.write_all(&[7; 1_000_000]).await.unwrap();
    drop(near);
    assert_eq!(outcome.await.unwrap(), (1_000_000, None));
}

/// Waits until the other end was passed.
async fn passed(near: &Tunnel) {
    while !format!("{near:?}").contains("Some") {
        tokio::task::yield_now().await;
    }
}

async fn the_end_of_the_link_is_an_error_that_says_so(peer: Peer) {
    let (mut near, _outcome) = peer.tunnel(Does::Hold);
    passed(&near).await;
    near.write_all(b"all").await.unwrap();
    peer.connection.close().await;
    let error = near.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    assert!(matches!(inner, Some(RecvError::Ended(LinkEnd::Closed))), "{error:?}");
    assert_eq!(broken(&mut near).await.kind(), ErrorKind::ConnectionAborted);
}

async fn a_tunnel_may_be_returned(peer: Peer) {
    let mut near = peer.far.open().await.unwrap();
    near.write_all(b"there and back").await.unwrap();
    near.shutdown().await.unwrap();
    let mut text = String::new();
    near.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "there and back");
}

async fn a_direction_may_be_passed_alone(peer: Peer) {
    let (tx, rx) = channel();
    let mut output = WriteHalf::new(tx);
    let write = async {
        output.write_all(&[7; 300_000]).await.unwrap();
        drop(output);
    };
    let (length, ()) = tokio::join!(peer.far.length(ReadHalf::new(rx)), write);
    assert_eq!(length.unwrap(), 300_000);
}

async fn what_was_read_in_part_is_passed_on_in_part(peer: Peer) {
    let (mut near, mut far) = tunnel::pair();
    near.write_all(b"a head, and the rest").await.unwrap();
    near.write_all(b", and more").await.unwrap();
    let mut head = [0; 8];
    far.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"a head, ");
    let client = peer.far.clone();
    let echoing = tokio::spawn(async move { client.act(Does::Echo, far).await.unwrap() });
    near.write_all(b", and all").await.unwrap();
    near.shutdown().await.unwrap();
    let mut text = String::new();
    near.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "and the rest, and more, and all");
    assert_eq!(echoing.await.unwrap(), (31, None));
}

async fn chunks_of_any_size_are_exact(peer: Peer) {
    for (chunk, len) in [(0, 3_000), (1, 3_000), (4093, 100_000), (1 << 16, 500_000), (1 << 30, 3_000_000)] {
        let (near, checked) = peer.tunnel(Does::Check);
        let mut near = near.chunk_size(chunk);
        passed(&near).await; // chunks keep the limits of the link, once there is one
        let mut noise = Noise::of(len);
        while noise.left > 0 {
            let bytes = noise.next(1 << 20).to_vec();
            near.write_all(&bytes).await.unwrap();
        }
        near.shutdown().await.unwrap();
        assert_eq!(checked.await.unwrap(), (len, None), "chunks of {chunk}");
    }
}

async fn lines_are_read_where_they_lie(peer: Peer) {
    let mut near = peer.far.open().await.unwrap();
    near.write_all(b"one\ntwo\nth").await.unwrap();
    near.write_all(b"ree\n").await.unwrap();
    near.shutdown().await.unwrap();
    let (mut lines, mut line) = (Vec::new(), String::new());
    while near.read_line(&mut line).await.unwrap() > 0 {
        lines.push(std::mem::take(&mut line));
    }
    assert_eq!(lines, ["one\n", "two\n", "three\n"]);
}

/// A client's socket whose other end is pumped through the far end to a TCP service, which is the other socket.
struct Pumping {
    client: TcpStream,
    service: TcpStream,
    near: tokio::task::JoinHandle<Result<Pumped, PumpError>>,
    far: tokio::task::JoinHandle<Result<(u64, u64), String>>,
}

async fn pumping(peer: &Peer) -> Pumping {
    let (front, back) = (listener().await, listener().await);
    let client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
    let socket = front.accept().await.unwrap().0;
    let (near, far) = tunnel::pair();
    let (gateway, address) = (peer.far.clone(), back.local_addr().unwrap().to_string());
    let far =
        tokio::spawn(async move { gateway.connect(address, far).await.map_err(|error| error.to_string()) });
    let near = tokio::spawn(pump(socket, near));
    let service = back.accept().await.unwrap().0;
    Pumping { client, service, near, far }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn text(socket: &mut TcpStream) -> String {
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    text
}

async fn a_client_that_ends_first_gets_its_answer(peer: Peer) {
    let mut pumping = pumping(&peer).await;
    pumping.client.write_all(b"question").await.unwrap();
    pumping.client.shutdown().await.unwrap();
    assert_eq!(text(&mut pumping.service).await, "question");
    pumping.service.write_all(b"an answer").await.unwrap();
    drop(pumping.service);
    assert_eq!(text(&mut pumping.client).await, "an answer");
    let pumped = pumping.near.await.unwrap().unwrap();
    assert_eq!((pumped.sent, pumped.received), (8, 9));
    assert_eq!(pumping.far.await.unwrap(), Ok((9, 8)));
}

async fn a_service_that_ends_first_hears_the_rest(peer: Peer) {
    let mut pumping = pumping(&peer).await;
    pumping.service.write_all(b"welcome").await.unwrap();
    pumping.service.shutdown().await.unwrap();
    assert_eq!(text(&mut pumping.client).await, "welcome");
    pumping.client.write_all(b"thanks").await.unwrap();
    drop(pumping.client);
    assert_eq!(text(&mut pumping.service).await, "thanks");
    let pumped = pumping.near.await.unwrap().unwrap();
    assert_eq!((pumped.sent, pumped.received), (6, 7));
    assert_eq!(pumping.far.await.unwrap(), Ok((7, 6)));
}

/// Ends a connection as a crash does, with a reset.
fn break_off(socket: TcpStream) {
    socket.set_zero_linger().unwrap();
}

async fn a_service_that_breaks_off_is_no_clean_end(peer: Peer) {
    let mut pumping = pumping(&peer).await;
    pumping.service.write_all(b"half of ").await.unwrap();
    pumping.client.read_exact(&mut [0; 8]).await.unwrap();
    break_off(pumping.service);
    let error = pumping.near.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, PumpError::Tunnel(inner) if inner.kind() == ErrorKind::ConnectionReset),
        "{error:?}"
    );
    let far = pumping.far.await.unwrap().unwrap_err();
    assert!(far.contains("beside the tunnel"), "{far}");
    assert_eq!(pumping.client.read(&mut [0; 8]).await.unwrap_or(0), 0, "nothing comes any more");
}

async fn a_client_that_breaks_off_is_no_clean_end(peer: Peer) {
    let mut pumping = pumping(&peer).await;
    pumping.client.write_all(b"half of ").await.unwrap();
    pumping.service.read_exact(&mut [0; 8]).await.unwrap();
    break_off(pumping.client);
    let error = pumping.near.await.unwrap().unwrap_err();
    assert!(matches!(error, PumpError::Stream(_)), "{error:?}");
    let far = pumping.far.await.unwrap().unwrap_err();
    assert!(far.contains("in the tunnel"), "{far}");
    assert_eq!(pumping.service.read(&mut [0; 8]).await.unwrap_or(0), 0, "nothing comes any more");
}

async fn a_pump_that_is_dropped_is_no_clean_end(peer: Peer) {
    let mut pumping = pumping(&peer).await;
    pumping.client.write_all(b"half of ").await.unwrap();
    pumping.service.read_exact(&mut [0; 8]).await.unwrap();
    pumping.near.abort();
    let far = pumping.far.await.unwrap().unwrap_err();
    assert!(far.contains("in the tunnel"), "{far}");
}

/// The client says nothing and stays: nothing but the tunnel tells the pump.
async fn a_pump_does_not_outlive_the_other_side(peer: Peer) {
    let front = listener().await;
    let mut client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
    let socket = front.accept().await.unwrap().0;
    let (near, _dropped) = peer.tunnel(Does::Drop);
    assert_eq!(pump(socket, near).await.unwrap(), Pumped::default());
    assert_eq!(text(&mut client).await, "");
}

async fn who_talks_on_to_a_side_that_left_gets_what_that_said(peer: Peer) {
    let (near, _said) = peer.tunnel(Does::Say);
    let (mut client, stream) = tokio::io::duplex(100);
    let pumping = tokio::spawn(pump(stream, near));
    assert_eq!(broken(&mut client).await.kind(), ErrorKind::BrokenPipe);
    let mut said = String::new();
    client.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "leaving");
    assert_eq!(pumping.await.unwrap().unwrap().received, 7);
}

async fn a_stream_that_buffers_is_flushed_while_nothing_comes(peer: Peer) {
    let (near, _echoed) = peer.tunnel(Does::Echo);
    let (mut client, stream) = tokio::io::duplex(100);
    let _pumping = tokio::spawn(pump(BufWriter::new(stream), near));
    for _ in 0..3 {
        client.write_all(b"ping").await.unwrap();
        client.read_exact(&mut [0; 4]).await.unwrap();
    }
}

async fn two_tunnels_are_spliced(peer: Peer) {
    let (middle, echoed) = peer.tunnel(Does::Echo);
    let (mut near, other) = tunnel::pair();
    let splicing = tokio::spawn(splice(other, middle));
    near.write_all(&[7; 30_000]).await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(read_out(&mut near).await, (30_000, None));
    let pumped = splicing.await.unwrap().unwrap();
    assert_eq!((pumped.sent, pumped.received), (30_000, 30_000));
    assert_eq!(echoed.await.unwrap(), (30_000, None));

    let (middle, _reset) = peer.tunnel(Does::Reset);
    let (mut near, other) = tunnel::pair();
    let splicing = tokio::spawn(splice(other, middle));
    let error = near.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "and not a clean end");
    assert!(matches!(splicing.await.unwrap(), Err(PumpError::Tunnel(_))));

    let (middle, _dropped) = peer.tunnel(Does::Drop);
    let (_near, other) = tunnel::pair();
    assert_eq!(
        splice(other, middle).await.unwrap(),
        Pumped::default(),
        "though nothing comes, and nobody left here"
    );
}

/// A chunk that no link's settings could foresee, sent before there was a link.
#[test]
fn a_chunk_that_exceeds_the_window_of_a_later_link_breaks_off() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let small = || Settings::default().initial_channel_credit(1000);
        let (connection, _far) =
            link(Kind::Local, Options::new().settings(small()), serving().settings(small())).await;
        let far = TunnelsClient::new(&connection);
        let (mut near, other) = tunnel::pair();
        near.write_all(&[7; 2000]).await.unwrap();
        assert_eq!(far.act(Does::Read, other).await.unwrap(), (0, Some("ConnectionReset".into())));
        assert_eq!(broken(&mut near).await.kind(), ErrorKind::InvalidInput);
    });
}

/// A chunk within the window, and as long as the ring.
#[cfg(target_os = "linux")]
#[test]
fn a_chunk_that_exceeds_the_ring_travels_in_a_block() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let settings = Settings::default().ring_bytes(1 << 16).initial_channel_credit(1 << 18);
        let near = Options::new().settings(settings);
        let cell = adjoin::spawn(common::links::cell_command(), near).await.unwrap();
        let far = TunnelsClient::new(cell.connection());
        let (near, other) = tunnel::pair();
        let reading = tokio::spawn(async move { far.act(Does::Read, other).await.unwrap() });
        passed(&near).await;
        let mut near = near.chunk_size(1 << 16);
        near.write_all(&[7; 1 << 16]).await.unwrap();
        near.write_all(&[7; 1000]).await.unwrap();
        near.shutdown().await.unwrap();
        assert_eq!(reading.await.unwrap(), ((1 << 16) + 1000, None));
    });
}

/// A peer that is killed, in the middle of bytes both ways.
#[cfg(target_os = "linux")]
#[test]
fn a_peer_that_is_killed_fails_what_reads_and_what_writes() {
    let _hang = Watchdog::seconds(60);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let cell = adjoin::spawn(common::links::cell_command(), Options::new()).await.unwrap();
        let far = TunnelsClient::new(cell.connection());
        let (near, other) = tunnel::pair();
        let echoing = tokio::spawn(async move { far.act(Does::Echo, other).await });
        let (mut input, mut output) = near.into_split();
        let writing = tokio::spawn(async move { tokio::io::copy(&mut Noise::endless(), &mut output).await });
        let mut front = vec![0; 1 << 20];
        input.read_exact(&mut front).await.unwrap();
        cell.kill().unwrap();
        let (_, end) = read_out(input).await;
        assert_eq!(end.as_deref(), Some("ConnectionAborted"));
        let error = writing.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        assert!(error.to_string().contains("signal 9"), "{error}");
        echoing.await.unwrap().unwrap_err();
    });
}
