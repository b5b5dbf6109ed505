//! Writes the index.

use super::line::Line;
use super::{
    FRAME_KIND, FileForm, IndexEntry, MAGIC, StoredIndex, VERSION_INCREMENTAL, VERSION_WHOLE, stays_below,
};
use crate::config::Compression;
use crate::error::{Error, Result};
use crate::repository::backup::framed::FramedWriter;
use crate::store::{ObjectKey, Store};

/// Writes an index as a stream. Memory: one frame.
pub struct IndexWriter {
    output: FramedWriter,
    version: u32,
    entries: u64,
    bytes: u64,
    last_path: Vec<u8>,
    line: Vec<u8>,
}

impl IndexWriter {
    /// Begins an index of whole files.
    ///
    /// # Errors
    /// Those of the store, here and in the other functions.
    pub fn create(store: &dyn Store, key: &ObjectKey, compression: Compression) -> Result<IndexWriter> {
        IndexWriter::create_version(store, key, compression, VERSION_WHOLE)
    }

    /// Begins an index that may contain incremental files.
    ///
    /// # Errors
    /// Those of the store.
    pub fn create_incremental(
        store: &dyn Store,
        key: &ObjectKey,
        compression: Compression,
    ) -> Result<IndexWriter> {
        IndexWriter::create_version(store, key, compression, VERSION_INCREMENTAL)
    }

    fn create_version(
        store: &dyn Store,
        key: &ObjectKey,
        compression: Compression,
        version: u32,
    ) -> Result<IndexWriter> {
        let mut output = FramedWriter::create(store, key, compression)?;
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&version.to_le_bytes());
        output.skippable(FRAME_KIND, &header)?;
        Ok(IndexWriter { output, version, entries: 0, bytes: 0, last_path: Vec::new(), line: Vec::new() })
    }

    /// Adds an entry. Entries must be sorted by the bytes of their paths.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for a path out of order or outside the data directory,
    /// and for an incremental file in an index of whole ones.
    pub fn add(&mut self, entry: &IndexEntry) -> Result<()> {
        let path = entry.path().as_bytes();
        if !stays_below(path) || path <= self.last_path.as_slice() {
            return Err(Error::damaged(format!("the index cannot list \"{}\" here", entry.path())));
        }
        self.last_path.clear();
        self.last_path.extend_from_slice(path);
        self.entries += 1;
        if let IndexEntry::File(file) = entry {
            self.bytes += file.bytes;
            if file.form != FileForm::Whole && self.version < VERSION_INCREMENTAL {
                return Err(Error::damaged(format!("\"{}\" is incremental in a full backup", file.path)));
            }
        }
        self.put(&Line::of(entry))
    }

    /// Ends the index and creates the object.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`](crate::error::ErrorKind::Conflict) if an index of this name exists.
    pub fn finish(mut self) -> Result<StoredIndex> {
        self.put(&Line::end(self.entries, self.bytes))?;
        Ok(StoredIndex { entries: self.entries, object: self.output.finish()? })
    }

    fn put(&mut self, line: &Line<'_>) -> Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line)
            .map_err(|error| Error::damaged("could not write a line of the index").caused_by(error))?;
        self.line.push(b'\n');
        self.output.append(&self.line)
    }
}
