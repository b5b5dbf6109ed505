//! Temporary files of objects that are being written.
//!
//! They are in a directory of their own below the root: no listing finds them, and a rename stays within the file
//! system. A living writer holds a lock on its file. A file that can be locked is abandoned and is swept.

use super::FILE_MODE;
use crate::durable::{self, Disk};
use crate::error::{Context, Result};
use nix::fcntl::OFlag;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The directory of the temporary files. The leading dot keeps the name from being a key.
pub const DIRECTORY: &str = ".pgark-temporary";

/// Makes names unique within this process.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Creates and locks a file with a new name.
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
            // Left by a dead process with the same process ID.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            other => other.context(what)?,
        };
        file.lock().context(what)?;
        // A sweep may have removed the file before it was locked.
        if file.metadata().context(what)?.nlink() > 0 {
            return Ok((file, path));
        }
    }
}

/// Removes the files of dead writers; returns their number. One that cannot be removed stays and does not stop the
/// sweep: nothing reads it.
pub fn sweep(disk: &dyn Disk, root: &Path) -> Result<u64> {
    let directory = root.join(DIRECTORY);
    let what = || format!("could not clean up \"{}\"", directory.display());
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other.context(what)?,
    };
    let mut swept = 0;
    for entry in entries {
        let path = entry.context(what)?.path();
        match remove_if_dead(disk, &path) {
            Ok(true) => swept += 1,
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "could not remove a temporary file")
            }
        }
    }
    Ok(swept)
}

/// Removes a file unless its writer lives; returns whether it did.
fn remove_if_dead(disk: &dyn Disk, path: &Path) -> io::Result<bool> {
    // For writing too: NFS emulates these locks by others, for which an exclusive one requires it (`flock(2)`). Opening
    // does not block, whatever the entry is.
    let options = File::options().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).clone();
    let file = options.open(path)?;
    match file.try_lock() {
        Ok(()) => disk.remove_file(path).map(|()| true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
