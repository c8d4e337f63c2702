//! The descriptors that came with a message, until somebody takes them.

use super::{errors::refusal, hub::Hub};
use crate::link::descriptors::Descriptors;

/// The descriptors of a message.
pub(super) enum Carried {
    Here(Descriptors),
    /// They were closed: more than this side takes, or than it can have open.
    Lost(String),
}

/// What is said of descriptors that the system has closed.
const NO_ROOM: &str = "this process may not have so many descriptors open (RLIMIT_NOFILE)";

impl Carried {
    /// What came: `None`, if the system has closed it.
    pub(super) fn arrived(hub: &Hub, descriptors: Option<Descriptors>) -> Self {
        let Some(descriptors) = descriptors else { return Carried::Lost(NO_ROOM.into()) };
        match hub.descriptors.check(descriptors.len()) {
            Ok(()) => Carried::Here(descriptors),
            Err(fault) => Carried::Lost(refusal(fault).to_string()),
        }
    }

    /// They came with a request, and are held here for as long as that runs.
    ///
    /// # Errors
    ///
    /// They were lost, or too many are here, and they are closed: why.
    pub(super) fn hold(self, hub: &Hub) -> Result<Descriptors, String> {
        match self {
            Carried::Here(descriptors) => hub.held.hold_descriptors(descriptors.len()).map(|()| descriptors),
            Carried::Lost(why) => Err(why),
        }
    }
}
