//! The first bytes of a Response's payload (protocol section 4): postcard of `Result<T, RpcError<E>>`.

/// What a Response says before its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// `00`, and the value.
    Ok,
    /// `01 00`, and the service's own error.
    User,
    /// `01 01`.
    UnknownMethod,
    /// `01 02`.
    InvalidPayload,
    /// `01 03`.
    Cancelled,
}

impl Verdict {
    /// The bytes that stand before the value.
    pub(crate) const fn bytes(self) -> &'static [u8] {
        match self {
            Verdict::Ok => &[OK],
            Verdict::User => &[ERR, USER],
            Verdict::UnknownMethod => &[ERR, UNKNOWN_METHOD],
            Verdict::InvalidPayload => &[ERR, INVALID_PAYLOAD],
            Verdict::Cancelled => &[ERR, CANCELLED],
        }
    }

    /// Reads the verdict of a payload, and what follows it. `None`: it is no Response's payload.
    pub(crate) fn split(payload: &[u8]) -> Option<(Verdict, &[u8])> {
        match payload {
            [OK, value @ ..] => Some((Verdict::Ok, value)),
            [ERR, USER, error @ ..] => Some((Verdict::User, error)),
            [ERR, UNKNOWN_METHOD] => Some((Verdict::UnknownMethod, &[])),
            [ERR, INVALID_PAYLOAD] => Some((Verdict::InvalidPayload, &[])),
            [ERR, CANCELLED] => Some((Verdict::Cancelled, &[])),
            _ => None,
        }
    }

    /// "If the Response is an error of the protocol, the call's channels are dead and their ids are spent."
    pub(crate) const fn kills_channels(self) -> bool {
        matches!(self, Verdict::UnknownMethod | Verdict::InvalidPayload | Verdict::Cancelled)
    }
}

// Discriminants of `Result` and of `RpcError`, as postcard writes them.
const OK: u8 = 0;
const ERR: u8 = 1;
const USER: u8 = 0;
const UNKNOWN_METHOD: u8 = 1;
const INVALID_PAYLOAD: u8 = 2;
const CANCELLED: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verdict_reads_back_from_its_bytes() {
        for verdict in
            [Verdict::Ok, Verdict::User, Verdict::UnknownMethod, Verdict::InvalidPayload, Verdict::Cancelled]
        {
            assert_eq!(Verdict::split(verdict.bytes()), Some((verdict, &[][..])));
        }
    }

    #[test]
    fn verdicts_are_what_serde_makes_of_the_protocols_type() {
        #[derive(serde::Serialize)]
        enum RpcError {
            User(u8),
            UnknownMethod,
            InvalidPayload,
            Cancelled,
        }
        let encode = |value: &Result<u8, RpcError>| postcard::to_extend(value, Vec::new()).unwrap();
        assert_eq!(Verdict::split(&encode(&Ok(9))), Some((Verdict::Ok, &[9][..])));
        assert_eq!(Verdict::split(&encode(&Err(RpcError::User(7)))), Some((Verdict::User, &[7][..])));
        assert_eq!(encode(&Err(RpcError::UnknownMethod)), Verdict::UnknownMethod.bytes());
        assert_eq!(encode(&Err(RpcError::InvalidPayload)), Verdict::InvalidPayload.bytes());
        assert_eq!(encode(&Err(RpcError::Cancelled)), Verdict::Cancelled.bytes());
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for bytes in [&[][..], &[2], &[1], &[1, 4], &[1, 1, 0]] {
            assert_eq!(Verdict::split(bytes), None);
        }
    }
}
