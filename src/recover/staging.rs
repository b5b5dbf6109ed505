//! The directories into which a cluster is restored: that they are ours, and that they are cleared.
//!
//! While a restore is unfinished, each of them holds a marker, created first and removed last. So the same command run
//! again knows its own remains from everything else, which it never touches. The marker of the data directory goes last of
//! all; shortly before, it names the tablespaces' directories, which have lost theirs by then.

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

/// The marker's name. PostgreSQL passes over files that it does not know, and base backups leave it out by this name.
pub const MARKER: &str = "pgark-recovery-incomplete";

/// The marker of a directory whose content is kept, until it is written whole.
const NEW_MARKER: &str = "pgark-recovery-incomplete.new";

/// Permissions of a data directory whose group must not read it, which is nearly every one.
pub const DIRECTORY_MODE: u32 = 0o700;

/// Permissions of a data directory whose group may read it.
pub const GROUP_DIRECTORY_MODE: u32 = 0o750;

/// What a server notes of its start.
const SERVER_OPTIONS: &str = "postmaster.opts";

/// What is said in the marker, for whoever finds it.
const MARKER_TEXT: &[u8] =
    b"pgark recover has not finished in this directory, which is not a usable cluster.\n\
    Run the same command again, or remove the directory.\n";

/// What was found where a directory is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// An empty directory.
    Empty,
    /// What an unfinished restore of ours left.
    Unfinished,
    /// With `--delta`: a data directory of the system, or a tablespace of it, of which all that is right stays.
    Kept,
}

/// How long a lock is waited for, and how often it is tried.
// A process that another unit test starts holds our descriptors, and with them a lock, until it has become its program.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// How a line of the marker begins that names a tablespace's directory, in the form of Rust's escaped strings.
const TABLESPACE_LINE: &str = "tablespace ";

/// How the line of the marker begins that says that the directory held a cluster before, of this system.
const DELTA_LINE: &str = "delta ";

/// The line of the marker that says that nothing is left which the old server could be started from.
const DISARMED_LINE: &str = "disarmed";

/// A directory that is ours until it is released or the process ends.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    /// Locked, so that no second restore works in the same place.
    marker: File,
    /// What keeps a server from being started in a directory that is kept.
    interlock: Option<Interlock>,
}

/// Takes the lock of a marker. A restore that was killed keeps its lock until its last write has reached the disk.
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
                ));
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

/// Whether a directory holds anything but our marker and what `mkfs` made.
fn is_filled(directory: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name != MARKER && name != LOST_AND_FOUND {
            return Ok(true);
        }
    }
    Ok(false)
}

/// That the marker which was locked is still that of the directory: the restore that was waited for may have finished it, and a
/// server may have been started in it since.
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

/// What it means that a directory which a restore left unfinished has no marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// A tablespace's is removed before the data directory's: it is created again.
    Created,
    /// The data directory's is removed last.
    Finished,
}

/// Opens the marker for appending: a new one, or that of an unfinished restore where it has not lost it.
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
    /// Makes the directory ours: creates it, or clears what an unfinished restore left in it.
    ///
    /// When this returns, the directory is empty but for its marker, which survives a power cut.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when another restore works in it or it was filled meanwhile, and the operating system's.
    pub fn claim(disk: &dyn Disk, path: &Path, found: Found, mode: u32) -> Result<Staging> {
        Staging::claim_if(disk, path, found, mode, Missing::Created, &|| Ok(()))
    }

    /// Claims it if `examined` still holds when nobody else can work in it.
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
        // What was seen before may have been finished, and used, while we waited.
        examined()?;
        // What remains say of themselves stays said until they are gone.
        if marker.metadata().context(what)?.len() == 0 {
            disk.write_all(&marker, MARKER_TEXT).context(what)?;
        }
        disk.sync_file(&marker, &marker_path).context(what)?;
        disk.sync_directory(path).context(what)?;
        if found == Found::Unfinished {
            durable::clear_directory(disk, path, &[MARKER, LOST_AND_FOUND])?;
        } else if found != Found::Kept && is_filled(path).context(what)? {
            // Somebody has filled it since we looked.
            disk.remove_file(&marker_path).context(what)?;
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("\"{}\" is no longer empty", path.display()),
            ));
        }
        Ok(Staging { path: path.to_owned(), marker, interlock: None })
    }

    /// As [`Staging::claim`], for a data directory: what an unfinished restore left in it must still be unfinished when it is
    /// ours, and its marker still be there.
    ///
    /// # Errors
    /// As [`Staging::claim`]; [`ErrorKind::Conflict`] when it was finished, or a server started in it, since it was examined.
    pub fn claim_data_directory(disk: &dyn Disk, path: &Path, found: Found, mode: u32) -> Result<Staging> {
        if found == Found::Unfinished {
            let again = || examine_data_directory(path).map(drop);
            return Staging::claim_if(disk, path, found, mode, Missing::Finished, &again);
        }
        Staging::claim(disk, path, found, mode)
    }

    /// Says durably in the marker that these directories belong to the same restore.
    ///
    /// # Errors
    /// The operating system's.
    pub fn name_tablespaces(&mut self, disk: &dyn Disk, tablespaces: &[&Path]) -> Result<()> {
        // Each a line of its own, whatever a power cut has left of the text above.
        let lines = tablespaces.iter().map(|tablespace| format!("\n{TABLESPACE_LINE}{tablespace:?}\n"));
        self.append(disk, &lines.collect::<String>())
    }

    /// Makes a directory ours whose content is kept as far as it is right, and takes away what a server starts from. When this
    /// returns, that survives a power cut. The marker says what the directory held from the moment on when it has its name:
    /// a recovery without `--delta` would clear what another marker stands in.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when another restore works in it or a server was started meanwhile, and the operating system's.
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
            // It is there since the recovery that is continued.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                disk.remove_file(&new).context(what)?;
                false
            }
            other => other.context(what).map(|()| true)?,
        };
        let mut staging = Staging::claim(disk, path, Found::Kept, mode)?;
        if let Err(error) = staging.keep_servers_out(disk) {
            // Nothing was touched yet. In the directory of a server the marker would call it unusable.
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

    /// From here on no server starts, and one that had begun to is seen.
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

    /// Says that the directory is complete. When this returns, that survives a power cut.
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

    /// Servers of some distributions run under their old name.
    #[test]
    fn a_delta_that_is_refused_leaves_no_marker_in_the_directory_of_a_server() {
        for name in ["postgres", "postmaster"] {
            let scratch = tempfile::tempdir().unwrap();
            let data = scratch.path().join("data");
            fs::create_dir(&data).unwrap();
            let program = scratch.path().join(name);
            fs::copy("/bin/sleep", &program).unwrap();
            let started = || Command::new(&program).arg("600").current_dir(&data).spawn();
            // Other tests fork while the copy is open for writing.
            let mut orphan = std::iter::repeat_with(started).find_map(std::io::Result::ok).unwrap();
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
