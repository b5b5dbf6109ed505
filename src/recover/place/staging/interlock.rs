//! PostgreSQL's own interlock: a server does not start if `postmaster.pid` names a running process.
//!
//! Source: PostgreSQL `utils/init/miscinit.c`, `CreateLockFile`.

use crate::durable::{self, Disk};
use crate::error::{Context, Error, ErrorKind, Result};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file's name.
pub const NAME: &str = "postmaster.pid";

/// Temporary name while the file is being written.
const NEW_NAME: &str = "pgark-recovery-incomplete.pid";

/// Temporary name for the file of a dead server, before it is removed.
const OLD_NAME: &str = "pgark-recovery-incomplete.pid.old";

/// This process's `postmaster.pid` in a data directory.
#[derive(Debug)]
pub struct Interlock(PathBuf);

impl Interlock {
    /// Locks the data directory against servers. Replaces the file of a dead server or of a killed recovery,
    /// as a server does.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if a server runs in it, or started first; those of the operating system.
    pub fn take(disk: &dyn Disk, data_directory: &Path) -> Result<Interlock> {
        let path = data_directory.join(NAME);
        let what = || format!("could not write \"{}\"", path.display());
        super::examine::refuse_running(data_directory)?;
        // Written under another name, because no server starts beside an empty file.
        let new = data_directory.join(NEW_NAME);
        durable::remove_all(disk, &new)?;
        let file = disk.create_new(&new, 0o600).context(what)?;
        let content = format!("{}\n{}\n", std::process::id(), data_directory.display());
        disk.write_all(&file, content.as_bytes()).context(what)?;
        disk.sync_file(&file, &new).context(what)?;
        match put_in_place(disk, data_directory, &new, &path) {
            Ok(()) => Ok(Interlock(path)),
            Err(error) => {
                // A server that is running here must not find a file of ours.
                let _ = disk.remove_file(&new);
                Err(error)
            }
        }
    }

    /// Allows servers to start again.
    ///
    /// # Errors
    /// The operating system's.
    pub fn give_up(self, disk: &dyn Disk) -> Result<()> {
        disk.remove_file(&self.0).context(|| format!("could not remove \"{}\"", self.0.display()))
    }
}

/// Gives the whole file its name, in place of that of a dead server or recovery.
fn put_in_place(disk: &dyn Disk, data_directory: &Path, new: &Path, path: &Path) -> Result<()> {
    let what = || format!("could not write \"{}\"", path.display());
    match disk.rename_new(new, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => remove_dead(disk, data_directory)?,
        renamed => return renamed.context(what),
    }
    match disk.rename_new(new, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(being_started(data_directory)),
        renamed => renamed.context(what),
    }
}

/// Removes the `postmaster.pid` of a dead server only; a server that starts at this moment may have replaced
/// it. The file is therefore moved aside first and checked under its new name.
fn remove_dead(disk: &dyn Disk, data_directory: &Path) -> Result<()> {
    let (path, old) = (data_directory.join(NAME), data_directory.join(OLD_NAME));
    let what = || format!("could not remove \"{}\"", path.display());
    let judged = content_of(&path).context(what)?;
    super::examine::refuse_running(data_directory)?;
    durable::remove_all(disk, &old)?;
    match remove_judged(disk, &path, &old, judged.as_deref()).context(what)? {
        true => Ok(()),
        false => Err(being_started(data_directory)),
    }
}

/// Removes `path` by way of `old` if its content is still `judged`; otherwise keeps it and returns `false`.
fn remove_judged(disk: &dyn Disk, path: &Path, old: &Path, judged: Option<&[u8]>) -> io::Result<bool> {
    match disk.rename_new(path, old) {
        // The server that was starting has exited.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        renamed => renamed?,
    }
    if content_of(old)?.as_deref() == judged {
        return disk.remove_file(old).map(|()| true);
    }
    let _ = disk.rename_new(old, path);
    Ok(false)
}

/// The content of a file; `None` if there is none.
fn content_of(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

fn being_started(data_directory: &Path) -> Error {
    Error::new(ErrorKind::Conflict, format!("a server is being started in \"{}\"", data_directory.display()))
        .hint("Stop it, then try again.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::RealDisk;

    #[test]
    fn the_file_of_a_server_that_has_just_started_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let (path, old) = (scratch.path().join(NAME), scratch.path().join(OLD_NAME));
        fs::write(&path, "of the new server").unwrap();
        assert!(!remove_judged(&RealDisk, &path, &old, Some(b"of the dead one")).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"of the new server");
        assert!(!old.exists());
        assert!(remove_judged(&RealDisk, &path, &old, Some(b"of the new server")).unwrap());
        assert!(!path.exists() && !old.exists());
        assert!(remove_judged(&RealDisk, &path, &old, None).unwrap(), "there is nothing to remove");
    }

    #[test]
    fn what_a_dead_server_or_recovery_left_is_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join(NAME);
        for left in ["", "999999999\n/data\n1767225600\n5432\n/run\n"] {
            fs::write(&path, left).unwrap();
            let interlock = Interlock::take(&RealDisk, scratch.path()).unwrap();
            assert!(fs::read_to_string(&path).unwrap().starts_with(&std::process::id().to_string()));
            interlock.give_up(&RealDisk).unwrap();
            assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
        }
    }
}
