//! The reason for rejecting a server's certificate.

use crate::error::Error;
use std::fmt;

/// A reason, with a hint for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    reason: String,
    hint: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(reason: impl Into<String>, hint: &'static str) -> Refusal {
        Refusal { reason: reason.into(), hint: Some(hint) }
    }

    /// A reason without a hint.
    pub(super) fn plain(reason: impl Into<String>) -> Refusal {
        Refusal { reason: reason.into(), hint: None }
    }

    /// The error, which requires another certificate or setting.
    pub(super) fn into_error(self) -> Error {
        let error = Error::usage(self.reason);
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Refusal {}
