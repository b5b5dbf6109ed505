//! Claims and clears the directories into which a cluster is restored.
//!
//! During a restore each of them holds a marker, created first and removed last. The same command, run again,
//! recognizes its own remains by the marker and touches nothing else. The data directory's marker is removed
//! last of all. Shortly before, it lists the tablespaces' directories, whose own markers are removed by then.

mod examine;

pub mod interlock;

pub use examine::{
    examine_data_directory, examine_for_delta, examine_tablespace, examine_tablespace_for_delta,
    refuse_nested, refuse_shared,
};

use crate::durable::{self, Disk};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::postgres::SystemIdentifier;
pub use examine::LOST_AND_FOUND;
use examine::{refuse_orphans, refuse_running};
use interlock::Interlock;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// File name of the marker. PostgreSQL ignores unknown files, and base backups exclude this name.
pub const MARKER: &str = "pgark-recovery-incomplete";

/// The marker of a directory with kept content, while it is being written.
const NEW_MARKER: &str = "pgark-recovery-incomplete.new";

/// Permissions of a data directory without group access, the usual case.
pub const DIRECTORY_MODE: u32 = 0o700;

/// Permissions of a data directory with group access.
pub const GROUP_DIRECTORY_MODE: u32 = 0o750;

/// File in which a server records its start options.
const SERVER_OPTIONS: &str = "postmaster.opts";

/// Text of the marker, addressed to an operator who finds it.
const MARKER_TEXT: &[u8] =
    b"pgark recover has not finished in this directory, which is not a usable cluster.\n\
    Run the same command again, or remove the directory.\n";

/// What exists at a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No directory.
    Nothing,
    /// An empty directory.
    Empty,
    /// The remains of an unfinished restore.
    Unfinished,
    /// With `--delta`: a data directory of the system, or one of its tablespaces, whose matching content is
    /// kept.
    Kept,
}

/// How long to wait for a lock, and the retry interval.
// A process started by another unit test inherits these descriptors, and with them a lock, until it calls
// exec.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Prefix of a marker line that names a tablespace's directory, in Rust's escaped string form.
const TABLESPACE_LINE: &str = "tablespace ";

/// Prefix of the marker line that names the system whose cluster the directory held before.
const DELTA_LINE: &str = "delta ";

/// The marker line that says that the old server can no longer be started.
const DISARMED_LINE: &str = "disarmed";

/// A directory claimed until it is released or the process ends.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    /// Locked, so that no second restore uses the same directory.
    marker: File,
    /// Prevents a server from starting in a directory with kept content.
    interlock: Option<Interlock>,
}

/// Locks a marker. A killed restore keeps its lock until its last write has reached the disk.
fn lock(marker: &File, directory: &Path) -> Result<()> {
    let deadline = Instant::now() + LOCK_WAIT_MAX;
    loop {
        match marker.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("another pgark recover is running in \"{}\"", directory.display()),
                )
                .hint("Wait until it ends, or choose another directory with --target-directory."));
            }
            Err(TryLockError::Error(error)) => {
                return Err(Error::io(
                    format!("could not lock directory \"{}\"", directory.display()),
                    error,
                ));
            }
        }
    }
}

/// Whether a directory holds anything besides the marker and the files that `mkfs` creates.
fn is_filled(directory: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name != MARKER && name != LOST_AND_FOUND {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Checks that the locked marker is still in the directory. The restore that held the lock may have finished,
/// and a server may have started there since.
fn refuse_finished(marker: &File, directory: &Path) -> Result<()> {
    let identity = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    let path = directory.join(MARKER);
    let ours = marker.metadata().context(|| format!("could not inspect \"{}\"", path.display()))?;
    match fs::symlink_metadata(&path) {
        Ok(found) if identity(&found) == identity(&ours) => Ok(()),
        _ => Err(finished(directory)),
    }
}

fn finished(directory: &Path) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("another pgark recover has meanwhile finished in \"{}\"", directory.display()),
    )
    .hint("The restored cluster is complete, and a server may be running in it. Choose another directory, or inspect this one first.")
}

/// Meaning of a missing marker in the directory of an unfinished restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// Create it again: a tablespace's marker is removed before the data directory's.
    Created,
    /// The restore is finished: the data directory's marker is removed last.
    Finished,
}

/// Opens the marker for appending: a new one, or that of an unfinished restore, if it still exists.
fn open_marker(disk: &dyn Disk, path: &Path, found: Found, missing: Missing) -> io::Result<File> {
    if matches!(found, Found::Unfinished | Found::Kept) {
        let nofollow = nix::fcntl::OFlag::O_NOFOLLOW.bits();
        match OpenOptions::new().append(true).custom_flags(nofollow).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && missing == Missing::Created => {}
            other => return other,
        }
    }
    disk.create_new(path, 0o600)
}

impl Staging {
    /// Claims a directory: creates it, or clears the remains of an unfinished restore.
    ///
    /// On return, the directory contains only its marker, which is durable.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if another restore uses it or it is no longer empty; those of the operating
    /// system.
    pub fn claim(disk: &dyn Disk, path: &Path, found: Found, mode: u32) -> Result<Staging> {
        Staging::claim_if(disk, path, found, mode, Missing::Created, &|| Ok(()))
    }

    /// Claims it if `examined` still succeeds under the lock.
    fn claim_if(
        disk: &dyn Disk,
        path: &Path,
        found: Found,
        mode: u32,
        missing: Missing,
        examined: &dyn Fn() -> Result<()>,
    ) -> Result<Staging> {
        let what = || format!("could not prepare directory \"{}\"", path.display());
        match found {
            Found::Nothing => {
                disk.create_directory(path, mode).context(what)?;
                disk.sync_directory(durable::parent_directory(path)).context(what)?;
            }
            Found::Empty | Found::Unfinished | Found::Kept => {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).context(what)?;
            }
        }
        let marker_path = path.join(MARKER);
        let marker = match open_marker(disk, &marker_path, found, missing) {
            Err(error) if missing == Missing::Finished && error.kind() == io::ErrorKind::NotFound => {
                return Err(finished(path));
            }
            opened => opened.context(what)?,
        };
        lock(&marker, path)?;
        refuse_finished(&marker, path)?;
        // During the wait the directory may have been completed and used.
        examined()?;
        // The lines of remains are kept until the remains are removed.
        if marker.metadata().context(what)?.len() == 0 {
            disk.write_all(&marker, MARKER_TEXT).context(what)?;
        }
        disk.sync_file(&marker, &marker_path).context(what)?;
        disk.sync_directory(path).context(what)?;
        if found == Found::Unfinished {
            durable::clear_directory(disk, path, &[MARKER, LOST_AND_FOUND])?;
        } else if found != Found::Kept && is_filled(path).context(what)? {
            // Another program has added files since the examination.
            disk.remove_file(&marker_path).context(what)?;
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("\"{}\" is no longer empty", path.display()),
            )
            .hint("Another program writes into this directory. Stop it and empty the directory, or choose another one."));
        }
        Ok(Staging { path: path.to_owned(), marker, interlock: None })
    }

    /// Like [`Staging::claim`], for a data directory: the remains of an unfinished restore must still be
    /// unfinished under the lock, with their marker in place.
    ///
    /// # Errors
    /// As [`Staging::claim`]; [`ErrorKind::Conflict`] if it was finished, or a server started in it, since
    /// the examination.
    pub fn claim_data_directory(disk: &dyn Disk, path: &Path, found: Found, mode: u32) -> Result<Staging> {
        if found == Found::Unfinished {
            let again = || examine_data_directory(path).map(drop);
            return Staging::claim_if(disk, path, found, mode, Missing::Finished, &again);
        }
        Staging::claim(disk, path, found, mode)
    }

    /// Records durably in the marker that these directories belong to the same restore.
    ///
    /// # Errors
    /// The operating system's.
    pub fn name_tablespaces(&mut self, disk: &dyn Disk, tablespaces: &[&Path]) -> Result<()> {
        // Each on a line of its own, whatever part of the text above a power failure has left.
        let lines = tablespaces.iter().map(|tablespace| format!("\n{TABLESPACE_LINE}{tablespace:?}\n"));
        self.append(disk, &lines.collect::<String>())
    }

    /// Claims a directory whose matching content is kept, and removes the files that a server starts from. On
    /// return, this is durable. The marker contains its full text from the moment it has its final name,
    /// because a recovery without `--delta` would clear a directory with any other marker.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if another restore uses it or a server has started; those of the operating
    /// system.
    pub fn claim_kept(
        disk: &dyn Disk,
        path: &Path,
        system: SystemIdentifier,
        tablespaces: &[&Path],
        mode: u32,
    ) -> Result<Staging> {
        let what = || format!("could not prepare directory \"{}\"", path.display());
        let (marker_path, new) = (path.join(MARKER), path.join(NEW_MARKER));
        refuse_running(path)?;
        durable::remove_all(disk, &new)?;
        let file = disk.create_new(&new, 0o600).context(what)?;
        disk.write_all(&file, MARKER_TEXT).context(what)?;
        disk.write_all(&file, format!("{DELTA_LINE}{system}\n").as_bytes()).context(what)?;
        disk.sync_file(&file, &new).context(what)?;
        let is_new = match disk.rename_new(&new, &marker_path) {
            // It remains from the recovery that is being continued.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                disk.remove_file(&new).context(what)?;
                false
            }
            other => other.context(what).map(|()| true)?,
        };
        let mut staging = Staging::claim(disk, path, Found::Kept, mode)?;
        if let Err(error) = staging.keep_servers_out(disk) {
            // Nothing has changed yet. A marker would declare a server's directory unusable.
            if is_new {
                let _ = disk.remove_file(&marker_path);
            }
            return Err(error);
        }
        staging.name_tablespaces(disk, tablespaces)?;
        for name in ["global/pg_control", SERVER_OPTIONS] {
            let path = path.join(name);
            durable::remove_all(disk, &path)?;
            if durable::parent_directory(&path).is_dir() {
                disk.sync_directory(durable::parent_directory(&path)).context(what)?;
            }
        }
        staging.append(disk, &format!("{DISARMED_LINE}\n"))?;
        Ok(staging)
    }

    /// Prevents new servers from starting, and detects one that was already starting.
    fn keep_servers_out(&mut self, disk: &dyn Disk) -> Result<()> {
        let interlock = Interlock::take(disk, &self.path)?;
        match refuse_orphans(&self.path) {
            Ok(()) => {
                self.interlock = Some(interlock);
                Ok(())
            }
            Err(error) => {
                let _ = interlock.give_up(disk);
                Err(error)
            }
        }
    }

    fn append(&mut self, disk: &dyn Disk, text: &str) -> Result<()> {
        let path = self.path.join(MARKER);
        let what = || format!("could not write \"{}\"", path.display());
        disk.write_all(&self.marker, text.as_bytes()).context(what)?;
        disk.sync_file(&self.marker, &path).context(what)
    }

    /// Marks the directory as complete. On return, this is durable.
    ///
    /// # Errors
    /// The operating system's.
    pub fn release(mut self, disk: &dyn Disk) -> Result<()> {
        let path = self.path.clone();
        let what = || format!("could not finish directory \"{}\"", path.display());
        if let Some(interlock) = self.interlock.take() {
            interlock.give_up(disk)?;
        }
        disk.remove_file(&self.path.join(MARKER)).context(what)?;
        disk.sync_directory(&self.path).context(what)
    }
}

#[cfg(test)]
mod tests {
    use super::examine::examine;
    use super::*;
    use crate::durable::RealDisk;
    use std::process::Command;

    fn claim(path: &Path) -> Result<Staging> {
        Staging::claim(&RealDisk, path, examine(path)?, 0o700)
    }

    #[test]
    fn only_a_free_place_or_our_own_remains_are_taken() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("data");
        assert_eq!(examine(&path).unwrap(), Found::Nothing);
        let staging = claim(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::create_dir(path.join("base")).unwrap();
        fs::write(path.join("base/1"), b"x").unwrap();
        assert_eq!(claim(&path).unwrap_err().kind(), ErrorKind::Conflict, "it is being worked in");
        drop(staging);
        assert_eq!(examine(&path).unwrap(), Found::Unfinished);
        let staging = claim(&path).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "cleared but for the marker");
        staging.release(&RealDisk).unwrap();
        assert_eq!(examine(&path).unwrap(), Found::Empty);
    }

    #[test]
    fn whatever_else_is_there_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let data = scratch.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("PG_VERSION"), b"15\n").unwrap();
        let error = examine(&data).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.report().contains("holds a data directory"));
        fs::write(scratch.path().join("file"), b"").unwrap();
        assert_eq!(examine(&scratch.path().join("file")).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(examine(&scratch.path().join("file/b/c")).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(examine(&scratch.path().join("a/b")).unwrap_err().kind(), ErrorKind::Usage);
        std::os::unix::fs::symlink("nowhere", scratch.path().join("link")).unwrap();
        assert_eq!(examine(&scratch.path().join("link")).unwrap_err().kind(), ErrorKind::Conflict);
    }

    #[test]
    fn a_tablespace_that_lost_its_marker_is_known_by_that_of_the_data_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let (data, space, other) =
            (scratch.path().join("data"), scratch.path().join("a \"b\"\n"), scratch.path().join("other"));
        let mut claimed = claim(&data).unwrap();
        let tablespaces = [claim(&space).unwrap()];
        fs::write(space.join("x"), b"").unwrap();
        claimed.name_tablespaces(&RealDisk, &[&space]).unwrap();
        for tablespace in tablespaces {
            tablespace.release(&RealDisk).unwrap();
        }
        drop(claimed);
        fs::create_dir(&other).unwrap();
        fs::write(other.join("x"), b"").unwrap();
        let found = examine(&data).unwrap();
        assert!(examine(&space).is_err());
        for _ in 0..2 {
            assert_eq!(examine_tablespace(&space, &data, found).unwrap(), Found::Unfinished);
            assert!(examine_tablespace(&other, &data, found).is_err());
            drop(claim(&data).unwrap());
        }
        Staging::claim(&RealDisk, &space, Found::Unfinished, 0o700).unwrap();
        assert!(!space.join("x").exists());
    }

    #[test]
    fn clearing_follows_no_links() {
        let scratch = tempfile::tempdir().unwrap();
        let (data, other) = (scratch.path().join("data"), scratch.path().join("other"));
        drop(claim(&data).unwrap());
        fs::create_dir(&other).unwrap();
        fs::write(other.join("precious"), b"x").unwrap();
        std::os::unix::fs::symlink(&other, data.join("link")).unwrap();
        claim(&data).unwrap();
        assert!(other.join("precious").exists());
        assert!(!data.join("link").exists());
    }

    /// Servers of some distributions run under a former name.
    #[test]
    fn a_delta_that_is_refused_leaves_no_marker_in_the_directory_of_a_server() {
        for name in ["postgres", "postmaster"] {
            let scratch = tempfile::tempdir().unwrap();
            let data = scratch.path().join("data");
            fs::create_dir(&data).unwrap();
            let program = scratch.path().join(name);
            fs::copy("/bin/sleep", &program).unwrap();
            let started = || Command::new(&program).arg("600").current_dir(&data).spawn();
            // Other tests may fork while the copy is open for writing.
            let mut orphan =
                std::iter::repeat_with(started).take(10_000).find_map(std::io::Result::ok).unwrap();
            let claim = || Staging::claim_kept(&RealDisk, &data, "7".parse().unwrap(), &[], 0o700);
            let refused = claim().unwrap_err();
            assert!(refused.to_string().contains("is still running in"), "{refused}");
            assert_eq!(fs::read_dir(&data).unwrap().count(), 0, "{name}");
            orphan.kill().unwrap();
            orphan.wait().unwrap();
            claim().unwrap();
            assert!(data.join(MARKER).exists());
        }
    }
}
