//! The byte ring: wrap, pad, full and empty.
#![cfg(loom)]

mod common;

use adjoin_shm_layout::model::pair;
use common::{take, try_send};
use loom::thread;

/// A ring of four granules, and frames of one, two and two: the third finds the ring full, needs a pad, and
/// overwrites the first two. The reader finds the ring empty in between, and gives room back frame by frame.
///
/// Seen to fail with Relaxed in place of: the Release store of `head` in `RingWriter::publish`, its Acquire
/// load in `RingReader::refresh`, the Release store of `consumed` in `publish_consumed`, its Acquire load in
/// `RingWriter::refresh`.
#[test]
fn a_frame_is_read_whole_and_in_order_across_the_wrap() {
    const FRAMES: [(u8, usize); 3] = [(1, 0), (2, 8), (3, 8)];
    loom::model(|| {
        let (mut here, there) = pair(32, 2);
        let mut writer = there.writer;
        let sending = thread::spawn(move || {
            for (byte, len) in FRAMES {
                while !try_send(&mut writer, byte, len) {
                    thread::yield_now();
                }
                let _ = writer.publish();
            }
        });
        for (byte, len) in FRAMES {
            while here.reader.is_empty().unwrap() {
                thread::yield_now();
            }
            take(here.reader.next_frame().unwrap().expect("not empty"), byte, len);
            let _ = here.reader.publish_consumed();
        }
        sending.join().unwrap();
        assert!(here.reader.is_empty().unwrap());
    });
}

/// Two frames in one batch fill the ring, twice: the reader sees both or none, and gives back both at once.
///
/// Seen to fail with the same four weakened.
#[test]
fn a_batch_is_published_and_given_back_at_once() {
    loom::model(|| {
        let (mut here, there) = pair(32, 2);
        let mut writer = there.writer;
        let sending = thread::spawn(move || {
            for batch in 0..2 {
                while !try_send(&mut writer, 2 * batch, 8) {
                    thread::yield_now();
                }
                assert!(try_send(&mut writer, 2 * batch + 1, 8), "room comes back for both");
                assert!(!try_send(&mut writer, 9, 0), "full");
                let _ = writer.publish();
            }
        });
        for batch in 0..2 {
            while here.reader.is_empty().unwrap() {
                thread::yield_now();
            }
            take(here.reader.next_frame().unwrap().expect("the first"), 2 * batch, 8);
            take(here.reader.next_frame().unwrap().expect("the second, of the same batch"), 2 * batch + 1, 8);
            let _ = here.reader.publish_consumed();
        }
        sending.join().unwrap();
    });
}
