use adjoin_shm_layout::Memory;
use rustix::{
    fs::{MemfdFlags, SealFlags},
    mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mprotect, munmap},
};

use super::*;

const GEOMETRY: Geometry = Geometry {
    ring_bytes: 8192,
    channel_slots: 64,
    max_payload_size: 1024,
    initial_channel_credit: 1024,
    arena_blocks: 8,
    arena_bytes: 2 << 12,
};

const ALL: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

/// A file of shared memory as a peer might make it.
fn memory(len: u64, reserved: u64, seals: SealFlags) -> OwnedFd {
    let half = fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    fs::ftruncate(&half, len).unwrap();
    if reserved > 0 {
        fs::fallocate(&half, FallocateFlags::empty(), 0, reserved).unwrap();
    }
    fs::fcntl_add_seals(&half, seals).unwrap();
    half
}

#[test]
fn a_half_that_one_side_makes_is_taken_by_the_other() {
    let (own, descriptor) = create(&GEOMETRY).unwrap();
    let peer = open(&descriptor, &GEOMETRY).unwrap();
    assert_eq!(own.geometry(), peer.geometry());
}

#[test]
fn a_half_with_other_limits_is_refused() {
    let (_own, descriptor) = create(&GEOMETRY).unwrap();
    let expected = Geometry { max_payload_size: 1000, ..GEOMETRY };
    let Err(SegmentError::Layout(error)) = open(&descriptor, &expected) else { panic!("was taken") };
    assert_eq!((error.field, error.found), ("max_payload_size", 1024));
}

#[test]
fn whoever_receives_a_half_can_neither_write_it_nor_change_its_length() {
    let (_own, half) = create(&GEOMETRY).unwrap();
    let len = usize::try_from(GEOMETRY.half_len()).unwrap();
    let (write, read) = (ProtFlags::READ | ProtFlags::WRITE, ProtFlags::READ);
    let null = std::ptr::null_mut();
    // SAFETY: in bounds and aligned, alone: a new mapping where the kernel wants it, which nothing looks at.
    // Alive: until it is unmapped below; the writable one must not come to be.
    let (writable, readable) = unsafe {
        (
            mmap(null, len, write, MapFlags::SHARED, &half, 0),
            mmap(null, len, read, MapFlags::SHARED, &half, 0).unwrap(),
        )
    };
    assert_eq!(writable.unwrap_err(), Errno::PERM);
    // SAFETY: in bounds and aligned: the mapping made above, whole. Alone: nothing looks at it. Alive:
    // unmapped last.
    let (protected, removed) = unsafe {
        let flags = MprotectFlags::READ | MprotectFlags::WRITE;
        let results = (mprotect(readable, len, flags), madvise(readable, len, Advice::LinuxRemove));
        munmap(readable, len).unwrap();
        results
    };
    assert_eq!(protected.unwrap_err(), Errno::ACCESS);
    assert!(removed.is_err());
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let by_path = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&half));
    assert_eq!(rustix::io::write(&half, b"x").unwrap_err(), Errno::PERM);
    assert_eq!(fs::ftruncate(&half, 0).unwrap_err(), Errno::PERM);
    assert_eq!(fs::ftruncate(&half, GEOMETRY.half_len() * 2).unwrap_err(), Errno::PERM);
    assert_eq!(fs::fallocate(&half, punch, 0, 4096).unwrap_err(), Errno::PERM);
    assert_eq!(fs::fcntl_add_seals(&half, SealFlags::WRITE).unwrap_err(), Errno::PERM);
    if let Ok(mut reopened) = File::options().write(true).open(by_path) {
        assert!(io::Write::write(&mut reopened, b"x").is_err());
    }
}

#[test]
fn a_half_that_lacks_a_seal_is_refused_by_its_name() {
    let len = GEOMETRY.half_len();
    for (flag, seal) in [
        (SealFlags::SHRINK, Seal::Shrink),
        (SealFlags::GROW, Seal::Grow),
        (SealFlags::FUTURE_WRITE, Seal::FutureWrite),
        (SealFlags::SEAL, Seal::Seal),
    ] {
        let half = memory(len, len, ALL.difference(flag));
        let error = open(&half, &GEOMETRY).unwrap_err();
        assert!(matches!(error, SegmentError::Unsealed(missing) if missing == seal), "{error}");
        assert!(error.to_string().contains(&seal.to_string()));
    }
}

#[test]
fn a_half_of_another_length_or_with_holes_is_refused_with_both_numbers() {
    let expected = GEOMETRY.half_len();
    let error = open(memory(expected - 4096, expected - 4096, ALL), &GEOMETRY).unwrap_err();
    let SegmentError::Size { found, expected: wanted } = error else { panic!("{error}") };
    assert_eq!((found, wanted), (expected - 4096, expected));
    let error = open(memory(expected, 4096, ALL), &GEOMETRY).unwrap_err();
    let reserved = GEOMETRY.arena_offset().get();
    assert!(matches!(error, SegmentError::Holes { found: 4096, expected: e } if e == reserved), "{error}");
    open(memory(expected, reserved, ALL), &GEOMETRY).map(drop).expect_err("its header is empty");
}

#[test]
fn what_is_no_memfd_is_refused() {
    let (pipe, _writer) = io::pipe().unwrap();
    let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    file.set_len(GEOMETRY.half_len()).unwrap();
    for descriptor in [OwnedFd::from(pipe), file.into()] {
        let error = open(&descriptor, &GEOMETRY).unwrap_err();
        assert!(matches!(error, SegmentError::NotMemory), "{error}");
    }
    // On a tmpfs, but no memfd: it cannot carry the seals.
    if let Ok(file) = tempfile::tempfile_in("/dev/shm") {
        file.set_len(GEOMETRY.half_len()).unwrap();
        assert!(open(&file, &GEOMETRY).is_err());
    }
}

#[test]
fn a_half_that_was_never_laid_out_is_refused_by_the_field() {
    let len = GEOMETRY.half_len();
    let Err(SegmentError::Layout(error)) = open(memory(len, len, ALL), &GEOMETRY) else {
        panic!("was taken")
    };
    assert_eq!(error.field, "magic");
}

#[test]
fn a_mapping_is_as_long_as_its_half() {
    let half = File::from(memory(8192, 8192, SealFlags::empty()));
    assert_eq!(Mapping::writable(&half, 8192).unwrap().byte_len(), 8192);
    assert_eq!(Mapping::read_only(&half, 8192).unwrap().byte_len(), 8192);
}
