//! Whose failure it is that a WAL file was not stored: one of this host's says nothing of the repository.

use crate::error::Error;

/// Why a WAL file was not stored.
#[derive(Debug)]
pub enum PutError {
    /// This host's: the file cannot be read, or is wrong, or what does not fit into memory has no place.
    Local(Error),
    /// The repository's.
    Repository(Error),
}

impl PutError {
    /// What failed.
    pub fn error(&self) -> &Error {
        match self {
            PutError::Local(error) | PutError::Repository(error) => error,
        }
    }

    /// The same failure, worded by somebody who knows more of this host.
    #[must_use]
    pub fn map_local(self, worded: impl FnOnce(Error) -> Error) -> PutError {
        match self {
            PutError::Local(error) => PutError::Local(worded(error)),
            PutError::Repository(error) => PutError::Repository(error),
        }
    }

    /// The same failure below a broader one.
    #[must_use]
    pub fn context(self, message: &str) -> PutError {
        match self {
            PutError::Local(error) => PutError::Local(error.context(message)),
            PutError::Repository(error) => PutError::Repository(error.context(message)),
        }
    }
}

impl From<PutError> for Error {
    fn from(error: PutError) -> Error {
        match error {
            PutError::Local(error) | PutError::Repository(error) => error,
        }
    }
}
