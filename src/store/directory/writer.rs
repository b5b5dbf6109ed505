//! One object on its way into a directory.

use super::{Inner, ObjectKey, ObjectWriter, PutOutcome, temporary};
use crate::durable::parent_directory;
use crate::error::{Context, Error, Result};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// How much is read back at a time.
const READ_BACK_BYTES: usize = 256 << 10;

/// A temporary file that becomes the object.
pub struct FileWriter {
    store: Arc<Inner>,
    key: ObjectKey,
    file: File,
    temporary: PathBuf,
    written_bytes: u64,
    checksum: crc32fast::Hasher,
}

impl FileWriter {
    pub fn begin(store: Arc<Inner>, key: ObjectKey) -> Result<FileWriter> {
        let (file, temporary) = temporary::create(store.disk.as_ref(), &store.root)?;
        Ok(FileWriter { store, key, file, temporary, written_bytes: 0, checksum: crc32fast::Hasher::new() })
    }

    /// As [`ObjectWriter::finish`], in place of whatever has the name.
    pub fn finish_over(self) -> Result<()> {
        self.confirm()?;
        let path = self.store.path(&self.key);
        let what = || format!("could not store \"{}\"", path.display());
        self.store.prepare_parent(&self.key)?;
        self.store.disk.rename_over(&self.temporary, &path).context(what)?;
        self.store.disk.sync_directory(parent_directory(&path)).context(what)
    }

    /// Makes the content durable and confirms it.
    fn confirm(&self) -> Result<()> {
        let what = || format!("could not make \"{}\" durable", self.temporary.display());
        self.store.disk.sync_file(&self.file, &self.temporary).context(what)?;
        self.read_back()
    }

    /// Compares what the file holds with what was written: a lying disk or a full one is found here, before the name
    /// exists.
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
            "the repository does not hold what was written to \"{}\": {offset} bytes instead of {}, or other ones",
            self.temporary.display(),
            self.written_bytes
        ))
        .hint("Its disk or file system is failing: look into the kernel's log."))
    }
}

impl ObjectWriter for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.checksum.update(bytes);
        self.written_bytes += bytes.len() as u64;
        self.store
            .disk
            .write_all(&self.file, bytes)
            .context(|| format!("could not write to the repository \"{}\"", self.store.root.display()))
    }

    fn finish(self: Box<Self>) -> Result<PutOutcome> {
        self.confirm()?;
        self.store.publish(&self.temporary, &self.key)
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        // After a rename there is nothing of this name any more; what cannot be removed now is swept later.
        let _ = self.store.disk.remove_file(&self.temporary);
    }
}
