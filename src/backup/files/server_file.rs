//! An open file of a data directory.

use crate::durable::{self, Disk, PageCache, Symlinks};
use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

/// An open file of a data directory, with the disk that reads it.
#[derive(Debug)]
pub struct ServerFile<'a> {
    disk: &'a dyn Disk,
    file: File,
}

impl<'a> ServerFile<'a> {
    /// Opens a file without following a link and without blocking on a FIFO; `None` if it no longer exists.
    ///
    /// # Errors
    /// Those of the operating system, here and in the other functions.
    pub fn open(disk: &'a dyn Disk, path: &Path) -> io::Result<Option<ServerFile<'a>>> {
        match disk.open_data(path, Symlinks::NoFollow) {
            Ok(file) => Ok(Some(ServerFile { disk, file })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An open file, for tests.
    #[cfg(test)]
    pub fn of(disk: &'a dyn Disk, file: File) -> ServerFile<'a> {
        ServerFile { disk, file }
    }

    /// The disk that reads it.
    pub fn disk(&self) -> &'a dyn Disk {
        self.disk
    }

    /// Its current metadata.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// Fills the buffer up to the end of the file; returns the number of bytes read. Does not displace the server's
    /// pages from the kernel's cache.
    pub fn read_full(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        durable::read_full(buffer, offset, |rest, offset| {
            self.disk.read_data_at(&self.file, rest, offset, PageCache::Drop)
        })
    }
}
