//! For tests only: the operating system's file system with injected faults. Operations fail on request, the
//! process can die before any of them, and all of them are recorded.

use super::{Disk, PageCache, RealDisk, Symlinks};
use crate::failpoint::recorder::{self, Record, inode_of};
use crate::failpoint::{self, Fault, Mutant, SHORT_READ_BYTES};
use std::fs::File;
use std::io;
use std::path::Path;

/// A disk that obeys [`failpoint`].
#[derive(Clone, Copy, Debug)]
pub struct FaultyDisk;

/// Performs an operation that changes something: it counts as a step and is recorded.
fn step<T>(
    record: Record<'_>,
    act: impl FnOnce() -> io::Result<T>,
    inode: impl FnOnce(&T) -> Option<u64>,
) -> io::Result<T> {
    let act = || {
        let step = failpoint::count();
        match failpoint::fault(record.operation, record.path, Some(step)).and_then(Fault::error) {
            Some(error) => Err(error),
            None => act(),
        }
    };
    recorder::perform(&record, act, inode)
}

/// The record of an operation on a name.
fn named<'a>(operation: &'a str, path: &'a Path) -> Record<'a> {
    Record { operation, path: Some(path), ..Record::default() }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path) -> io::Result<File> {
        match failpoint::fault("open", Some(path), None).and_then(Fault::error) {
            Some(error) => Err(error),
            None => RealDisk.open(path),
        }
    }

    fn open_to_change(&self, path: &Path) -> io::Result<File> {
        match failpoint::fault("open-to-change", Some(path), None).and_then(Fault::error) {
            Some(error) => Err(error),
            None => RealDisk.open_to_change(path),
        }
    }

    fn read_at(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let length = match failpoint::fault("read", None, None) {
            Some(Fault::Error(errno)) => return Err(errno.into()),
            Some(Fault::Short) => buffer.len().min(SHORT_READ_BYTES),
            Some(Fault::Hang) | None => buffer.len(),
        };
        RealDisk.read_at(file, buffer.get_mut(..length).unwrap_or_default(), offset)
    }

    fn open_data(&self, path: &Path, symlinks: Symlinks) -> io::Result<File> {
        match failpoint::fault("open-data", Some(path), None).and_then(Fault::error) {
            Some(error) => Err(error),
            None => RealDisk.open_data(path, symlinks),
        }
    }

    fn read_data_at(
        &self,
        file: &File,
        buffer: &mut [u8],
        offset: u64,
        cache: PageCache,
    ) -> io::Result<usize> {
        let length = match failpoint::fault_in("read-data", file)? {
            Some(Fault::Error(errno)) => return Err(errno.into()),
            Some(Fault::Short) => buffer.len().min(SHORT_READ_BYTES),
            Some(Fault::Hang) | None => buffer.len(),
        };
        RealDisk.read_data_at(file, buffer.get_mut(..length).unwrap_or_default(), offset, cache)
    }

    fn create_new(&self, path: &Path, mode: u32) -> io::Result<File> {
        step(named("create", path), || RealDisk.create_new(path, mode), inode_of)
    }

    fn create_nameless(&self, directory: &Path, mode: u32) -> io::Result<File> {
        let record = named("create-nameless", directory);
        step(record, || RealDisk.create_nameless(directory, mode), inode_of)
    }

    fn name(&self, file: &File, path: &Path) -> io::Result<()> {
        step(named("name", path), || RealDisk.name(file, path), |()| inode_of(file))
    }

    fn create_directory(&self, path: &Path, mode: u32) -> io::Result<()> {
        step(named("create-directory", path), || RealDisk.create_directory(path, mode), |()| None)
    }

    fn create_link(&self, target: &Path, path: &Path) -> io::Result<()> {
        let record = Record { other: Some(target), ..named("create-link", path) };
        step(record, || RealDisk.create_link(target, path), |()| None)
    }

    fn write_all(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        let act = || {
            let step = failpoint::count();
            if let Some(error) = failpoint::fault("write", None, Some(step)).and_then(Fault::error) {
                // A full disk writes as much as fits.
                RealDisk.write_all(file, bytes.get(..bytes.len() / 2).unwrap_or_default())?;
                return Err(error);
            }
            RealDisk.write_all(file, bytes)
        };
        let record = Record { operation: "write", content: bytes, ..Record::default() };
        recorder::perform(&record, act, |()| inode_of(file))
    }

    fn write_over_start(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        let record = Record { operation: "write-over-start", content: bytes, ..Record::default() };
        step(record, || RealDisk.write_over_start(file, bytes), |()| inode_of(file))
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let record = Record { operation: "write-at", content: bytes, place: offset, ..Record::default() };
        step(record, || RealDisk.write_at(file, bytes, offset), |()| inode_of(file))
    }

    fn set_length(&self, file: &File, length: u64) -> io::Result<()> {
        let record = Record { operation: "set-length", place: length, ..Record::default() };
        step(record, || RealDisk.set_length(file, length), |()| inode_of(file))
    }

    fn copy_all(&self, from: &File, to: &File) -> io::Result<()> {
        let record = Record { operation: "copy", ..Record::default() };
        step(record, || RealDisk.copy_all(from, to), |()| inode_of(to))
    }

    fn sync_file(&self, file: &File, path: &Path) -> io::Result<()> {
        if failpoint::mutant(Mutant::SkipFsync) {
            return Ok(());
        }
        step(named("sync-file", path), || RealDisk.sync_file(file, path), |()| inode_of(file))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        step(named("sync-directory", path), || RealDisk.sync_directory(path), |()| None)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let record = Record { other: Some(to), ..named("rename-new", from) };
        step(record, || RealDisk.rename_new(from, to), |()| None)
    }

    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        let record = Record { other: Some(to), ..named("rename-over", from) };
        step(record, || RealDisk.rename_over(from, to), |()| None)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        step(named("remove-file", path), || RealDisk.remove_file(path), |()| None)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        step(named("remove-directory", path), || RealDisk.remove_directory(path), |()| None)
    }

    fn sync_file_system(&self, opened: &File) -> io::Result<()> {
        let record = Record { operation: "sync-file-system", ..Record::default() };
        step(record, || RealDisk.sync_file_system(opened), |()| None)
    }
}
