//! What the integration tests share: a watchdog, the service that the suite of behaviours calls, every link to
//! call it over, and peers that speak the wire by themselves.
#![allow(dead_code, missing_docs, unreachable_pub)]

#[cfg(target_os = "linux")]
pub mod counts;
#[cfg(target_os = "linux")]
pub mod limited;
pub mod links;
pub mod noise;
#[cfg(unix)]
pub mod raw;
pub mod suite;
pub mod watchdog;
pub mod wire;
