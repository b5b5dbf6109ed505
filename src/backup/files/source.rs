//! Reads the server's files without displacing the server's pages from the kernel's page cache.

use crate::durable;
use crate::failpoint;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Drops the pages that a read brings into the cache, unless they were cached before. Requires Linux 6.14 and support
/// by the file system. Source: Linux `include/uapi/linux/fs.h`, `RWF_DONTCACHE`.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Opens a file of a data directory without following a link and without blocking on a FIFO; `None` if it no longer
/// exists.
///
/// # Errors
/// Those of the operating system.
pub fn open(path: &Path) -> io::Result<Option<File>> {
    failpoint::opening(path)?;
    match OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path)
    {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fills the buffer up to the end of the file; returns the number of bytes read.
///
/// # Errors
/// Those of the operating system.
pub fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    durable::read_full(buffer, offset, |rest, offset| read_at(file, rest, offset))
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let length = failpoint::reading(file, buffer.len())?;
    let buffer = buffer.get_mut(..length).unwrap_or_default();
    match preadv2(file, &mut [IoSliceMut::new(buffer)], offset, DONT_CACHE) {
        // The kernel or the file system lacks support. `POSIX_FADV_DONTNEED` is no replacement: it also drops pages
        // that the server itself has cached.
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => file.read_at(buffer, offset),
        other => Ok(other?),
    }
}
