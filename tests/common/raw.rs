//! A peer on a Unix socket that writes what it wants, and reads what comes back or does not.

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use super::wire::Message;

/// The writing side. It connected, so it is the link's initiator. Dropped, it hangs up, and nothing is listened to any
/// more.
pub struct Raw {
    stream: UnixStream,
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Raw {
    /// Connects and greets.
    pub fn connect(path: &Path) -> Self {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(&Message::hello().frame()).unwrap();
        let mut theirs = vec![1];
        while theirs.last() != Some(&0) {
            let end = theirs.len();
            theirs.push(0);
            stream.read_exact(&mut theirs[end..]).unwrap();
        }
        let len = theirs.len() - 1;
        assert!(matches!(Message::of_frame(&mut theirs[1..len]), Message::Hello(_)));
        Raw { stream }
    }

    /// Writes frames. `false`: the other side has hung up.
    pub fn write(&mut self, frames: &[u8]) -> bool {
        match self.stream.write_all(frames) {
            Ok(()) => true,
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Writes one message.
    pub fn say(&mut self, message: &Message) -> bool {
        self.write(&message.frame())
    }

    /// From now on reads everything that comes back, in a thread of its own.
    pub fn listen(&self) -> Listener {
        let listener = Listener::default();
        let (mut stream, heard) = (self.stream.try_clone().unwrap(), Arc::clone(&listener.shared));
        thread::spawn(move || {
            let (mut buffer, mut end) = (vec![0; 256 << 10], 0);
            loop {
                let len = stream.read(&mut buffer[end..]).unwrap_or(0);
                if len == 0 {
                    heard.note(|heard| heard.over = true);
                    return;
                }
                end += len;
                heard.note(|heard| end = heard.frames(&mut buffer, end));
            }
        });
        listener
    }
}

/// What has come back, as far as anybody asks.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Responses.
    pub answers: u64,
    /// Responses that say Cancelled.
    pub cancelled: u64,
    /// The answer to the request with the highest id there is has come.
    pub last_answered: bool,
    /// Connects that were accepted, and rejected.
    pub accepted: u64,
    pub rejected: u64,
    pub resets: u64,
    pub elements: u64,
    /// Channels that Responses opened.
    pub opened: u64,
    /// Goodbyes to the link, by their reasons.
    pub goodbyes: Vec<String>,
    /// Nothing comes any more.
    pub over: bool,
}

impl Heard {
    /// Takes what is complete, and moves the rest to the front. Returns how much that is.
    fn frames(&mut self, buffer: &mut Vec<u8>, end: usize) -> usize {
        let mut start = 0;
        while let Some(len) = buffer[start..end].iter().position(|byte| *byte == 0) {
            self.message(Message::of_frame(&mut buffer[start..start + len]));
            start += len + 1;
        }
        buffer.copy_within(start..end, 0);
        if end - start == buffer.len() {
            buffer.resize(2 * buffer.len(), 0);
        }
        end - start
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Response { request_id, channels, payload, .. } => {
                self.answers += 1;
                self.cancelled += u64::from(payload == CANCELLED);
                self.last_answered |= request_id == u64::MAX;
                self.opened += channels.len() as u64;
            }
            Message::Accept { .. } => self.accepted += 1,
            Message::Reject { .. } => self.rejected += 1,
            Message::Reset { .. } => self.resets += 1,
            Message::Data { .. } => self.elements += 1,
            Message::Goodbye { conn_id: 0, reason } => self.goodbyes.push(reason),
            Message::Goodbye { .. } | Message::Close { .. } | Message::Credit { .. } => {}
            other => panic!("not asked for: {other:?}"),
        }
    }
}

/// The payload of a Response that says Cancelled.
const CANCELLED: [u8; 2] = [1, 3];

/// The reading side.
#[derive(Default)]
pub struct Listener {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    heard: Mutex<Heard>,
    more: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, note: impl FnOnce(&mut Heard)) {
        note(&mut self.lock());
        self.more.notify_all();
    }
}

impl Listener {
    /// What has come so far.
    pub fn heard(&self) -> Heard {
        self.shared.lock().clone()
    }

    /// Waits for something to be heard. The watchdog bounds it.
    pub fn wait(&self, until: impl Fn(&Heard) -> bool) {
        let mut heard = self.shared.lock();
        while !until(&heard) {
            assert!(!heard.over, "the link is over: {heard:?}");
            heard = self.shared.more.wait(heard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the end of the link.
    pub fn over(&self) {
        let mut heard = self.shared.lock();
        while !heard.over {
            heard = self.shared.more.wait(heard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
