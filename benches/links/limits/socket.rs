//! A Unix socket, without a session and without a runtime.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use super::{Server, repeat, timed};
use crate::{
    Failure,
    args::{Case, Link, Workload},
    measure::Figures,
};

/// Bytes of a stream that are written at once.
const BATCH: usize = 64 << 10;

pub(super) fn measure(cpu: Option<usize>, case: &Case, time: Duration) -> Result<Figures, Failure> {
    let (mut near, far) = UnixStream::pair()?;
    let server = Server::start(Link::Socket, cpu, case, "inherited", OwnedFd::from(far).into())?;
    let size = case.size as usize;
    let data: Vec<u8> = (0..case.size).map(|at| at as u8).collect();
    let mut back = data.clone();
    let figures = timed(time, &server, |until, latency| match case.workload {
        Workload::Unary => repeat(until, true, latency, |n| {
            back[0] = n as u8;
            near.write_all(&back)?;
            near.read_exact(&mut back)?;
            if back[0] == n as u8 && back[1..] == data[1..] {
                Ok(())
            } else {
                Err("an echo is not what was sent".into())
            }
        }),
        _ => {
            let batch = data.repeat((BATCH / size).max(1));
            let each = (batch.len() / size) as u64;
            let writes = repeat(until, false, latency, |_| Ok(near.write_all(&batch)?))?;
            Ok(writes * each)
        }
    })?;
    // What is still on its way is read: some hundred KiB, of a stream of seconds.
    near.shutdown(std::net::Shutdown::Write)?;
    io::copy(&mut near, &mut io::sink())?;
    server.reap()?;
    Ok(figures)
}

pub(super) fn serve(case: &Case) -> Result<(), Failure> {
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    if case.workload == Workload::Unary {
        let mut data = vec![0; case.size as usize];
        while socket.read_exact(&mut data).is_ok() {
            socket.write_all(&data)?;
        }
        return Ok(());
    }
    let mut data = vec![0; BATCH.max(case.size as usize)];
    while socket.read(&mut data)? > 0 {}
    Ok(())
}
