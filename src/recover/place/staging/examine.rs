//! Examines whether a directory is available for a restore: free, or holding pgark's own remains. Writes
//! nothing.

use super::{DELTA_LINE, DISARMED_LINE, Found, MARKER, SERVER_OPTIONS, TABLESPACE_LINE};
use crate::data_directory::{DataDirectory, is_server_process, may_be_server};
use crate::durable;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::postgres::wal::header::LongPageHeader;
use crate::postgres::{MajorVersion, PostmasterPid, SegmentName, SystemIdentifier};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{AccessFlags, Pid, Uid, access};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The directory that `mkfs` creates in the root of a file system, and that `fsck` may need.
pub const LOST_AND_FOUND: &str = "lost+found";

/// Examines whether the data directory at `path` can be changed in place, keeping matching content. An absent
/// or empty directory is filled.
///
/// # Errors
/// [`ErrorKind::Conflict`] for a running server, and for anything but a data directory of this `system` and
/// `version`; [`ErrorKind::Usage`] if its ownership or permissions forbid it, or if pgark runs as root.
pub fn examine_for_delta(path: &Path, system: SystemIdentifier, version: MajorVersion) -> Result<Found> {
    refuse_root()?;
    refuse_running(path)?;
    refuse_orphans(path)?;
    if fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        refuse_foreign(path)?;
        if let Some(marker) = marker_of(path)? {
            // Until the marker contains that line, the old server's records are still there.
            if delta_system(&marker).is_none() || marker.lines().any(|line| line == DISARMED_LINE) {
                refuse_started(path)?;
            }
            return match delta_system(&marker) {
                Some(found) if found != system.to_string() => Err(other_system(path, &found, system)),
                _ => Ok(Found::Kept),
            };
        }
        if path.join("PG_VERSION").exists() {
            let directory = DataDirectory::open(path)?.assuming(Some(version));
            let control = match directory.control_file() {
                Ok(control) => control,
                // A cluster without a readable pg_control can still be recovered: its WAL names its system.
                Err(_) if system_of_wal(path, version) == Some(system) => return Ok(Found::Kept),
                Err(error) => {
                    return Err(error.hint(format!(
                        "Neither pg_control nor any segment in pg_wal shows that the directory belongs to system {system}. \
                         Move it away, and recover into an empty directory."
                    )));
                }
            };
            if control.system != system {
                return Err(other_system(path, &control.system.to_string(), system));
            }
            if control.version != version {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "\"{}\" is of PostgreSQL {}, but the backup is of {version}",
                        path.display(),
                        control.version
                    ),
                )
                .hint("Choose another directory with --target-directory, or a backup of that version with --backup."));
            }
            return Ok(Found::Kept);
        }
    }
    examine(path)
}

/// The system identifier in the first readable segment of `pg_wal`.
fn system_of_wal(path: &Path, version: MajorVersion) -> Option<SystemIdentifier> {
    let entries = fs::read_dir(path.join("pg_wal")).ok()?;
    entries.flatten().find_map(|entry| {
        entry.file_name().to_str()?.parse::<SegmentName>().ok()?;
        let mut start = Vec::new();
        let file = durable::open_regular(&entry.path()).ok()?;
        file.take(u64::from(LongPageHeader::BYTES)).read_to_end(&mut start).ok()?;
        LongPageHeader::parse(&start, Some(version)).ok().map(|header| header.system)
    })
}

fn other_system(path: &Path, found: &str, wanted: SystemIdentifier) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("\"{}\" has system identifier {found}, but the backup has {wanted}", path.display()),
    )
    .hint(
        "--delta works only on a copy of the same cluster. Choose another directory, or move this one away.",
    )
}

/// Checks that no other cluster uses the target of `link`, a path below the data directory, because links in
/// a copied data directory lead to the original's directories. Examines the data directory `original` and
/// those of all servers that run on this host.
///
/// # Errors
/// [`ErrorKind::Conflict`] if another cluster uses it.
pub fn refuse_shared(data_directory: &Path, link: &Path, original: &Path) -> Result<()> {
    let Ok(place) = fs::canonicalize(data_directory.join(link)) else { return Ok(()) };
    let ours = fs::canonicalize(data_directory).ok();
    for other in server_directories().chain([original.to_owned()]) {
        let is_other = fs::canonicalize(&other).ok() != ours;
        if is_other && fs::canonicalize(other.join(link)).is_ok_and(|used| used == place) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "\"{}\" points to \"{}\", which also belongs to \"{}\"",
                    data_directory.join(link).display(),
                    place.display(),
                    other.display()
                ),
            )
            .hint("The link in this copy points to the original cluster's directory. Remove the link, and choose another directory \
                   with --tablespace-mapping."));
        }
    }
    Ok(())
}

/// Checks that `path` does not lie inside `outer`; `what` describes `outer`.
///
/// # Errors
/// [`ErrorKind::Usage`] if it does.
pub fn refuse_nested(path: &Path, outer: &Path, what: &str) -> Result<()> {
    // The path itself may not exist yet, but its parent must.
    let resolved = |path: &Path| {
        fs::canonicalize(path).or_else(|error| match path.file_name() {
            Some(name) => Ok(fs::canonicalize(durable::parent_directory(path))?.join(name)),
            None => Err(error),
        })
    };
    let (Ok(path), Ok(outer)) = (resolved(path), fs::canonicalize(outer)) else { return Ok(()) };
    if !path.starts_with(&outer) {
        return Ok(());
    }
    Err(Error::usage(format!("\"{}\" is inside \"{}\", {what}", path.display(), outer.display()))
        .hint("Choose a directory outside it with --target-directory."))
}

/// The data directories of the visible servers on this host, from their working directories.
fn server_directories() -> impl Iterator<Item = PathBuf> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|process| {
        if !is_server_process(&process.path()) {
            return None;
        }
        fs::read_link(process.path().join("cwd")).ok()
    })
}

/// Like [`examine_tablespace`], for a data directory that is [`Found::Kept`]: the directory that its link
/// leads to is kept, too.
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

/// Examines whether a data directory can be created at `path`.
///
/// # Errors
/// [`ErrorKind::Conflict`] if it contains a running server, a data directory, or other files.
/// [`ErrorKind::Usage`] if its ownership or permissions forbid it, or if pgark runs as root.
pub fn examine_data_directory(path: &Path) -> Result<Found> {
    refuse_root()?;
    refuse_running(path)?;
    let found = examine(path)?;
    if found == Found::Unfinished {
        let marker = marker_of(path)?.unwrap_or_default();
        // Checked first, because files of the cluster's own server may still exist.
        if delta_system(&marker).is_some() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("\"{}\" holds an unfinished recovery with --delta", path.display()),
            )
            .hint("Run it again with --delta, or remove the directory if you do not need its contents."));
        }
        refuse_started(path)?;
    }
    Ok(found)
}

pub(super) fn refuse_running(path: &Path) -> Result<()> {
    match running_server(path) {
        None => Ok(()),
        Some(process) => Err(Error::new(
            ErrorKind::Conflict,
            format!("a server is running in \"{}\" (process {process})", path.display()),
        )
        .hint("Recover into another directory with --target-directory, or stop that server and move its data away.")),
    }
}

/// After a postmaster is killed, its child processes may continue to write. The server itself refuses to
/// start beside them.
pub(super) fn refuse_orphans(path: &Path) -> Result<()> {
    let Ok(directory) = fs::canonicalize(path) else { return Ok(()) };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let process = entry.path();
        let is_there = fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == directory);
        if is_there && is_server_process(&process) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "process {} of a server is still running in \"{}\"",
                    entry.file_name().display(),
                    path.display()
                ),
            )
            .hint("Its postmaster has exited. Stop the process, then try again."));
        }
    }
    Ok(())
}

/// A server writes this file at every start, so the restored directory may contain new data.
fn refuse_started(path: &Path) -> Result<()> {
    if !path.join(SERVER_OPTIONS).exists() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!("a server was started in \"{}\" since it was restored", path.display()),
    )
    .hint(format!(
        "If you do not need its contents, remove the directory. If it is in use, remove only the file \"{MARKER}\"."
    )))
}

/// Content of the marker in a directory; `None` if there is none.
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

/// Examines whether a tablespace's directory can be created at `path`, or contains the remains of an
/// unfinished restore into `data_directory`.
///
/// # Errors
/// [`ErrorKind::Conflict`] if it contains other files, [`ErrorKind::Usage`] if its ownership or permissions
/// forbid it.
pub fn examine_tablespace(path: &Path, data_directory: &Path, found: Found) -> Result<Found> {
    if found == Found::Unfinished && path.is_dir() {
        let marker = marker_of(data_directory)?.unwrap_or_default();
        if names_tablespace(&marker, path) {
            return Ok(Found::Unfinished);
        }
    }
    examine(path)
}

/// Examines whether a directory at `path` can be filled.
pub(super) fn examine(path: &Path) -> Result<Found> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return nothing_at(path),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(below_a_file(path)),
        Err(error) => return Err(Error::io(format!("could not inspect \"{}\"", path.display()), error)),
    };
    if !metadata.is_dir() {
        return Err(Error::new(ErrorKind::Conflict, format!("\"{}\" is not a directory", path.display()))
            .hint("Choose another path, or move the file away."));
    }
    refuse_foreign(path)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(path).context(|| format!("could not list \"{}\"", path.display()))? {
        names.push(entry.context(|| format!("could not list \"{}\"", path.display()))?.file_name());
        if names.iter().any(|name| name == MARKER) {
            return Ok(Found::Unfinished);
        }
    }
    // Every new file system has this directory in its root.
    names.retain(|name| name != LOST_AND_FOUND);
    if names.is_empty() {
        return Ok(Found::Empty);
    }
    let what =
        if names.iter().any(|name| name == "PG_VERSION") { "holds a data directory" } else { "is not empty" };
    Err(Error::new(ErrorKind::Conflict, format!("\"{}\" {what}", path.display())).hint(format!(
        "pgark recover overwrites a directory only with --delta. Choose another directory, or move this one away: mv \"{0}\" \
         \"{0}.old\"",
        path.display()
    )))
}

fn refuse_foreign(path: &Path) -> Result<()> {
    let metadata = fs::metadata(path).context(|| format!("could not inspect \"{}\"", path.display()))?;
    if metadata.uid() == Uid::effective().as_raw() {
        return Ok(());
    }
    Err(Error::usage(format!("directory \"{}\" belongs to another user", path.display())).hint(
        "PostgreSQL requires that the server's user owns all its directories. Run pgark as that user, and make it the owner of \
         the directory.",
    ))
}

/// The error for a path with a component that is not a directory.
fn below_a_file(path: &Path) -> Error {
    let file = path.ancestors().skip(1).find(|ancestor| ancestor.exists()).unwrap_or(path);
    Error::new(
        ErrorKind::Conflict,
        format!("\"{}\" cannot be created: \"{}\" is not a directory", path.display(), file.display()),
    )
    .hint("Choose another path, or move the file away.")
}

/// Checks that a missing directory can be created.
fn nothing_at(path: &Path) -> Result<Found> {
    // A dangling link also occupies the name.
    if fs::symlink_metadata(path).is_ok() {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("\"{}\" is a dangling symbolic link", path.display()),
        )
        .hint("Create the directory that it points to, or remove the link."));
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
            "PostgreSQL does not start as root and refuses a data directory of another user. Run pgark recover as the server's \
             user, for example: runuser -u postgres -- pgark recover …",
        ));
    }
    Ok(())
}

/// Process ID of the server that uses a data directory, if any.
fn running_server(path: &Path) -> Option<i32> {
    let content = fs::read(path.join("postmaster.pid")).ok()?;
    let process = PostmasterPid::parse(&content)?.process_id;
    if !may_be_server(process) || (is_interlock(&content) && path.join(MARKER).exists()) {
        return None;
    }
    // Includes a process of another user: if it is a server, its data must not be changed.
    let alive = match kill(Pid::from_raw(process), None) {
        Ok(()) => true,
        Err(errno) => errno == Errno::EPERM,
    };
    (alive && process != std::process::id().cast_signed()).then_some(process)
}

/// Whether a recovery wrote this `postmaster.pid`: it contains only a process ID and the directory, and a
/// server writes five lines at once. The marker's lock tells whether that recovery still runs, because its
/// process ID may be reused.
fn is_interlock(content: &[u8]) -> bool {
    content.iter().filter(|byte| **byte == b'\n').count() == 2 && content.ends_with(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn only_a_file_of_two_lines_is_interlock() {
        assert!(is_interlock(b"12\n/data\n"));
        assert!(
            !is_interlock(b"12\n/data\n1767225600\n5432\n/run\n")
                && !is_interlock(b"")
                && !is_interlock(b"12\n")
        );
    }
}
