use std::collections::VecDeque;

use proptest::{collection::vec, prelude::*};

use super::*;

/// All that can happen to the elements of a stream.
#[derive(Clone, Debug)]
enum Step {
    /// One drain of the link brings these.
    Arrive(Vec<Vec<u8>>),
    /// So many of zero bytes, each in a drain of its own.
    Trickle(u8),
    /// The reader takes so many, if there are.
    Read(u8),
    /// The reader's half is passed on: what it had taken out goes with it.
    Pass,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let element = prop_oneof![Just(Vec::new()), vec(any::<u8>(), 0..4), vec(any::<u8>(), 0..300)];
    vec(
        prop_oneof![
            4 => vec(element, 0..12).prop_map(Step::Arrive),
            2 => any::<u8>().prop_map(Step::Trickle),
            4 => any::<u8>().prop_map(Step::Read),
            1 => Just(Step::Pass),
        ],
        0..60,
    )
}

/// A stream's queue and its reader.
#[derive(Default)]
struct Stream {
    queue: Elements,
    reading: Reading,
    taken: usize,
}

impl Stream {
    fn arrive(&mut self, elements: &[Vec<u8>]) {
        let mut run = Elements::default();
        for element in elements {
            // Long ones that came in a block of their own, and others.
            if element.len() >= 8 && element.len().is_multiple_of(2) {
                run.push_kept(Kept::Shared(Shared::copy_from_slice(element)));
            } else {
                run.push(element);
            }
        }
        self.queue.append(&mut run);
        assert!(run.is_empty());
    }

    fn read(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(element) = self.reading.next() {
                let element = element.to_vec();
                if element.len() % 5 == 3 {
                    self.reading.put_back(element.len());
                    assert_eq!(self.reading.next(), Some(&element[..]), "put back, it is the next again");
                }
                self.taken += self.reading.take_taken();
                return Some(element);
            }
            if !self.reading.refill(&mut self.queue) {
                return None;
            }
        }
    }

    fn pass(&mut self) {
        let mut unread = self.reading.unread();
        unread.append(&mut self.queue);
        self.reading = Reading::of(unread);
        self.queue = Elements::default();
    }

    /// What is stored of all that waits: elements with bytes, and runs of others.
    fn stored(&self) -> usize {
        self.queue.bytes.len() + self.reading.batch.bytes.len() - self.reading.at
    }
}

/// The most that is stored for these elements.
fn most(elements: &VecDeque<Vec<u8>>) -> usize {
    let full = elements.iter().filter(|element| !element.is_empty());
    full.map(|element| LENGTH + COUNT + LENGTH + element.len()).sum()
}

proptest! {
    #[test]
    fn elements_come_out_as_they_went_in_and_take_no_more_room_than_those_with_bytes(steps in steps()) {
        let (mut stream, mut oracle, mut read) = (Stream::default(), VecDeque::<Vec<u8>>::new(), 0);
        for step in steps {
            match step {
                Step::Arrive(elements) => {
                    stream.arrive(&elements);
                    oracle.extend(elements);
                }
                Step::Trickle(times) => {
                    (0..times).for_each(|_| stream.arrive(&[Vec::new()]));
                    oracle.extend((0..times).map(|_| Vec::new()));
                }
                Step::Read(times) => {
                    for _ in 0..times {
                        let expected = oracle.pop_front();
                        read += expected.as_ref().map_or(0, Vec::len);
                        prop_assert_eq!(stream.read(), expected);
                        prop_assert_eq!(stream.taken, read);
                    }
                }
                Step::Pass => stream.pass(),
            }
            prop_assert!(stream.stored() <= most(&oracle), "{} > {}", stream.stored(), most(&oracle));
        }
        while let Some(expected) = oracle.pop_front() {
            prop_assert_eq!(stream.read(), Some(expected));
        }
        prop_assert_eq!(stream.read(), None);
    }
}

const MANY: u32 = 10_000_000;

#[test]
fn ten_million_empty_elements_in_one_drain_take_no_memory() {
    let mut stream = Stream::default();
    let mut run = Elements::default();
    (0..MANY).for_each(|_| run.push(&[]));
    stream.queue.append(&mut run);
    assert_eq!((stream.queue.capacity(), run.capacity()), (0, 0));
    assert_eq!((0..MANY).filter(|_| stream.read() == Some(Vec::new())).count(), MANY as usize);
    assert_eq!(stream.read(), None);
}

#[test]
fn ten_million_empty_elements_in_a_drain_each_take_no_memory() {
    let (mut queue, mut run) = (Elements::default(), Elements::default());
    queue.push(&[7]);
    let before = queue.capacity();
    for _ in 0..MANY {
        run.push(&[]);
        queue.append(&mut run);
    }
    assert_eq!((queue.capacity(), run.capacity()), (before, 0));
}

#[test]
fn empty_elements_among_others_take_memory_only_as_those_have_bytes() {
    let mut queue = Elements::default();
    for number in 0..1_000 {
        let mut run = Elements::default();
        (0..10_000).for_each(|_| run.push(&[]));
        run.push(&[number as u8]);
        run.push(&[]);
        queue.append(&mut run);
    }
    // The run's head and the element: and half of a vector that grows may be unused.
    assert!(queue.capacity() <= 2 * 1_000 * (LENGTH + COUNT + LENGTH + 1), "{}", queue.capacity());
    let mut reading = Reading::default();
    assert!(reading.refill(&mut queue));
    let mut read = 0;
    while reading.next().is_some() {
        read += 1;
    }
    assert_eq!(read, 1_000 * 10_002);
}
