//! Files on their way into the store, under names that nobody reads.
//!
//! They lie in a directory of their own below the root, so that no listing meets them and a rename stays within the
//! file system. A living writer holds a lock on its file; what can be locked belongs to nobody and is swept.

use super::FILE_MODE;
use crate::durable::{self, Disk};
use crate::error::{Context, Error, Result};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Where they lie. The leading dot keeps the name from being a key.
pub const DIRECTORY: &str = ".pgark-temporary";

/// Makes names unique within this process.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Creates a file under a new name and locks it.
pub fn create(disk: &dyn Disk, root: &Path) -> Result<(File, PathBuf)> {
    let directory = root.join(DIRECTORY);
    let host = nix::unistd::gethostname().unwrap_or_default();
    loop {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("{}.{}.{number}", host.to_string_lossy(), std::process::id()));
        let what = || format!("could not create \"{}\"", path.display());
        let file = match disk.create_new(&path, FILE_MODE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                durable::create_directories(disk, root, Path::new(DIRECTORY), super::DIRECTORY_MODE)?;
                continue;
            }
            // Left by a dead process of our number.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            other => other.context(what)?,
        };
        file.lock().context(what)?;
        // A sweep may have met the file before the lock did: then it has no name any more.
        if file.metadata().context(what)?.nlink() > 0 {
            return Ok((file, path));
        }
    }
}

/// Removes the files of dead writers; returns how many there were.
pub fn sweep(disk: &dyn Disk, root: &Path) -> Result<u64> {
    let directory = root.join(DIRECTORY);
    let what = || format!("could not sweep \"{}\"", directory.display());
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other.context(what)?,
    };
    let mut swept = 0;
    for entry in entries {
        let path = entry.context(what)?.path();
        let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        // For writing too: NFS plays such locks by others, which an exclusive one needs it for (`flock(2)`).
        let file = match File::options().read(true).write(true).open(&path) {
            Err(error) if gone(&error) => continue,
            other => other.context(what)?,
        };
        match file.try_lock() {
            Ok(()) => match disk.remove_file(&path) {
                Err(error) if gone(&error) => {}
                Err(error) => return Err(Error::io(what(), error)),
                Ok(()) => swept += 1,
            },
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(Error::io(what(), error)),
        }
    }
    Ok(swept)
}
