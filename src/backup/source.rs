//! Reading the server's files without taking the server's room in the kernel's cache.

use crate::failpoint;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What is read leaves the cache again, unless it was there before: from Linux 6.14 on, where the file system can.
/// Source: Linux `include/uapi/linux/fs.h`, `RWF_DONTCACHE`.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Opens a file of a data directory, never through a link, and without waiting for one that writes to a FIFO; `None` when
/// it is gone.
///
/// # Errors
/// The operating system's.
pub fn open(path: &Path) -> io::Result<Option<File>> {
    failpoint::opening(path)?;
    match OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path)
    {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fills the buffer, unless the file ends before; how many bytes that were.
///
/// # Errors
/// The operating system's.
pub fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match read_at(file, rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let length = failpoint::reading(file, buffer.len())?;
    let buffer = buffer.get_mut(..length).unwrap_or_default();
    match preadv2(file, &mut [IoSliceMut::new(buffer)], offset, DONT_CACHE) {
        // An older kernel, or another file system. It gets no other hint: what can be dropped from the cache there,
        // drops the server's own pages too.
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => file.read_at(buffer, offset),
        other => Ok(other?),
    }
}
