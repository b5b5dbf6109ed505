//! Reads of a server's data directory. They do not follow unexpected symbolic links, do not wait for the writer of a
//! FIFO, and do not displace the server's pages from the kernel's page cache.

use super::{Disk, read_full};
use nix::fcntl::OFlag;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Drops the pages that a read brings into the cache, unless they were cached before. Requires Linux 6.14 and support
/// by the file system. Source: Linux `include/uapi/linux/fs.h`, `RWF_DONTCACHE`.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// What to do with a path whose last component is a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symlinks {
    /// Use what it leads to.
    Follow,
    /// Inspect the link itself; refuse to open it.
    NoFollow,
}

/// What happens to the pages that a read brings into the kernel's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCache {
    /// They stay, as after any read.
    Keep,
    /// They are dropped, where the system can do that.
    Drop,
}

pub(super) fn open(path: &Path, symlinks: Symlinks) -> io::Result<File> {
    let flags = match symlinks {
        Symlinks::Follow => OFlag::O_NONBLOCK,
        Symlinks::NoFollow => OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW,
    };
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64, cache: PageCache) -> io::Result<usize> {
    if cache == PageCache::Keep {
        return file.read_at(buffer, offset);
    }
    match preadv2(file, &mut [IoSliceMut::new(buffer)], offset, DONT_CACHE) {
        // The kernel or the file system lacks support. `POSIX_FADV_DONTNEED` is no replacement: it also drops pages
        // that the server itself has cached.
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => file.read_at(buffer, offset),
        other => Ok(other?),
    }
}

pub(super) fn metadata(path: &Path, symlinks: Symlinks) -> io::Result<Metadata> {
    match symlinks {
        Symlinks::Follow => fs::metadata(path),
        Symlinks::NoFollow => fs::symlink_metadata(path),
    }
}

/// Reads a small file of the data directory, up to `bytes_max` bytes of it.
///
/// # Errors
/// The operating system's.
pub fn read_data(disk: &dyn Disk, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = disk.open_data(path, Symlinks::Follow)?;
    let mut content = Vec::new();
    let mut buffer = [0; 8 << 10];
    while (content.len() as u64) < bytes_max {
        let length = read_full(&mut buffer, content.len() as u64, |rest, offset| {
            disk.read_data_at(&file, rest, offset, PageCache::Keep)
        })?;
        content.extend_from_slice(buffer.get(..length).unwrap_or_default());
        if length < buffer.len() {
            break;
        }
    }
    content.truncate(usize::try_from(bytes_max).unwrap_or(usize::MAX));
    Ok(content)
}

/// For tests: a disk on which everything is found and nothing of a data directory can be read.
#[cfg(test)]
#[derive(Debug)]
pub struct UnreadableDisk;

#[cfg(test)]
impl Disk for UnreadableDisk {
    fn read_data_at(&self, _: &File, _: &mut [u8], _: u64, _: PageCache) -> io::Result<usize> {
        Err(Errno::IO.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::RealDisk;

    #[test]
    fn a_small_file_is_read_up_to_its_limit() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        let content: Vec<u8> = (0..20_000_u32).map(|at| (at / 7) as u8).collect();
        fs::write(&path, &content).unwrap();
        for bytes_max in [0, 1, 8 << 10, 16 << 10, 19_999, 20_000, 30_000] {
            let read = read_data(&RealDisk, &path, bytes_max).unwrap();
            assert!(read == content[..content.len().min(bytes_max as usize)], "{bytes_max}");
        }
        assert_eq!(read_data(&RealDisk, scratch.path(), 10).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn a_link_is_followed_only_on_request() {
        let scratch = tempfile::tempdir().unwrap();
        let (file, link) = (scratch.path().join("file"), scratch.path().join("link"));
        fs::write(&file, b"x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(RealDisk.open_data(&link, Symlinks::Follow).is_ok());
        assert!(RealDisk.open_data(&link, Symlinks::NoFollow).is_err());
        assert!(RealDisk.data_metadata(&link, Symlinks::NoFollow).unwrap().is_symlink());
        assert!(RealDisk.data_metadata(&link, Symlinks::Follow).unwrap().is_file());
    }
}
