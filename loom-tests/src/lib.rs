//! Loom models of adjoin-shm-layout; run with `RUSTFLAGS="--cfg loom" cargo test -p adjoin-loom-tests
//! --release`.
