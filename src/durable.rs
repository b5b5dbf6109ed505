//! The only fsyncs, renames and removals of pgark, and its reads of a data directory, behind one small trait.
//!
//! Owns: the meaning of "durable". When a function here returns, everything that its description promises
//! survives a power failure; anything else may be lost. The trait lets tests inject faults and power failures
//! into every use of it. Does not own: which files there are (that is the store, the spool and the restore).

mod data;
#[cfg(feature = "failpoints")]
mod faulty;

#[cfg(test)]
pub use data::UnreadableDisk;
pub use data::{PageCache, Symlinks, read_data};

use crate::error::{Context, Error, Result};
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::{linkat, syncfs};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, ReadDir};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes the temporary names of one process unique.
static REPLACED: AtomicU64 = AtomicU64::new(0);

/// The file system operations that durability depends on, and the reads of a data directory. The default methods
/// call the operating system; an implementation overrides them to count or to fail.
pub trait Disk: Send + Sync + Debug {
    /// Opens a file for reading, as [`open_regular`] does.
    fn open(&self, path: &Path) -> io::Result<File> {
        open_regular(path)
    }

    /// Opens a file for reading and writing, not through a symbolic link.
    fn open_to_change(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)
    }

    /// Reads from `offset` on. Returns the number of bytes, which may be less than the buffer holds; 0 at the
    /// end.
    fn read_at(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        file.read_at(buffer, offset)
    }

    /// Opens a file of a data directory for reading. It may be of any type.
    fn open_data(&self, path: &Path, symlinks: Symlinks) -> io::Result<File> {
        data::open(path, symlinks)
    }

    /// Reads a file of a data directory from `offset` on. Returns the number of bytes, which may be less than the
    /// buffer holds; 0 at the end.
    fn read_data_at(
        &self,
        file: &File,
        buffer: &mut [u8],
        offset: u64,
        cache: PageCache,
    ) -> io::Result<usize> {
        data::read_at(file, buffer, offset, cache)
    }

    /// Inspects a file or directory of a data directory.
    fn data_metadata(&self, path: &Path, symlinks: Symlinks) -> io::Result<Metadata> {
        data::metadata(path, symlinks)
    }

    /// Lists a directory of a data directory.
    fn list_data(&self, path: &Path) -> io::Result<ReadDir> {
        fs::read_dir(path)
    }

    /// Reads a symbolic link of a data directory, such as that of a tablespace.
    fn read_data_link(&self, path: &Path) -> io::Result<PathBuf> {
        fs::read_link(path)
    }

    /// Creates a file that must not exist yet, readable and writable, with these permissions. Nothing is durable.
    fn create_new(&self, path: &Path, mode: u32) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)
    }

    /// Creates an unnamed file on the file system of this directory. It is gone when it is closed, unless
    /// [`Disk::name`] gives it a name. Not every file system supports this.
    fn create_nameless(&self, directory: &Path, mode: u32) -> io::Result<File> {
        OpenOptions::new().write(true).mode(mode).custom_flags(OFlag::O_TMPFILE.bits()).open(directory)
    }

    /// Gives an unnamed file its name, unless the name exists. Nothing is durable.
    fn name(&self, file: &File, path: &Path) -> io::Result<()> {
        let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok(linkat(AT_FDCWD, nameless.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?)
    }

    /// Creates one directory that must not exist yet. Nothing is durable.
    fn create_directory(&self, path: &Path, mode: u32) -> io::Result<()> {
        DirBuilder::new().mode(mode).create(path)
    }

    /// Creates a symbolic link to `target`, whose name must not exist yet. Nothing is durable.
    fn create_link(&self, target: &Path, path: &Path) -> io::Result<()> {
        symlink(target, path)
    }

    /// Appends all of `bytes` to `file`. Nothing is durable.
    fn write_all(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    /// Overwrites the beginning of `file`, which was not synced yet. Nothing is durable.
    fn write_over_start(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, 0)
    }

    /// Overwrites `file` from `offset` on. Nothing is durable, and the old content is lost: after a power
    /// failure any part of it may be old or new.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// Truncates `file` to this length, or extends it with zeros. Nothing is durable.
    fn set_length(&self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    /// Appends the rest of `from` to `to`. Nothing is durable.
    fn copy_all(&self, mut from: &File, mut to: &File) -> io::Result<()> {
        io::copy(&mut from, &mut to).map(drop)
    }

    /// Makes the content and the length of `file`, which is open as `path`, survive a power failure; not its
    /// name.
    fn sync_file(&self, file: &File, _path: &Path) -> io::Result<()> {
        // fdatasync also writes the length, which is all that is needed to read the bytes back.
        file.sync_data()
    }

    /// Makes the names in a directory survive a power failure: those created, renamed and removed before the
    /// call.
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    /// Gives a file a new name on the same file system, atomically, unless that name exists
    /// ([`io::ErrorKind::AlreadyExists`]). Durable only after [`Disk::sync_directory`].
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // NFS and some FUSE file systems do not support the flag. A hard link is as atomic, in two steps.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                fs::hard_link(from, to)?;
                fs::remove_file(from)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Renames a file on the same file system, atomically, replacing any file of the new name.
    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Removes a file's name.
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    /// Removes an empty directory.
    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    /// Makes everything written before the call to the file system of `opened` survive a power failure:
    /// contents and names. For many new files at once, this costs less than a call for each.
    ///
    /// From Linux 5.8 on, write errors since `opened` was opened are reported: open it before writing.
    fn sync_file_system(&self, opened: &File) -> io::Result<()> {
        Ok(syncfs(opened)?)
    }
}

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {}

/// A file that was created through a [`Disk`], as a [`Write`].
#[derive(Debug)]
pub struct DiskFile<'a> {
    disk: &'a dyn Disk,
    file: File,
}

impl DiskFile<'_> {
    /// Directs writes to `file` through `disk`.
    pub fn new(disk: &dyn Disk, file: File) -> DiskFile<'_> {
        DiskFile { disk, file }
    }
}

impl Write for DiskFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.write_all(&self.file, bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The file system of this process: the operating system's, or the one with injected faults in tests.
pub fn disk() -> Arc<dyn Disk> {
    #[cfg(feature = "failpoints")]
    return Arc::new(faulty::FaultyDisk);
    #[cfg(not(feature = "failpoints"))]
    return Arc::new(RealDisk);
}

/// Opens a regular file for reading, and nothing else: opening a FIFO would wait for a writer that never
/// comes.
///
/// # Errors
/// The operating system's; [`io::ErrorKind::IsADirectory`], and [`io::ErrorKind::InvalidData`] for any other
/// non-regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    only_regular(data::open(path, Symlinks::Follow)?)
}

/// Returns the file if it is a regular one.
///
/// # Errors
/// As [`open_regular`].
pub fn only_regular(file: File) -> io::Result<File> {
    match file.metadata()?.file_type() {
        kind if kind.is_file() => Ok(file),
        kind if kind.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file")),
    }
}

/// Fills the buffer up to the end of the file with `read_at`, which reads from an offset on; returns the number of
/// bytes.
///
/// # Errors
/// Those of `read_at`, but not interruptions.
pub fn read_full(
    buffer: &mut [u8],
    offset: u64,
    read_at: impl Fn(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Creates `relative` below `base`, which must exist, with all missing parents. Every one of the names is
/// durable when this returns, including those that another process created and may not have made durable yet.
///
/// # Errors
/// The operating system's, with the directory's name. A directory that another process creates meanwhile is
/// no error.
pub fn create_directories(disk: &dyn Disk, base: &Path, relative: &Path, mode: u32) -> Result<()> {
    let mut parent = base.to_owned();
    for part in relative.components() {
        let path = parent.join(part);
        let what = || format!("could not create directory \"{}\"", path.display());
        match disk.create_directory(&path, mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            other => other.context(what)?,
        }
        disk.sync_directory(&parent).context(what)?;
        parent = path;
    }
    Ok(())
}

/// Removes the contents of a directory except `kept`. Removes symbolic links and never follows them. Nothing
/// is durable.
///
/// # Errors
/// The operating system's, with the name that could not be removed.
pub fn clear_directory(disk: &dyn Disk, directory: &Path, kept: &[&str]) -> Result<()> {
    let what = |path: &Path| format!("could not remove \"{}\"", path.display());
    for entry in fs::read_dir(directory).context(|| format!("could not list \"{}\"", directory.display()))? {
        let entry = entry.context(|| format!("could not list \"{}\"", directory.display()))?;
        if kept.iter().any(|kept| entry.file_name() == *kept) {
            continue;
        }
        let path = entry.path();
        if entry.file_type().context(|| what(&path))?.is_dir() {
            clear_directory(disk, &path, &[])?;
            disk.remove_directory(&path).context(|| what(&path))?;
        } else {
            disk.remove_file(&path).context(|| what(&path))?;
        }
    }
    Ok(())
}

/// Removes `path`, a directory with all its contents; no error if nothing exists. Removes symbolic links and
/// never follows them. Nothing is durable.
///
/// # Errors
/// The operating system's, with the name that could not be removed.
pub fn remove_all(disk: &dyn Disk, path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            clear_directory(disk, path, &[])?;
            disk.remove_directory(path)
        }
        Ok(_) => disk.remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        // Nothing exists below a file, either.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(())
        }
        other => other.context(|| format!("could not remove \"{}\"", path.display())),
    }
}

/// Replaces `path` by a file with this content. When this returns, the file survives a power failure. At any
/// moment before that, `path` holds either all of the old content or all of the new.
///
/// # Errors
/// The operating system's, with the file's name; the temporary file beside it is removed.
pub fn replace_file(disk: &dyn Disk, path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.{}.pgark", std::process::id(), REPLACED.fetch_add(1, Ordering::Relaxed)));
    let temporary = Path::new(&temporary);
    let attempt = || -> io::Result<()> {
        match disk.remove_file(temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.create_new(temporary, mode)?;
        disk.write_all(&file, content)?;
        disk.sync_file(&file, temporary)?;
        disk.rename_over(temporary, path)?;
        disk.sync_directory(parent_directory(path))
    };
    attempt().map_err(|error| {
        // Best effort: a leftover name is never read.
        let _ = disk.remove_file(temporary);
        Error::io(format!("could not write \"{}\"", path.display()), error)
    })
}

/// Creates a file that `fill` writes. When this returns, the file survives a power failure. `path` holds all
/// of it or nothing, and an existing file is never replaced.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) when `path` exists, those of `fill`, and the
/// operating system's; the temporary file beside it is removed.
#[cfg(feature = "companion")]
pub fn create_file<T>(
    disk: &dyn Disk,
    path: &Path,
    mode: u32,
    fill: &mut dyn FnMut(&mut DiskFile<'_>) -> Result<T>,
) -> Result<T> {
    let exists = || {
        Error::usage(format!("\"{}\" already exists", path.display()))
            .hint("pgark does not overwrite files: name another file, or remove this one.")
    };
    if path.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let what = || format!("could not write \"{}\"", path.display());
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.{}.pgark", std::process::id(), REPLACED.fetch_add(1, Ordering::Relaxed)));
    let temporary = Path::new(&temporary);
    let mut file = DiskFile::new(disk, disk.create_new(temporary, mode).context(what)?);
    let filled = fill(&mut file).and_then(|filled| {
        disk.sync_file(&file.file, temporary).context(what)?;
        match disk.rename_new(temporary, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(exists()),
            other => other.context(what)?,
        }
        disk.sync_directory(parent_directory(path)).context(what)?;
        Ok(filled)
    });
    if filled.is_err() {
        // Best effort: a leftover name is never read.
        let _ = disk.remove_file(temporary);
    }
    filled
}

/// Copies `from` to `to` through an unnamed file, so that a kill leaves nothing behind beside `to`: there is
/// all of the file or nothing. Nothing is durable. An existing `to` is removed first.
///
/// # Errors
/// The operating system's.
pub fn copy_nameless(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    match disk.remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let source = disk.open(from)?;
    match disk.create_nameless(parent_directory(to), 0o600) {
        Ok(file) => {
            disk.copy_all(&source, &file)?;
            disk.name(&file, to)
        }
        // A file system without unnamed files (NFS): use a temporary name beside the destination.
        Err(_) => {
            let temporary = to.with_extension("pgark");
            match disk.remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let copied = disk
                .create_new(&temporary, 0o600)
                .and_then(|file| disk.copy_all(&source, &file))
                .and_then(|()| disk.rename_over(&temporary, to));
            copied.inspect_err(|_| drop(disk.remove_file(&temporary)))
        }
    }
}

/// Asks the kernel to start writing a range of a file to disk, so that a later sync has little left to do and
/// a long copy writes while it reads. No guarantee.
#[cfg(feature = "companion")]
#[allow(unsafe_code)]
pub fn begin_writing(file: &File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else { return };
    // SAFETY: the call takes no pointers, and the descriptor is open as long as `file` is borrowed. None of
    // our crates has a typed call; POSIX_FADV_DONTNEED, which starts writing as well, waits for all
    // processors.
    let _ = unsafe {
        nix::libc::sync_file_range(file.as_raw_fd(), offset, length, nix::libc::SYNC_FILE_RANGE_WRITE)
    };
}

/// Drops a written and synced file from the kernel's cache: it is not read soon, and the server's own pages
/// need the room. No guarantee.
#[cfg(feature = "companion")]
pub fn forget_cached(file: &File) {
    let _ = nix::fcntl::posix_fadvise(file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

/// The directory that holds `path`'s name.
pub fn parent_directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_name_never_replaces_an_old_one() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        fs::write(&from, b"new").unwrap();
        fs::write(&to, b"old").unwrap();
        assert_eq!(RealDisk.rename_new(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&to).unwrap(), b"old");
        fs::remove_file(&to).unwrap();
        RealDisk.rename_new(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"new");
        assert!(!from.exists());
    }

    #[test]
    fn replaced_files_leave_no_other_name() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a");
        replace_file(&RealDisk, &path, b"one", 0o600).unwrap();
        replace_file(&RealDisk, &path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn whatever_is_there_is_removed_but_not_what_links_lead_to() {
        let scratch = tempfile::tempdir().unwrap();
        let (directory, link) = (scratch.path().join("directory"), scratch.path().join("link"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), b"x").unwrap();
        std::os::unix::fs::symlink(&directory, &link).unwrap();
        remove_all(&RealDisk, &link).unwrap();
        assert!(directory.join("file").exists());
        for _ in 0..2 {
            remove_all(&RealDisk, &directory.join("file/below")).unwrap();
            remove_all(&RealDisk, &directory).unwrap();
        }
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn directories_are_created_with_their_parents() {
        let scratch = tempfile::tempdir().unwrap();
        let deep = Path::new("a/b/c");
        create_directories(&RealDisk, scratch.path(), deep, 0o700).unwrap();
        create_directories(&RealDisk, scratch.path(), deep, 0o700).unwrap();
        assert!(scratch.path().join(deep).is_dir());
        fs::write(scratch.path().join("file"), b"").unwrap();
        assert!(create_directories(&RealDisk, scratch.path(), Path::new("file/d"), 0o700).is_err());
    }

    #[test]
    fn only_regular_files_are_opened_and_nothing_is_waited_for() {
        let scratch = tempfile::tempdir().unwrap();
        let (file, fifo) = (scratch.path().join("file"), scratch.path().join("fifo"));
        fs::write(&file, b"x").unwrap();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(io::read_to_string(open_regular(&file).unwrap()).unwrap(), "x");
        assert_eq!(open_regular(&fifo).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(open_regular(scratch.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(open_regular(Path::new("/dev/null")).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_copy_leaves_only_its_destination() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        fs::write(&from, b"new").unwrap();
        fs::write(&to, b"old").unwrap();
        copy_nameless(&RealDisk, &from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"new");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 2);
    }
}
