//! The threads that close: [`FEW_THREADS`] for all links together. One that is held up for [`LONG`] does not count among the
//! few any more: others take its place, up to [`MOST_THREADS`].
//!
//! What remains: as many links as there are threads at most, one after the other, can hold up all of them, for as long as the
//! system lets them. What others have to close waits then, and a link of which more wait than may is over.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use super::{Closer, LONG};

/// The threads of this process.
pub(super) static THREADS: Threads =
    Threads(Mutex::new(Served { links: VecDeque::new(), threads: Vec::new(), substitute: false }));

/// How many there are for all links, but for those that are held up.
pub(super) const FEW_THREADS: usize = 16;
/// How many there are with those.
const MOST_THREADS: usize = 256;

pub(super) struct Threads(Mutex<Served>);

struct Served {
    /// Links that have something to close, and no thread at it. Each is here once, or served by one thread.
    links: VecDeque<Arc<Closer>>,
    /// Since when each thread is at what it does. `None`: there is no such thread any more.
    threads: Vec<Option<Instant>>,
    /// One thread more waits until one is held up.
    substitute: bool,
}

/// What a thread is known by.
type Place = usize;

impl Served {
    /// Finds a place for one thread more. `None`: there are as many as may be.
    fn place(&mut self) -> Option<Place> {
        let there = self.threads.iter().flatten();
        let held_up = there.clone().filter(|since| since.elapsed() > LONG).count();
        if there.count() >= MOST_THREADS.min(FEW_THREADS + held_up) {
            return None;
        }
        let free = self.threads.iter().position(Option::is_none).unwrap_or(self.threads.len());
        self.threads.resize(self.threads.len().max(free + 1), None);
        self.begins(free);
        Some(free)
    }

    /// A thread begins with something new.
    fn begins(&mut self, place: Place) {
        if let Some(since) = self.threads.get_mut(place) {
            *since = Some(Instant::now());
        }
    }

    /// A thread is over.
    fn ends(&mut self, place: Place) {
        if let Some(since) = self.threads.get_mut(place) {
            *since = None;
        }
    }
}

impl Threads {
    /// How many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().threads.iter().flatten().count()
    }

    fn lock(&self) -> MutexGuard<'_, Served> {
        // As in `Closer::lock`.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a link a thread, or lets it wait for one.
    pub(super) fn serve(&'static self, link: Arc<Closer>) {
        let mut served = self.lock();
        served.links.push_back(link);
        self.start_with(served);
    }

    /// Starts one more, if links wait for one and there may be. Where the system starts none, they wait for the next time.
    pub(super) fn start(&'static self) {
        self.start_with(self.lock());
    }

    fn start_with(&'static self, mut served: MutexGuard<'_, Served>) {
        if served.links.is_empty() {
            return;
        }
        let place = served.place();
        if place.is_none() && std::mem::replace(&mut served.substitute, true) {
            return;
        }
        drop(served);
        let started = thread::Builder::new().name("adjoin-close".into()).spawn(move || {
            if let Some(place) = place.or_else(|| self.substitute()) {
                self.run(place);
            }
        });
        if started.is_err() {
            let mut served = self.lock();
            match place {
                Some(place) => served.ends(place),
                None => served.substitute = false,
            }
        }
    }

    /// Waits for a place while links wait for a thread.
    fn substitute(&self) -> Option<Place> {
        loop {
            thread::sleep(LONG);
            let mut served = self.lock();
            let place = served.place();
            if place.is_some() || served.links.is_empty() {
                served.substitute = false;
                return place;
            }
        }
    }

    /// Does one thing for each link in turn, until there is nothing to do.
    fn run(&'static self, place: Place) {
        let mut again = None;
        loop {
            let mut served = self.lock();
            served.links.extend(again.take());
            let Some(link) = served.links.pop_front() else {
                served.ends(place);
                return;
            };
            served.begins(place);
            self.start_with(served); // for those that still wait
            again = link.do_one().then_some(link);
        }
    }
}
