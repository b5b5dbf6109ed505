//! Writes an object into a directory.

use super::{DirectoryInner, ObjectKey, ObjectWriter, PutOutcome, temporary};
use crate::durable::{self, parent_directory};
use crate::error::{Context, Error, Result};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// How much is read back at a time.
const READ_BACK_BYTES: usize = 256 << 10;

/// The number of bytes after which the kernel is asked to begin writing them. The sync at the end of a large object
/// then waits for the last ones only.
const BEGIN_WRITING_BYTES: u64 = 4 << 20;

/// Longer objects are dropped from the kernel's cache: they are packs, and the server needs the memory.
const CACHED_BYTES_MAX: u64 = 64 << 20;

/// Writes a temporary file that becomes the object.
pub struct FileWriter {
    store: Arc<DirectoryInner>,
    key: ObjectKey,
    file: File,
    temporary: PathBuf,
    written_bytes: u64,
    /// The offset up to which the kernel was asked to begin writing.
    begun_bytes: u64,
    checksum: crc32fast::Hasher,
    /// Length of the header that is still to be filled in.
    header_bytes: usize,
}

impl FileWriter {
    pub fn begin(store: Arc<DirectoryInner>, key: ObjectKey) -> Result<FileWriter> {
        let (file, temporary) = temporary::create(store.disk.as_ref(), &store.root)?;
        Ok(FileWriter {
            store,
            key,
            file,
            temporary,
            written_bytes: 0,
            begun_bytes: 0,
            checksum: crc32fast::Hasher::new(),
            header_bytes: 0,
        })
    }

    /// Leaves room for a header, which is written last. Called before the first byte is written.
    pub fn reserve_header(&mut self, header_bytes: usize) -> Result<()> {
        if header_bytes > 0 {
            let what = || format!("could not write to \"{}\"", self.temporary.display());
            self.store.disk.write_all(&self.file, &vec![0; header_bytes]).context(what)?;
        }
        self.written_bytes = header_bytes as u64;
        self.header_bytes = header_bytes;
        Ok(())
    }

    /// As [`ObjectWriter::finish`], but overwrites an object of the same name.
    pub fn finish_overwriting(self) -> Result<()> {
        self.confirm()?;
        let path = self.store.path(&self.key);
        let what = || format!("could not store \"{}\"", path.display());
        self.store.prepare_parent(&self.key)?;
        self.store.disk.rename_over(&self.temporary, &path).context(what)?;
        self.store.disk.sync_directory(parent_directory(&path)).context(what)
    }

    fn not_written(&self) -> String {
        format!("could not write to the repository \"{}\"", self.store.root.display())
    }

    /// Makes the content durable and confirms it.
    fn confirm(&self) -> Result<()> {
        let what = || format!("could not make \"{}\" durable", self.temporary.display());
        self.store.disk.sync_file(&self.file, &self.temporary).context(what)?;
        self.read_back()
    }

    /// Compares the file with what was written. Finds a failing or full disk before the name exists.
    fn read_back(&self) -> Result<()> {
        let what = || format!("could not read back \"{}\"", self.temporary.display());
        let mut buffer = vec![0; READ_BACK_BYTES];
        let mut checksum = crc32fast::Hasher::new();
        let mut offset = 0;
        loop {
            match self.store.disk.read_at(&self.file, &mut buffer, offset).context(what)? {
                0 => break,
                length => {
                    checksum.update(buffer.get(..length).unwrap_or_default());
                    offset += length as u64;
                }
            }
        }
        if offset == self.written_bytes && checksum.finalize() == self.checksum.clone().finalize() {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "the content of \"{}\" in the repository differs from what was written: {offset} bytes instead of {}, or different bytes",
            self.temporary.display(),
            self.written_bytes
        ))
        .hint("The repository's disk or file system is failing. Check the kernel log."))
    }
}

impl ObjectWriter for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.checksum.update(bytes);
        self.written_bytes += bytes.len() as u64;
        self.store.disk.write_all(&self.file, bytes).context(|| self.not_written())?;
        let waiting_bytes = self.written_bytes - self.begun_bytes;
        if waiting_bytes >= BEGIN_WRITING_BYTES {
            durable::begin_writing(&self.file, self.begun_bytes, waiting_bytes);
            self.begun_bytes = self.written_bytes;
        }
        Ok(())
    }

    fn write_header(&mut self, header: &[u8]) -> Result<()> {
        if header.len() != self.header_bytes {
            return Err(Error::damaged(format!(
                "internal error: {} bytes are reserved for a header of {}",
                self.header_bytes,
                header.len()
            )));
        }
        self.store.disk.write_over_start(&self.file, header).context(|| self.not_written())?;
        let body = std::mem::take(&mut self.checksum);
        self.checksum.update(header);
        self.checksum.combine(&body);
        self.header_bytes = 0;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<PutOutcome> {
        if self.header_bytes > 0 {
            return Err(Error::damaged("internal error: an object was finished without its header"));
        }
        self.confirm()?;
        if self.written_bytes > CACHED_BYTES_MAX {
            durable::forget_cached(&self.file);
        }
        self.store.publish(&self.temporary, &self.key)
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        // After the rename this name no longer exists. A file that cannot be removed now is swept later.
        let _ = self.store.disk.remove_file(&self.temporary);
    }
}
