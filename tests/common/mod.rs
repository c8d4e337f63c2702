//! What the integration tests share: a watchdog, the service that the suite of behaviours calls, and every
//! link to call it over.
#![allow(dead_code, missing_docs, unreachable_pub)]

#[cfg(target_os = "linux")]
pub mod counts;
pub mod links;
pub mod suite;
pub mod watchdog;
