//! Reads an object from a directory.

use super::ObjectReader;
use crate::durable::Disk;
use crate::error::{Error, Result};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// How much is read at a time: enough for a disk, and small enough for a processor's cache.
const READ_BYTES: usize = 256 << 10;

/// Reads an open file from a position on.
pub struct FileReader {
    disk: Arc<dyn Disk>,
    file: File,
    path: PathBuf,
    position: u64,
}

impl FileReader {
    pub fn new(disk: Arc<dyn Disk>, file: File, path: PathBuf, from: u64) -> FileReader {
        FileReader { disk, file, path, position: from }
    }
}

impl ObjectReader for FileReader {
    fn read(&mut self, buffer: &mut Vec<u8>) -> Result<usize> {
        let start = buffer.len();
        buffer.resize(start + READ_BYTES, 0);
        let target = buffer.get_mut(start..).unwrap_or_default();
        let length =
            self.disk.read_at(&self.file, target, self.position).map_err(|error| match error.kind() {
                io::ErrorKind::IsADirectory => {
                    Error::damaged(format!("\"{}\" is not a file", self.path.display()))
                }
                _ => Error::io(format!("could not read \"{}\"", self.path.display()), error),
            })?;
        buffer.truncate(start + length);
        self.position += length as u64;
        Ok(length)
    }
}
