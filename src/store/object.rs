//! Objects on their way into a store and out of it.

use super::ObjectKey;
use crate::codec::Digest;
use crate::error::{Error, Result};
use std::ops::ControlFlow;

/// Takes an object's name, relative to the key below which it was found, and decides whether to go on.
pub type ObjectVisitor<'a> = &'a mut dyn FnMut(&str, ObjectInfo) -> ControlFlow<()>;

/// What is known of an object before its first byte is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewObject {
    /// Length of the header that [`ObjectWriter::write_header`] fills in at the end; 0 for none. Requires
    /// [`Capabilities::header_last`](super::Capabilities::header_last).
    pub header_bytes: usize,
    /// The digest of the decoded content, for tools that look at objects without reading them. See
    /// [`Capabilities::keeps_digest`](super::Capabilities::keeps_digest).
    pub digest: Option<Digest>,
}

/// Writes an object.
pub trait ObjectWriter: Send {
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// As [`ObjectWriter::write`]; a store that keeps the bytes in memory need not copy them.
    fn write_owned(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.write(&bytes)
    }

    /// Fills in the header, once, directly before [`ObjectWriter::finish`].
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) unless it has [`NewObject::header_bytes`] bytes.
    fn write_header(&mut self, header: &[u8]) -> Result<()>;

    /// Makes the object durable, confirms what the store holds, and gives it its name unless that name exists.
    ///
    /// When this returns [`PutOutcome::Created`], the object survives a power cut and its bytes were confirmed.
    fn finish(self: Box<Self>) -> Result<PutOutcome>;
}

/// Reads an object.
pub trait ObjectReader: Send {
    /// Appends the next bytes to `buffer`; returns their number, 0 at the object's end.
    fn read(&mut self, buffer: &mut Vec<u8>) -> Result<usize>;

    /// Reads up to the end of the small object `key`.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if more than `bytes_max` bytes follow.
    fn read_rest(&mut self, key: &ObjectKey, bytes_max: u64) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        while self.read(&mut content)? > 0 {
            if content.len() as u64 > bytes_max {
                return Err(Error::damaged(format!("object \"{key}\" has more than {bytes_max} bytes")));
            }
        }
        Ok(content)
    }
}

/// Where reading an object begins, and how far it is expected to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadRange {
    /// The first byte. Past the object's end there is nothing to read.
    pub from: u64,
    /// The caller expects to read up to this byte, and the store may fetch as much ahead; `None` if that is unknown.
    /// Reading beyond it is allowed.
    pub expected_end: Option<u64>,
}

impl ReadRange {
    /// From the first byte on.
    pub const WHOLE: ReadRange = ReadRange { from: 0, expected_end: None };
}

/// What an object is, for settings that depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectUse {
    /// A WAL segment.
    Wal,
    /// A pack of a base backup.
    Pack,
    /// Small, and read often.
    Other,
}

/// The result of storing an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object was created.
    Created,
    /// An object of this name exists, and nothing was changed.
    Exists,
}

/// What a store reports of an object without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its length in bytes.
    pub length_bytes: u64,
}

/// What is directly below a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The last parts of longer keys, each once, sorted.
    pub directories: Vec<String>,
    /// The last parts of objects' keys, sorted, with what the store reports of them.
    pub objects: Vec<(String, ObjectInfo)>,
}
