//! Why a call was cancelled by the side that should have served it, or has: a word more than the protocol has.
//!
//! It travels in the metadata of a Cancelled Response. A peer that does not know the keys finds the call cancelled,
//! which is what it is to it.

use super::errors::CallError;
use crate::session::metadata::Metadata;

/// What is known of a call that was answered Cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It was not served, and did not run.
    Rejected(String),
    /// It was handed on, and where to is gone: whether it ran is not known.
    UpstreamEnded(String),
    /// It ran, and what it returned cannot be sent.
    Unsent(String),
}

/// The keys in the metadata; the value is a text for people.
const REJECTED: &str = "adjoin-rejected";
const UPSTREAM_ENDED: &str = "adjoin-upstream-ended";
const UNSENT: &str = "adjoin-unsent";

/// Bytes of a reason that travel at most; longer ones are cut.
pub(crate) const MAX_REASON: usize = 1024;

impl Reason {
    /// The reason that came with a Response.
    pub(crate) fn of(metadata: &Metadata) -> Option<Reason> {
        let text = |key| metadata.get(key)?.as_str().map(str::to_owned);
        let rejected = text(REJECTED).map(Reason::Rejected);
        let ended = || text(UPSTREAM_ENDED).map(Reason::UpstreamEnded);
        rejected.or_else(ended).or_else(|| text(UNSENT).map(Reason::Unsent))
    }

    /// The metadata that says so.
    pub(crate) fn to_metadata(&self) -> Metadata {
        let (key, text) = match self {
            Reason::Rejected(text) => (REJECTED, text),
            Reason::UpstreamEnded(text) => (UPSTREAM_ENDED, text),
            Reason::Unsent(text) => (UNSENT, text),
        };
        let mut end = text.len().min(MAX_REASON);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut metadata = Metadata::new();
        metadata.push(key, &text[..end]);
        metadata
    }

    /// What the caller is told.
    pub(crate) fn into_error<E>(self) -> CallError<E> {
        match self {
            Reason::Rejected(reason) => CallError::Rejected { reason },
            Reason::UpstreamEnded(reason) => CallError::UpstreamEnded { reason },
            Reason::Unsent(reason) => CallError::Unanswered { reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_read_as_it_was_written_and_cut_where_a_character_ends() {
        let rejected = Reason::Rejected("no token".into());
        assert_eq!(Reason::of(&rejected.to_metadata()), Some(rejected));
        let ended = Reason::UpstreamEnded("é".repeat(MAX_REASON));
        let cut = Reason::UpstreamEnded("é".repeat(MAX_REASON / 2));
        assert_eq!(Reason::of(&ended.to_metadata()), Some(cut));
        let unsent = Reason::Unsent("too long".into());
        assert_eq!(Reason::of(&unsent.to_metadata()), Some(unsent));
        assert_eq!(Reason::of(&Metadata::new()), None);
    }
}
