//! iceoryx2, polled: request-response for calls, publish-subscribe for streams, where a sender waits for room instead of
//! overwriting what is oldest.
//!
//! A stream's figures, and the end, are asked for by requests of a length that no payload has.

use std::{hint, mem::MaybeUninit, path::Path};

use iceoryx2::{
    active_request::ActiveRequest,
    pending_response::PendingResponse,
    port::{client::Client, publisher::Publisher, server::Server, subscriber::Subscriber},
    prelude::*,
    service::port_factory::{publish_subscribe, request_response},
};

use crate::{
    Failure,
    case::{Case, Work},
    far,
    measure::{Begun, Run},
    payload::{self, FILL, Totals},
    peer::Peer,
};

type Bytes = [u8];
type Calls = request_response::PortFactory<ipc::Service, Bytes, (), Bytes, ()>;
type Elements = publish_subscribe::PortFactory<ipc::Service, Bytes, ()>;
type Request = ActiveRequest<ipc::Service, Bytes, (), Bytes, ()>;
type Pending = PendingResponse<ipc::Service, Bytes, (), Bytes, ()>;

/// A client of iceoryx2.
pub(crate) struct Iceoryx2 {
    client: Client<ipc::Service, Bytes, (), Bytes, ()>,
    publisher: Publisher<ipc::Service, Bytes, ()>,
    /// What was copied out of an answer.
    answer: Vec<u8>,
    _services: (Calls, Elements),
}

/// A request for what was received since this was asked last.
const TOTALS: usize = 1;
/// A request to end.
const END: usize = 2;

impl Peer for Iceoryx2 {
    fn can(_: &Case) -> bool {
        true
    }

    fn serve(case: &Case, _: &Path) -> Result<(), Failure> {
        let name = format!("adjoin-peers/{}", std::process::id());
        let (calls, elements) = services(case, &name)?;
        let server = calls.server_builder().initial_max_slice_len(room(case)).create()?;
        let subscriber = elements.subscriber_builder().create()?;
        let worker =
            Worker { case: *case, server, subscriber, copied: Vec::new(), totals: Totals::default() };
        far::announce(&name)?;
        worker.run()
    }

    fn open(case: &Case, address: &str) -> Result<Self, Failure> {
        let (calls, elements) = services(case, address)?;
        let client = calls.client_builder().initial_max_slice_len(room(case)).create()?;
        let publisher = elements
            .publisher_builder()
            .initial_max_slice_len(room(case))
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()?;
        let client = Iceoryx2 { client, publisher, answer: Vec::new(), _services: (calls, elements) };
        // A subscriber connects when it looks for elements. Sent before, more of them than its buffer holds would be lost.
        client.ask(TOTALS)?;
        Ok(client)
    }

    fn work(&mut self, run: &Run) -> Result<u64, Failure> {
        match run.case.work {
            Work::Call if run.case.inflight == 1 => self.calls(run),
            Work::Call => self.calls_at_once(run),
            Work::CallLent => self.calls_lent(run),
            Work::Stream => self.stream(run),
            Work::StreamLent | Work::StreamUntouched => self.stream_lent(run),
        }
    }

    fn close(self) -> Result<(), Failure> {
        self.ask(END).map(drop)
    }
}

impl Iceoryx2 {
    /// Copies in, sends, polls, copies out.
    fn calls(&mut self, run: &Run) -> Result<u64, Failure> {
        let mut data = run.payload();
        let mut n = 0;
        loop {
            let begun = run.begin(n);
            if begun == Begun::Over {
                return Ok(n);
            }
            payload::stamp(&mut data, n);
            let pending = self.client.loan_slice_uninit(data.len())?.write_from_slice(&data).send()?;
            let answer = loop {
                match pending.receive()? {
                    Some(answer) => break answer,
                    None => hint::spin_loop(),
                }
            };
            copy(answer.payload(), &mut self.answer);
            run.end(begun, n, &self.answer)?;
            n += 1;
        }
    }

    /// As [`calls`](Iceoryx2::calls), with many requests that are polled in turn.
    fn calls_at_once(&mut self, run: &Run) -> Result<u64, Failure> {
        let mut data = run.payload();
        let mut callers: Vec<(u64, Begun, Option<Pending>)> = Vec::new();
        callers.resize_with(run.case.inflight, || (0, Begun::Over, None));
        let (mut open, mut n) = (run.case.inflight, 0);
        for caller in &mut callers {
            *caller = self.call(run, 0, &mut data)?;
        }
        while open > 0 {
            for caller in &mut callers {
                let (number, begun, Some(pending)) = &caller else { continue };
                let Some(answer) = pending.receive()? else { continue };
                copy(answer.payload(), &mut self.answer);
                drop(answer);
                let number = *number;
                run.end(*begun, number, &self.answer)?;
                n += 1;
                caller.2 = None; // over, and with it a place for the next
                *caller = self.call(run, number + 1, &mut data)?;
                open -= usize::from(caller.2.is_none());
            }
        }
        Ok(n)
    }

    /// Sends the request of this number, unless the time is over.
    fn call(
        &self,
        run: &Run,
        number: u64,
        data: &mut [u8],
    ) -> Result<(u64, Begun, Option<Pending>), Failure> {
        let begun = run.begin(number);
        if begun == Begun::Over {
            return Ok((number, begun, None));
        }
        payload::stamp(data, number);
        let pending = self.client.loan_slice_uninit(data.len())?.write_from_slice(data).send()?;
        Ok((number, begun, Some(pending)))
    }

    /// Each side writes what it sends where it lies, and reads what it gets there.
    fn calls_lent(&mut self, run: &Run) -> Result<u64, Failure> {
        let mut n = 0;
        loop {
            let begun = run.begin(n);
            if begun == Begun::Over {
                return Ok(n);
            }
            let mut request = self.client.loan_slice_uninit(run.case.size)?;
            fill(request.payload_mut(), &n.to_le_bytes());
            // SAFETY: all of it was filled.
            let pending = unsafe { request.assume_init() }.send()?;
            let answer = loop {
                match pending.receive()? {
                    Some(answer) => break answer,
                    None => hint::spin_loop(),
                }
            };
            run.end(begun, n, answer.payload())?;
            n += 1;
        }
    }

    fn stream(&mut self, run: &Run) -> Result<u64, Failure> {
        let mut data = run.payload();
        let mut n = 0;
        while !run.is_over(n) {
            payload::stamp(&mut data, n);
            self.publisher.loan_slice_uninit(data.len())?.write_from_slice(&data).send()?;
            n += 1;
        }
        run.compare(n, self.ask(TOTALS)?)
    }

    fn stream_lent(&mut self, run: &Run) -> Result<u64, Failure> {
        let mut n = 0_u64;
        while !run.is_over(n) {
            let mut element = self.publisher.loan_slice_uninit(run.case.size)?;
            let memory = element.payload_mut();
            if run.case.work == Work::StreamLent {
                fill(memory, &n.to_le_bytes());
            } else {
                stamp(memory, &n.to_le_bytes());
            }
            // SAFETY: filled, or else memory of a file that the system has zeroed, in which any byte is a `u8`.
            unsafe { element.assume_init() }.send()?;
            n += 1;
        }
        run.compare(n, self.ask(TOTALS)?)
    }

    /// Asks for what was received, or for the end.
    fn ask(&self, what: usize) -> Result<Totals, Failure> {
        let pending = self.client.loan_slice_uninit(what)?.write_from_fn(|_| 0).send()?;
        loop {
            if let Some(answer) = pending.receive()? {
                let mut words = [0; 3];
                for (word, bytes) in words.iter_mut().zip(answer.payload().chunks_exact(8)) {
                    *word = u64::from_le_bytes(bytes.try_into()?);
                }
                return Ok(Totals::from_words(words));
            }
            hint::spin_loop();
        }
    }
}

/// The server.
struct Worker {
    case: Case,
    server: Server<ipc::Service, Bytes, (), Bytes, ()>,
    subscriber: Subscriber<ipc::Service, Bytes, ()>,
    /// What was copied out of a request or an element.
    copied: Vec<u8>,
    totals: Totals,
}

impl Worker {
    /// Polls, until it is asked to end. There is nothing that would tell it that its client is gone.
    fn run(mut self) -> Result<(), Failure> {
        let is_call = self.case.work.is_call();
        loop {
            if !is_call && self.ingest()? {
                continue;
            }
            match self.server.receive()? {
                Some(request) if request.payload().len() <= END => {
                    while self.ingest()? {}
                    let totals = std::mem::take(&mut self.totals).to_words();
                    let bytes: Vec<u8> = totals.iter().flat_map(|word| word.to_le_bytes()).collect();
                    request.loan_slice_uninit(bytes.len())?.write_from_slice(&bytes).send()?;
                    if request.payload().len() == END {
                        return Ok(());
                    }
                }
                Some(request) => self.answer(&request)?,
                None => hint::spin_loop(),
            }
        }
    }

    /// Reads an element of a stream, if there is one.
    fn ingest(&mut self) -> Result<bool, Failure> {
        let Some(sample) = self.subscriber.receive()? else { return Ok(false) };
        let reading = self.case.reading();
        if self.case.work.is_lent() {
            self.totals.read(sample.payload(), reading);
        } else {
            copy(sample.payload(), &mut self.copied);
            self.totals.read(&self.copied, reading);
        }
        Ok(true)
    }

    fn answer(&mut self, request: &Request) -> Result<(), Failure> {
        let data = request.payload();
        if !self.case.work.is_lent() {
            copy(data, &mut self.copied);
            hint::black_box(payload::sum(&self.copied, self.case.reading()));
            request.loan_slice_uninit(data.len())?.write_from_slice(&self.copied).send()?;
            return Ok(());
        }
        hint::black_box(payload::sum(data, self.case.reading()));
        let mut answer = request.loan_slice_uninit(data.len())?;
        fill(answer.payload_mut(), &data[..8]);
        // SAFETY: all of it was filled.
        unsafe { answer.assume_init() }.send()?;
        Ok(())
    }
}

/// Copies what was received into a vector that is used again.
fn copy(data: &[u8], into: &mut Vec<u8>) {
    into.clear();
    into.extend_from_slice(data);
}

/// Writes a whole payload, with the number that is its beginning.
fn fill(memory: &mut [MaybeUninit<u8>], number: &[u8]) {
    memory.fill(MaybeUninit::new(FILL));
    stamp(memory, number);
}

/// Writes a payload's number.
fn stamp(memory: &mut [MaybeUninit<u8>], number: &[u8]) {
    for (byte, value) in memory.iter_mut().zip(number) {
        byte.write(*value);
    }
}

/// The two services of a case, the same on both sides.
fn services(case: &Case, name: &str) -> Result<(Calls, Elements), Failure> {
    set_log_level(LogLevel::Fatal);
    let node = NodeBuilder::new().create::<ipc::Service>()?;
    let calls = node
        .service_builder(&format!("{name}/calls").as_str().try_into()?)
        .request_response::<Bytes, Bytes>()
        .enable_safe_overflow_for_requests(false)
        .enable_safe_overflow_for_responses(false)
        .max_active_requests_per_client(case.inflight)
        .max_loaned_requests(1)
        .max_response_buffer_size(1)
        .max_servers(1)
        .max_clients(1)
        .open_or_create()?;
    let elements = node
        .service_builder(&format!("{name}/elements").as_str().try_into()?)
        .publish_subscribe::<Bytes>()
        .enable_safe_overflow(false)
        .history_size(0)
        .subscriber_max_buffer_size(case.window())
        .subscriber_max_borrowed_samples(1)
        .max_publishers(1)
        .max_subscribers(1)
        .open_or_create()?;
    Ok((calls, elements))
}

/// The longest payload: those of the case, and the three words of the figures.
fn room(case: &Case) -> usize {
    case.size.max(size_of::<[u64; 3]>())
}
