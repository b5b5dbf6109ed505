//! The directories into which a cluster is restored: that they are free, that they are ours, that they are cleared.
//!
//! While a restore is unfinished, each of them holds a marker, created first and removed last. So the same command run
//! again knows its own remains from everything else, which it never touches. The marker of the data directory goes last of
//! all; shortly before, it names the tablespaces' directories, which have lost theirs by then.

use crate::data_directory::DataDirectory;
use crate::durable::{self, Disk};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::postgres::{MajorVersion, PostmasterPid, SystemIdentifier};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{AccessFlags, Pid, Uid, access};
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
const LOCK_WAIT_MAX: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 30 });
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
}

/// Looks whether the data directory at `path` can be brought to another state, with all that is right already staying; an
/// absent or empty one is filled.
///
/// # Errors
/// [`ErrorKind::Conflict`] for a running server, and for anything but a data directory of this `system` and `version`;
/// [`ErrorKind::Usage`] when it is not ours to use.
pub fn examine_for_delta(path: &Path, system: SystemIdentifier, version: MajorVersion) -> Result<Found> {
    refuse_root()?;
    refuse_running(path)?;
    refuse_orphans(path)?;
    if fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        refuse_foreign(path)?;
        if let Some(marker) = marker_of(path)? {
            // Until the marker says that it was, what the old server noted is still there.
            if delta_system(&marker).is_none() || marker.lines().any(|line| line == DISARMED_LINE) {
                refuse_started(path)?;
            }
            return match delta_system(&marker) {
                Some(found) if found != system.to_string() => Err(other_system(path, &found, system)),
                _ => Ok(Found::Kept),
            };
        }
        if path.join("PG_VERSION").exists() {
            let control = DataDirectory::open(path)?.assuming(Some(version)).control_file()?;
            if control.system != system {
                return Err(other_system(path, &control.system.to_string(), system));
            }
            if control.version != version {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "\"{}\" is of PostgreSQL {}, and the backup of {version}",
                        path.display(),
                        control.version
                    ),
                ));
            }
            return Ok(Found::Kept);
        }
    }
    examine(path)
}

fn other_system(path: &Path, found: &str, wanted: SystemIdentifier) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("\"{}\" holds the system {found}, and the backup is of system {wanted}", path.display()),
    )
    .hint("--delta brings a copy of the same cluster to another state. Choose another directory, or move this one away.")
}

/// That no other cluster uses what `link`, a path below the data directory, leads to: of a copied data directory links lead to
/// the original's directories. Looked at are the data directory `original` and those of all servers that run on this host.
///
/// # Errors
/// [`ErrorKind::Conflict`] when one does.
pub fn refuse_shared(data_directory: &Path, link: &Path, original: &Path) -> Result<()> {
    let Ok(place) = fs::canonicalize(data_directory.join(link)) else { return Ok(()) };
    let ours = fs::canonicalize(data_directory).ok();
    for other in server_directories().chain([original.to_owned()]) {
        let is_other = fs::canonicalize(&other).ok() != ours;
        if is_other && fs::canonicalize(other.join(link)).is_ok_and(|used| used == place) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "\"{}\" leads to \"{}\", which belongs to \"{}\", too",
                    data_directory.join(link).display(),
                    place.display(),
                    other.display()
                ),
            )
            .hint("It is a copy's link to the original's directory. Remove the link; --tablespace-mapping gives a tablespace another place."));
        }
    }
    Ok(())
}

/// The data directories of the servers that run on this host, as far as they can be seen: each works in its own.
fn server_directories() -> impl Iterator<Item = PathBuf> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|process| {
        let program = fs::read_to_string(process.path().join("comm")).ok()?;
        if program.starts_with("postgres") { fs::read_link(process.path().join("cwd")).ok() } else { None }
    })
}

/// As [`examine_tablespace`], where the data directory is [`Found::Kept`]: a directory to which its link leads is kept, too.
///
/// # Errors
/// As [`examine_tablespace`].
pub fn examine_tablespace_for_delta(path: &Path, link: &Path, data_directory: &Path) -> Result<Found> {
    let leads_there = || Some(fs::canonicalize(link).ok()? == fs::canonicalize(path).ok()?);
    if leads_there() == Some(true) {
        refuse_foreign(path)?;
        return Ok(Found::Kept);
    }
    match marker_of(data_directory)? {
        Some(marker) if path.is_dir() && names_tablespace(&marker, path) => Ok(Found::Kept),
        _ => examine(path),
    }
}

/// Looks whether a data directory can be made at `path`.
///
/// # Errors
/// [`ErrorKind::Conflict`] when something is there: a running server, a data directory, other files.
/// [`ErrorKind::Usage`] when the directory is not ours to use.
pub fn examine_data_directory(path: &Path) -> Result<Found> {
    refuse_root()?;
    refuse_running(path)?;
    let found = examine(path)?;
    if found == Found::Unfinished {
        refuse_started(path)?;
        let marker = marker_of(path)?.unwrap_or_default();
        if delta_system(&marker).is_some() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("\"{}\" is what an unfinished recovery with --delta has left", path.display()),
            )
            .hint("Run it again with --delta; or, if nothing in the directory is of value, remove it."));
        }
    }
    Ok(found)
}

fn refuse_running(path: &Path) -> Result<()> {
    match running_server(path) {
        None => Ok(()),
        Some(process) => Err(Error::new(
            ErrorKind::Conflict,
            format!("a server is running in \"{}\" (process {process})", path.display()),
        )
        .hint("Recover into another directory with --target-directory, or stop that server and move its data away.")),
    }
}

/// The processes of a server whose postmaster was killed go on, and write. The server itself refuses to start beside them.
fn refuse_orphans(path: &Path) -> Result<()> {
    let Ok(directory) = fs::canonicalize(path) else { return Ok(()) };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let process = entry.path();
        let is_there = fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == directory);
        let program = || fs::read_to_string(process.join("comm")).unwrap_or_default();
        if is_there && program().starts_with("postgres") {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "process {} of a server is still at work in \"{}\"",
                    entry.file_name().display(),
                    path.display()
                ),
            )
            .hint("Its postmaster is gone. End the process, then try again."));
        }
    }
    Ok(())
}

/// A server writes this file whenever it starts: there may be new data in what was restored.
fn refuse_started(path: &Path) -> Result<()> {
    if !path.join(SERVER_OPTIONS).exists() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!("a server was started in \"{}\" since it was restored", path.display()),
    )
    .hint(format!(
        "If nothing in it is of value, remove it; if it is in use, remove only the file \"{MARKER}\"."
    )))
}

/// What the marker in a directory says; `None` if there is none.
fn marker_of(directory: &Path) -> Result<Option<String>> {
    match fs::read_to_string(directory.join(MARKER)) {
        Ok(marker) => Ok(Some(marker)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("could not read the marker", error)),
    }
}

fn delta_system(marker: &str) -> Option<String> {
    marker.lines().find_map(|line| line.strip_prefix(DELTA_LINE)).map(str::to_owned)
}

fn names_tablespace(marker: &str, path: &Path) -> bool {
    marker.lines().any(|line| line.strip_prefix(TABLESPACE_LINE) == Some(&format!("{path:?}")))
}

/// Looks whether a tablespace's directory can be made at `path`, or is the remains of an unfinished restore into
/// `data_directory`.
///
/// # Errors
/// [`ErrorKind::Conflict`] when something is in it, [`ErrorKind::Usage`] when it is not ours to use.
pub fn examine_tablespace(path: &Path, data_directory: &Path, found: Found) -> Result<Found> {
    if found == Found::Unfinished && path.is_dir() {
        let marker = marker_of(data_directory)?.unwrap_or_default();
        if names_tablespace(&marker, path) {
            return Ok(Found::Unfinished);
        }
    }
    examine(path)
}

/// Looks whether a directory can be filled at `path`.
fn examine(path: &Path) -> Result<Found> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return nothing_at(path),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(below_a_file(path)),
        Err(error) => return Err(Error::io(format!("could not look at \"{}\"", path.display()), error)),
    };
    if !metadata.is_dir() {
        return Err(Error::new(ErrorKind::Conflict, format!("\"{}\" is not a directory", path.display())));
    }
    refuse_foreign(path)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(path).context(|| format!("could not list \"{}\"", path.display()))? {
        names.push(entry.context(|| format!("could not list \"{}\"", path.display()))?.file_name());
        if names.iter().any(|name| name == MARKER) {
            return Ok(Found::Unfinished);
        }
    }
    if names.is_empty() {
        return Ok(Found::Empty);
    }
    let what =
        if names.iter().any(|name| name == "PG_VERSION") { "holds a data directory" } else { "is not empty" };
    Err(Error::new(ErrorKind::Conflict, format!("\"{}\" {what}", path.display())).hint(format!(
        "pgark recover never overwrites, unless with --delta. Choose another directory, or move this one away: mv \"{0}\" \"{0}.old\"",
        path.display()
    )))
}

fn refuse_foreign(path: &Path) -> Result<()> {
    let metadata = fs::metadata(path).context(|| format!("could not look at \"{}\"", path.display()))?;
    if metadata.uid() == Uid::effective().as_raw() {
        return Ok(());
    }
    Err(Error::usage(format!("directory \"{}\" belongs to another user", path.display())).hint(
        "PostgreSQL wants the server's user as the owner of all its directories: run pgark as that user, and let it own the \
         directory.",
    ))
}

/// The error for a path that leads through something else than directories.
fn below_a_file(path: &Path) -> Error {
    let file = path.ancestors().skip(1).find(|ancestor| ancestor.exists()).unwrap_or(path);
    Error::new(
        ErrorKind::Conflict,
        format!("\"{}\" cannot be created: \"{}\" is not a directory", path.display(), file.display()),
    )
}

/// That a directory can be created where there is none.
fn nothing_at(path: &Path) -> Result<Found> {
    // A link to nowhere has a name, too.
    if fs::symlink_metadata(path).is_ok() {
        return Err(Error::new(ErrorKind::Conflict, format!("\"{}\" is a link to nothing", path.display())));
    }
    let parent = durable::parent_directory(path);
    if !parent.is_dir() {
        return Err(Error::usage(format!(
            "\"{}\" cannot be created: directory \"{}\" does not exist",
            path.display(),
            parent.display()
        ))
        .hint(format!("Create it for the server's user: install -d -m 0700 \"{}\"", parent.display())));
    }
    match access(parent, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Ok(Found::Nothing),
        Err(_) => Err(Error::usage(format!(
            "\"{}\" cannot be created: directory \"{}\" is not writable for this user",
            path.display(),
            parent.display()
        ))
        .hint(format!(
            "As root, create it for the server's user: install -d -m 0700 -o postgres \"{}\"",
            path.display()
        ))),
    }
}

fn refuse_root() -> Result<()> {
    if Uid::effective().is_root() {
        return Err(Error::usage("recover must not run as root").hint(
            "PostgreSQL does not start as root, and refuses a data directory of another user: run it as the server's \
             user, for example with runuser -u postgres -- pgark recover …",
        ));
    }
    Ok(())
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
                    format!("another pgark recover is working in \"{}\"", directory.display()),
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

/// The process of the server that uses a data directory, if one does.
fn running_server(path: &Path) -> Option<i32> {
    let process = PostmasterPid::parse(&fs::read(path.join("postmaster.pid")).ok()?)?.process_id;
    // One of another owner, too: where it is a server after all, its data must not be touched.
    let alive = match kill(Pid::from_raw(process), None) {
        Ok(()) => true,
        Err(errno) => errno == Errno::EPERM,
    };
    (alive && process != std::process::id().cast_signed()).then_some(process)
}

/// Opens the marker for appending: a new one, or that of an unfinished restore where it has not lost it.
fn open_marker(disk: &dyn Disk, path: &Path, found: Found) -> io::Result<File> {
    if matches!(found, Found::Unfinished | Found::Kept) {
        let nofollow = nix::fcntl::OFlag::O_NOFOLLOW.bits();
        match OpenOptions::new().append(true).custom_flags(nofollow).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
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
        let marker = open_marker(disk, &marker_path, found).context(what)?;
        lock(&marker, path)?;
        // What remains say of themselves stays said until they are gone.
        if marker.metadata().context(what)?.len() == 0 {
            disk.write_all(&marker, MARKER_TEXT).context(what)?;
        }
        disk.sync_file(&marker, &marker_path).context(what)?;
        disk.sync_directory(path).context(what)?;
        if found == Found::Unfinished {
            durable::clear_directory(disk, path, Some(MARKER))?;
        } else if found != Found::Kept && fs::read_dir(path).context(what)?.count() != 1 {
            // Somebody has filled it since we looked.
            disk.remove_file(&marker_path).context(what)?;
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("\"{}\" is not empty any more", path.display()),
            ));
        }
        Ok(Staging { path: path.to_owned(), marker })
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
    ) -> Result<Staging> {
        let what = || format!("could not prepare directory \"{}\"", path.display());
        let (marker_path, new) = (path.join(MARKER), path.join(NEW_MARKER));
        durable::remove_all(disk, &new)?;
        let file = disk.create_new(&new, 0o600).context(what)?;
        disk.write_all(&file, MARKER_TEXT).context(what)?;
        disk.write_all(&file, format!("{DELTA_LINE}{system}\n").as_bytes()).context(what)?;
        disk.sync_file(&file, &new).context(what)?;
        match disk.rename_new(&new, &marker_path) {
            // It is there since the recovery that is continued.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                disk.remove_file(&new).context(what)?;
            }
            other => other.context(what)?,
        }
        let mut staging = Staging::claim(disk, path, Found::Kept, DIRECTORY_MODE)?;
        refuse_running(path)?;
        refuse_orphans(path)?;
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
    pub fn release(self, disk: &dyn Disk) -> Result<()> {
        let what = || format!("could not finish directory \"{}\"", self.path.display());
        disk.remove_file(&self.path.join(MARKER)).context(what)?;
        disk.sync_directory(&self.path).context(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::RealDisk;

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

    #[test]
    fn a_running_server_is_noticed() {
        let scratch = tempfile::tempdir().unwrap();
        let pid = scratch.path().join("postmaster.pid");
        assert_eq!(running_server(scratch.path()), None);
        let parent = nix::unistd::getppid().as_raw();
        fs::write(&pid, format!("{parent}\n/x\n")).unwrap();
        assert_eq!(running_server(scratch.path()), Some(parent).filter(|parent| *parent > 1));
        for text in ["999999999\n", "", "x\n", "0\n", "-0\n"] {
            fs::write(&pid, text).unwrap();
            assert_eq!(running_server(scratch.path()), None, "{text:?}");
        }
    }
}
