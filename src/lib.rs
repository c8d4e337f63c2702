//! adjoin
#![deny(unsafe_code)]
#![allow(dead_code)]

mod error;
mod link;
mod settings;

pub use error::{LinkEnd, Violation};
pub use settings::{Settings, Waiting};
