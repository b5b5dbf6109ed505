//! A file as the server sends it.

use crate::error::Error;
use std::io;

/// A file of an archive, before its content.
pub(super) struct SentFile {
    /// Path relative to the data directory.
    pub path: Vec<u8>,
    /// Length in bytes.
    pub bytes: u64,
    /// Permission bits.
    pub mode: u32,
    /// Last modification, in seconds since 1970.
    pub modified_unix_s: i64,
}

/// Extracts the pgark error that passed through an archive reader, or wraps an error of the archive itself.
pub(super) fn of_stream(error: io::Error, what: &str) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::damaged(what.to_owned()).caused_by(error),
    }
}
