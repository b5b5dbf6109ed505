//! Reads the index.

use super::line::{Line, LineContent};
use super::{FRAME_KIND, IndexEntry, MAGIC, StoredIndex, VERSION_INCREMENTAL, stays_below};
use crate::error::{Context, Error, Result};
use crate::repository::backup::framed::FramedReader;
use crate::repository::version::check_version;
use crate::store::{ObjectKey, Store, StoreExt};

/// The limit for the length of a line, in bytes: several times that of PostgreSQL's longest path (`MAXPGPATH`, 1024)
/// with every byte escaped.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Reads an index as a stream. Memory: a few frames.
///
/// Returned entries are valid. The index is known to be complete only after `None`.
pub struct IndexReader {
    input: FramedReader,
    location: String,
    expected: StoredIndex,
    line: Vec<u8>,
    last_path: Vec<u8>,
    entries: u64,
    bytes: u64,
    ended: bool,
}

impl IndexReader {
    /// Opens an index; `None` if the store has confirmed that it does not exist.
    ///
    /// # Errors
    /// Here and in [`next_entry`](IndexReader::next_entry): [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if
    /// it is not the recorded one; those of the store. Here [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if a
    /// newer version wrote it.
    pub fn open(store: &dyn Store, key: &ObjectKey, expected: StoredIndex) -> Result<Option<IndexReader>> {
        let location = format!("the index \"{}\" cannot be used", store.locate(key));
        let Some(mut input) = FramedReader::open(store, key, expected.object)? else { return Ok(None) };
        check_header(&mut input).context(|| location.clone())?;
        Ok(Some(IndexReader {
            input,
            location,
            expected,
            line: Vec::new(),
            last_path: Vec::new(),
            entries: 0,
            bytes: 0,
            ended: false,
        }))
    }

    /// The next entry, in the order of the paths' bytes; `None` after all of them, if the whole index is the recorded
    /// one.
    pub fn next_entry(&mut self) -> Result<Option<IndexEntry>> {
        if self.ended {
            return Ok(None);
        }
        self.read_entry().context(|| self.location.clone())
    }

    fn read_entry(&mut self) -> Result<Option<IndexEntry>> {
        if !self.read_line()? {
            return Err(Error::damaged("it is truncated"));
        }
        let number = self.entries + 1;
        let line: Line<'_> = serde_json::from_slice(&self.line)
            .map_err(|error| Error::damaged(format!("line {number} is not a valid line")).caused_by(error))?;
        match line.read() {
            Some(LineContent::Entry(entry)) => self.take(entry).map(Some),
            Some(LineContent::End { entries, bytes }) => self.end(entries, bytes).map(|()| None),
            None => Err(Error::damaged(format!("line {number} has a missing or invalid field"))),
        }
    }

    fn take(&mut self, entry: IndexEntry) -> Result<IndexEntry> {
        let path = entry.path().as_bytes();
        if !stays_below(path) || path <= self.last_path.as_slice() {
            return Err(Error::damaged(format!("it lists \"{}\", which is not allowed there", entry.path())));
        }
        self.last_path.clear();
        self.last_path.extend_from_slice(path);
        self.entries += 1;
        if let IndexEntry::File(file) = &entry {
            // Wrong totals are found at the end, and must not overflow before.
            self.bytes = self.bytes.saturating_add(file.bytes);
        }
        Ok(entry)
    }

    fn end(&mut self, entries: u64, bytes: u64) -> Result<()> {
        if entries != self.entries || bytes != self.bytes || entries != self.expected.entries {
            return Err(Error::damaged(format!(
                "it lists {} entries with {} bytes, but counts {entries} with {bytes}; {} were recorded",
                self.entries, self.bytes, self.expected.entries
            )));
        }
        // Reaching the end verifies length and digest.
        if !self.input.fill()?.is_empty() {
            return Err(Error::damaged("it has data after its last line"));
        }
        self.ended = true;
        Ok(())
    }

    /// Reads the next line, without its line feed; false at the end.
    fn read_line(&mut self) -> Result<bool> {
        self.line.clear();
        loop {
            let piece = self.input.fill()?;
            if piece.is_empty() {
                return if self.line.is_empty() {
                    Ok(false)
                } else {
                    Err(Error::damaged("it is truncated within a line"))
                };
            }
            let end = piece.iter().position(|byte| *byte == b'\n');
            let length = end.unwrap_or(piece.len());
            if self.line.len() + length > LINE_BYTES_MAX {
                return Err(Error::damaged("it has an overlong line"));
            }
            self.line.extend_from_slice(piece.get(..length).unwrap_or_default());
            self.input.take(length + usize::from(end.is_some()));
            if end.is_some() {
                return Ok(true);
            }
        }
    }
}

fn check_header(input: &mut FramedReader) -> Result<()> {
    let damaged = || Error::damaged("it does not start with the header of an index");
    let header = input.header(FRAME_KIND)?.ok_or_else(damaged)?;
    let version = header.strip_prefix(MAGIC.as_slice()).and_then(|rest| <[u8; 4]>::try_from(rest).ok());
    let version = u32::from_le_bytes(version.ok_or_else(damaged)?);
    check_version(version, VERSION_INCREMENTAL, || format!("it has version {version} of the index format"))
}
