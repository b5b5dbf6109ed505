//! Whether a failure to store a file concerns this host or the repository.

use crate::error::Error;

/// Why a file was not stored. A failure of this host says nothing about the repository.
#[derive(Debug)]
pub enum PutError {
    /// This host's: the file cannot be read or is invalid, or a temporary file cannot be written.
    Local(Error),
    /// The repository's.
    Repository(Error),
}

impl PutError {
    /// The error itself.
    pub fn error(&self) -> &Error {
        match self {
            PutError::Local(error) | PutError::Repository(error) => error,
        }
    }

    /// The same failure; a local one as `worded` by a caller that knows more about this host.
    #[must_use]
    pub fn map_local(self, worded: impl FnOnce(Error) -> Error) -> PutError {
        match self {
            PutError::Local(error) => PutError::Local(worded(error)),
            PutError::Repository(error) => PutError::Repository(error),
        }
    }

    /// The same failure with context.
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
