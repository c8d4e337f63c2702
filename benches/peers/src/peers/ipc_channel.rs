//! ipc-channel: a channel of bytes each way, which are sockets below. What is lent goes as its shared memory, which is
//! made, filled and mapped for each payload.

use std::{collections::VecDeque, hint::black_box, mem, path::Path};

use ipc_channel::{
    IpcError,
    ipc::{
        self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender, IpcSharedMemory,
    },
};
use serde::{Deserialize, Serialize};

use crate::{
    Failure,
    case::{Case, Work},
    far,
    measure::{Begun, Run},
    payload::{self, FILL, Reading, Totals},
    peer::Peer,
};

/// What one side sends through.
#[derive(Serialize, Deserialize)]
struct Outward {
    bytes: IpcBytesSender,
    memory: IpcSender<IpcSharedMemory>,
}

/// Where the other side receives.
struct Inward {
    bytes: IpcBytesReceiver,
    memory: IpcReceiver<IpcSharedMemory>,
}

/// A way out and a way in.
pub(crate) struct Channels {
    outward: Outward,
    inward: Inward,
}

/// The first message: how the server sends to its client, and through what it gets what it needs to receive.
#[derive(Serialize, Deserialize)]
struct Hello {
    to_client: Outward,
    to_server: IpcSender<Outward>,
}

fn pair() -> Result<(Outward, Inward), Failure> {
    let (bytes, bytes_in) = ipc::bytes_channel()?;
    let (memory, memory_in) = ipc::channel()?;
    Ok((Outward { bytes, memory }, Inward { bytes: bytes_in, memory: memory_in }))
}

impl Peer for Channels {
    fn can(case: &Case) -> bool {
        case.work != Work::StreamUntouched // its memory is filled when it is made
    }

    fn serve(case: &Case, _: &Path) -> Result<(), Failure> {
        let (server, name) = IpcOneShotServer::<Hello>::new()?;
        far::announce(&name)?;
        let (_, hello) = server.accept()?;
        let (to_server, inward) = pair()?;
        hello.to_server.send(to_server)?;
        match (Channels { outward: hello.to_client, inward }).answer(case) {
            Ok(()) | Err(IpcError::Disconnected) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn open(_: &Case, address: &str) -> Result<Self, Failure> {
        let (to_client, inward) = pair()?;
        let (to_server, its_end) = ipc::channel()?;
        IpcSender::connect(address.to_owned())?.send(Hello { to_client, to_server })?;
        Ok(Channels { outward: its_end.recv()?, inward })
    }

    fn work(&mut self, run: &Run) -> Result<u64, Failure> {
        match run.case.work {
            Work::Call => self.calls(run),
            Work::CallLent => self.calls_lent(run),
            _ => self.stream(run),
        }
    }

    fn close(self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Channels {
    /// Sends as many as are to be in flight, and for each answer the next.
    fn calls(&self, run: &Run) -> Result<u64, Failure> {
        let mut data = run.payload();
        let mut sent = VecDeque::new();
        let (mut answered, mut next, mut over) = (0, 0, false);
        loop {
            while sent.len() < run.case.inflight && !over {
                let begun = run.begin(next);
                over = begun == Begun::Over;
                if !over {
                    payload::stamp(&mut data, next);
                    self.outward.bytes.send(&data)?;
                    sent.push_back(begun);
                    next += 1;
                }
            }
            let Some(begun) = sent.pop_front() else { return Ok(answered) };
            let answer = self.inward.bytes.recv()?;
            run.end(begun, answered, &answer)?;
            answered += 1;
        }
    }

    fn calls_lent(&self, run: &Run) -> Result<u64, Failure> {
        let mut n = 0;
        loop {
            let begun = run.begin(n);
            if begun == Begun::Over {
                return Ok(n);
            }
            self.outward.memory.send(filled(run.case.size, n))?;
            let answer = self.inward.memory.recv()?;
            run.end(begun, n, &answer)?;
            n += 1;
        }
    }

    /// Sends elements, and at last an empty one, which asks for what was received.
    fn stream(&self, run: &Run) -> Result<u64, Failure> {
        let mut n = 0;
        if run.case.work.is_lent() {
            while !run.is_over(n) {
                self.outward.memory.send(filled(run.case.size, n))?;
                n += 1;
            }
            self.outward.memory.send(IpcSharedMemory::from_bytes(&[]))?;
        } else {
            let mut data = run.payload();
            while !run.is_over(n) {
                payload::stamp(&mut data, n);
                self.outward.bytes.send(&data)?;
                n += 1;
            }
            self.outward.bytes.send(&[])?;
        }
        let answer = self.inward.bytes.recv()?;
        let mut words = [0; 3];
        for (word, bytes) in words.iter_mut().zip(answer.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into()?);
        }
        run.compare(n, Totals::from_words(words))
    }

    /// The server: answers, or adds up, until the client is gone.
    fn answer(&self, case: &Case) -> Result<(), IpcError> {
        let reading = case.reading();
        let mut totals = Totals::default();
        loop {
            match case.work {
                Work::Call => {
                    let data = self.inward.bytes.recv()?;
                    black_box(payload::sum(&data, reading));
                    self.outward.bytes.send(&data)?;
                }
                Work::CallLent => {
                    let data = self.inward.memory.recv()?;
                    black_box(payload::sum(&data, reading));
                    let number = data.first_chunk().copied().map_or(0, u64::from_le_bytes);
                    self.outward.memory.send(filled(data.len(), number))?;
                }
                Work::Stream => self.read(&self.inward.bytes.recv()?, &mut totals, reading)?,
                _ => self.read(&self.inward.memory.recv()?, &mut totals, reading)?,
            }
        }
    }

    /// Reads an element, or says what was read.
    fn read(&self, element: &[u8], totals: &mut Totals, reading: Reading) -> Result<(), IpcError> {
        if element.is_empty() {
            let words = mem::take(totals).to_words();
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            return Ok(self.outward.bytes.send(&bytes)?);
        }
        totals.read(element, reading);
        Ok(())
    }
}

/// New memory with a payload.
fn filled(size: usize, number: u64) -> IpcSharedMemory {
    let mut memory = IpcSharedMemory::from_byte(FILL, size);
    // SAFETY: nobody else has it yet.
    payload::stamp(unsafe { memory.deref_mut() }, number);
    memory
}
