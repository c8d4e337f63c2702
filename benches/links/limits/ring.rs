//! The rings of the layout crate, without a session.

use std::{hint::spin_loop, io::Read, process::Stdio, time::Duration};

use adjoin_shm_layout::{
    Attached, Geometry, Halves, Mapped, OwnHalf, PeerHalf, Reserve, RingWriter, Side, attach,
};

use super::{Server, memory, repeat, say_ready, timed};
use crate::{
    Failure,
    args::{Case, Link, Workload},
    measure::Figures,
};

type Ring = Attached<Mapped<memory::Shared, memory::Shared>>;

/// Frames of payload, and the last one, which says how many there were.
const PAYLOAD: u32 = 1;
const LAST: u32 = 2;
/// Elements of a stream that are published at once.
const BATCH: u64 = 16;

/// As the library's own, with the same rings; longer ones where payloads would not fit four times.
fn geometry(case: &Case) -> Geometry {
    let ring_bytes = (4 * case.size).next_power_of_two().max(1 << 20);
    Geometry { ring_bytes, arena_bytes: 64 << 10, max_payload_size: 64 << 10, ..Geometry::default() }
}

pub(super) fn measure(cpu: Option<usize>, case: &Case, time: Duration) -> Result<Figures, Failure> {
    let geometry = geometry(case);
    let (own, own_name) = memory::file(geometry.half_len())?;
    let (far, far_name) = memory::file(geometry.half_len())?;
    // SAFETY: the file is new, so all zero, and the server reads this half only.
    let half = unsafe { OwnHalf::create(memory::Shared::map(&own)?, geometry)? };
    let address = format!("{own_name},{far_name}");
    let mut server = Server::start(Link::Ring, cpu, case, &address, Stdio::piped())?;
    server.is_ready()?;
    let peer = PeerHalf::check(memory::Shared::map(&far)?, &geometry)?;
    let mut ring = attach(half, peer, Side::Acceptor)?;
    let data: Vec<u8> = (0..case.size).map(|at| at as u8).collect();
    let figures = timed(time, &server, |until, latency| match case.workload {
        Workload::Unary => unary(&mut ring, case, data.clone(), until, latency),
        _ => stream(&mut ring, &data, until, latency),
    })?;
    send(&mut ring.writer, LAST, &[])?;
    let _ = ring.writer.publish();
    server.reap()?;
    Ok(figures)
}

/// Keeps so many in flight: one more is sent for each that comes back.
fn unary(
    ring: &mut Ring,
    case: &Case,
    mut data: Vec<u8>,
    until: std::time::Instant,
    latency: &mut hdrhistogram::Histogram<u64>,
) -> Result<u64, Failure> {
    let (ahead, mut back) = (u64::from(case.inflight) - 1, vec![0; data.len()]);
    for _ in 0..ahead {
        send(&mut ring.writer, PAYLOAD, &data)?;
    }
    let _ = ring.writer.publish();
    let n = repeat(until, ahead == 0, latency, |n| {
        if ahead == 0 {
            data[0] = n as u8;
        }
        send(&mut ring.writer, PAYLOAD, &data)?;
        // With more in flight, what is there is answered first, and all of it published at once.
        if ring.reader.is_empty()? {
            let _ = ring.writer.publish();
        }
        receive(ring, &mut back)?;
        if back == data { Ok(()) } else { Err("an echo is not what was sent".into()) }
    })?;
    let _ = ring.writer.publish();
    for _ in 0..ahead {
        receive(ring, &mut back)?;
    }
    Ok(n + ahead)
}

fn stream(
    ring: &mut Ring,
    data: &[u8],
    until: std::time::Instant,
    latency: &mut hdrhistogram::Histogram<u64>,
) -> Result<u64, Failure> {
    let n = repeat(until, false, latency, |n| {
        send(&mut ring.writer, PAYLOAD, data)?;
        if n % BATCH == 0 {
            let _ = ring.writer.publish();
        }
        Ok(())
    })?;
    send(&mut ring.writer, LAST, &n.to_le_bytes())?;
    let _ = ring.writer.publish();
    let mut count = [0; 8];
    receive(ring, &mut count)?;
    if u64::from_le_bytes(count) == n { Ok(n) } else { Err("not all elements arrived".into()) }
}

fn send<H: Halves>(writer: &mut RingWriter<H>, tag: u32, data: &[u8]) -> Result<(), Failure> {
    loop {
        match writer.reserve(data.len()) {
            Ok(mut room) => {
                room.write_at(0, data);
                room.commit(tag, data.len());
                return Ok(());
            }
            Err(Reserve::Full) => {
                let _ = writer.publish();
                spin_loop();
            }
            Err(other) => return Err(format!("{other:?}").into()),
        }
    }
}

/// Waits for a frame, and copies it out; its tag.
fn receive(ring: &mut Ring, to: &mut [u8]) -> Result<u32, Failure> {
    loop {
        if let Some(frame) = ring.reader.next_frame()? {
            let (tag, len) = (frame.tag(), frame.len().min(to.len()));
            frame.copy_to(0, &mut to[..len]);
            frame.release();
            if ring.reader.should_publish() {
                let _ = ring.reader.publish_consumed();
            }
            return Ok(tag);
        }
        let _ = ring.reader.publish_consumed();
        spin_loop();
    }
}

pub(super) fn serve(case: &Case, address: &str) -> Result<(), Failure> {
    let geometry = geometry(case);
    let (far, own) = address.split_once(',').ok_or("there have to be two numbers")?;
    // SAFETY: the file is new, so all zero, and the client reads this half only.
    let half = unsafe { OwnHalf::create(memory::Shared::map(&memory::inherited(own)?)?, geometry)? };
    let peer = PeerHalf::read(memory::Shared::map(&memory::inherited(far)?)?)?;
    let mut ring = attach(half, peer, Side::Initiator)?;
    // A parent that dies leaves nobody behind that spins.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    say_ready()?;
    let mut data = vec![0; case.size.max(8) as usize];
    let mut count = 0_u64;
    loop {
        let tag = receive(&mut ring, &mut data)?;
        if case.workload == Workload::Unary {
            if tag == LAST {
                return Ok(());
            }
            send(&mut ring.writer, PAYLOAD, &data[..case.size as usize])?;
            if ring.reader.is_empty()? {
                let _ = ring.writer.publish();
            }
            continue;
        }
        if tag == PAYLOAD {
            count += 1;
            continue;
        }
        if count == 0 {
            return Ok(());
        }
        send(&mut ring.writer, LAST, &count.to_le_bytes())?;
        let _ = ring.writer.publish();
        count = 0;
    }
}
