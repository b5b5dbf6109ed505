//! The server's data directory, as seen from outside.
//!
//! Owns: which data directory a call concerns, its owner, its system and its recovery mode. Only reads; pgark never
//! stores anything in it.

use crate::durable::{self, Disk, Symlinks};
use crate::error::{Context, Error, ErrorKind, RecoveryMode, Result};
use crate::postgres::cluster::control_file::ControlFile;
use crate::postgres::{MajorVersion, PostmasterPid};
use nix::unistd::Uid;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

/// Number of attempts to read `pg_control` with a correct checksum, because the server may be writing it.
const CONTROL_FILE_READS_MAX: u32 = 20;
/// Pause between two attempts; the server's write takes microseconds.
const CONTROL_FILE_PAUSE: Duration = Duration::from_millis(5);

/// Upper limit for the size of `pg_control`, in bytes; its actual size is 8 KiB.
const CONTROL_FILE_BYTES_MAX: u64 = 64 << 10;

/// Upper limit for the size of `postmaster.pid`, in bytes; a server writes eight lines.
const POSTMASTER_PID_BYTES_MAX: u64 = 64 << 10;

/// `global/pg_control`, as it was read.
#[derive(Debug)]
pub struct ControlFileRead {
    /// What it says.
    pub control: ControlFile,
    /// The verified bytes.
    pub content: Vec<u8>,
    /// Its mode and times.
    pub metadata: Metadata,
}

/// An existing data directory that belongs to the effective user.
#[derive(Clone, Debug)]
pub struct DataDirectory {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    assumed_version: Option<MajorVersion>,
}

impl DataDirectory {
    /// Opens the data directory at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if there is no directory, or it belongs to another user:
    /// the server could not use files that root's cron job creates in a spool or repository.
    pub fn open(path: &Path) -> Result<DataDirectory> {
        let disk = durable::disk();
        let metadata = disk.data_metadata(path, Symlinks::Follow).map_err(|error| {
            Error::io(format!("could not inspect the data directory \"{}\"", path.display()), error)
                .with_kind(crate::error::ErrorKind::Usage)
                .hint("Set data_directory to the server's own: SHOW data_directory.")
        })?;
        if !metadata.is_dir() {
            return Err(Error::usage(format!(
                "the data directory \"{}\" is not a directory",
                path.display()
            )));
        }
        let (owner, we) = (Uid::from_raw(metadata.uid()), Uid::effective());
        if owner != we {
            return Err(Error::usage(format!(
                "the data directory \"{}\" belongs to user {}, but this program runs as user {}",
                path.display(),
                user_name(owner),
                user_name(we)
            ))
            .hint(format!(
                "Run it as the owner of the data directory: runuser -u {} -- …",
                user_name(owner)
            )));
        }
        Ok(DataDirectory { path: path.to_owned(), disk, assumed_version: None })
    }

    /// The same directory, whose `pg_control` is parsed as this version if its own is unknown.
    #[must_use]
    pub fn assuming(self, assumed_version: Option<MajorVersion>) -> DataDirectory {
        DataDirectory { assumed_version, ..self }
    }

    /// The same directory, read through this disk.
    #[must_use]
    pub fn reading_through(self, disk: Arc<dyn Disk>) -> DataDirectory {
        DataDirectory { disk, ..self }
    }

    /// The disk through which its files are read.
    pub fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    /// The version assumed for an unknown one.
    pub fn assumed_version(&self) -> Option<MajorVersion> {
        self.assumed_version
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether `other` is the same directory, in any spelling.
    pub fn is(&self, other: &Path) -> bool {
        let metadata = |path: &Path| self.disk.data_metadata(path, Symlinks::Follow);
        let identity = |path: &Path| metadata(path).map(|found| (found.dev(), found.ino())).ok();
        identity(&self.path).is_some_and(|ours| identity(other) == Some(ours))
    }

    /// The process ID of the running server, according to `postmaster.pid`; `None` if none is running.
    pub fn server_process_id(&self) -> Option<u32> {
        self.running_server().map(|server| server.process_id.unsigned_abs())
    }

    /// The local address of the running server: the directory of its socket, and its port.
    pub fn socket(&self) -> Option<(PathBuf, u16)> {
        let server = self.running_server()?;
        Some((PathBuf::from(server.socket_directory?), server.port?))
    }

    /// The content of `postmaster.pid`, whichever process wrote it; `None` if it cannot be read.
    pub fn postmaster_pid(&self) -> Option<PostmasterPid> {
        let path = self.path.join("postmaster.pid");
        PostmasterPid::parse(&durable::read_data(self.disk(), &path, POSTMASTER_PID_BYTES_MAX).ok()?)
    }

    /// The content of `postmaster.pid`, if its process runs and accepts connections; single-user mode does
    /// not.
    fn running_server(&self) -> Option<PostmasterPid> {
        let server = self.postmaster_pid().filter(|server| !server.single_user)?;
        // The file survives a crash. A process of another owner is not this server either.
        let process = fs::metadata(format!("/proc/{}", server.process_id)).ok()?;
        let ours = process.uid() == Uid::effective().as_raw() && may_be_server(server.process_id);
        ours.then_some(server)
    }

    /// When the running server was asked to shut down; `None` if it was not.
    pub fn stopping_since(&self) -> Option<SystemTime> {
        // First, in case a more urgent request arrives between the two.
        let metadata = self.disk.data_metadata(&self.path.join("postmaster.pid"), Symlinks::Follow);
        let written = metadata.and_then(|file| file.modified()).ok()?;
        self.running_server().filter(|server| server.stopping).map(|_| written)
    }

    /// The content of `global/pg_control`.
    ///
    /// # Errors
    /// As [`DataDirectory::read_control_file`].
    pub fn control_file(&self) -> Result<ControlFile> {
        self.read_control_file().map(|read| read.control)
    }

    /// Reads `global/pg_control`, again while its checksum is wrong, because the server may be writing it.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if the checksum stays wrong,
    /// [`ErrorKind::Usage`] if the directory has no such file; the operating system's.
    pub fn read_control_file(&self) -> Result<ControlFileRead> {
        let path = self.path.join("global/pg_control");
        let unreadable = |error: io::Error| {
            let is_absent = error.kind() == io::ErrorKind::NotFound;
            let error = Error::io(format!("could not read \"{}\"", path.display()), error);
            match is_absent {
                true => {
                    error.with_kind(ErrorKind::Usage).hint("Check that this is a PostgreSQL data directory.")
                }
                false => error,
            }
        };
        let mut read = 1;
        loop {
            let metadata = self.disk.data_metadata(&path, Symlinks::Follow).map_err(unreadable)?;
            if metadata.len() > CONTROL_FILE_BYTES_MAX {
                return Err(Error::damaged(format!("\"{}\" has {} bytes", path.display(), metadata.len())));
            }
            let content =
                durable::read_data(self.disk(), &path, CONTROL_FILE_BYTES_MAX).map_err(unreadable)?;
            match ControlFile::parse(&content, self.assumed_version) {
                Ok(control) => return Ok(ControlFileRead { control, content, metadata }),
                Err(error) if error.kind() == ErrorKind::Damaged && read < CONTROL_FILE_READS_MAX => {
                    thread::sleep(CONTROL_FILE_PAUSE);
                }
                Err(error) => return Err(error).context(|| format!("could not use \"{}\"", path.display())),
            }
            read += 1;
        }
    }
}

/// Whether the process in a `postmaster.pid` may be a server. Process 1 may be one in a container without an init
/// process. Otherwise a server in a container left the file, and process 1 always exists.
pub fn may_be_server(process_id: i32) -> bool {
    process_id != 1 || is_server_process(Path::new("/proc/1"))
}

/// Whether a directory below `/proc` belongs to a process of a PostgreSQL server. Its program is `postgres`,
/// or `postmaster` up to version 15 if a distribution starts it by that link; its children keep the name.
pub fn is_server_process(process: &Path) -> bool {
    fs::read_to_string(process.join("comm"))
        .is_ok_and(|name| name.contains("postgres") || name.contains("postmaster"))
}

/// The recovery mode of the server whose `restore_command` requests `destination` (`pg_wal/RECOVERYXLOG`,
/// relative to the data directory, or absolute).
///
/// Examines names only, because the result determines the exit status of every other failure.
pub fn recovery_mode(destination: &Path) -> RecoveryMode {
    if data_directory_of(destination).join("standby.signal").exists() {
        RecoveryMode::Standby
    } else {
        RecoveryMode::OneShot
    }
}

/// The data directory of `…/pg_wal/<name>`, determined from names only: `pg_wal` may be a symbolic link.
pub fn data_directory_of(wal_path: &Path) -> PathBuf {
    match wal_path.parent().and_then(Path::parent) {
        Some(directory) if !directory.as_os_str().is_empty() => directory.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Whether a path is directly in a `pg_wal`, determined from names only and without `..`.
pub fn lies_in_pg_wal(path: &Path) -> bool {
    path.components().all(|part| part != Component::ParentDir)
        && path.parent().and_then(Path::file_name).is_some_and(|parent| parent == "pg_wal")
}

/// A user's name, or the number if it has none, for messages.
pub fn user_name(uid: Uid) -> String {
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::UnreadableDisk;

    #[test]
    fn a_control_file_that_cannot_be_read_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("global")).unwrap();
        fs::write(scratch.path().join("global/pg_control"), vec![0; 8192]).unwrap();
        let data_directory =
            DataDirectory::open(scratch.path()).unwrap().reading_through(Arc::new(UnreadableDisk));
        let error = data_directory.control_file().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let path = scratch.path().join("global/pg_control");
        assert_eq!(error.report(), format!("could not read \"{}\": input/output error", path.display()));
    }

    #[test]
    fn a_running_server_is_found_by_its_file_and_a_dead_one_is_not() {
        let scratch = tempfile::tempdir().unwrap();
        let data_directory = DataDirectory::open(scratch.path()).unwrap();
        assert_eq!((data_directory.server_process_id(), data_directory.socket()), (None, None));
        let write = |process: u32, directory: &str| {
            let content = format!("{process}\n/data\n1767225600\n5433\n{directory}\n\n");
            fs::write(scratch.path().join("postmaster.pid"), content).unwrap();
        };
        // The test process stands for a server: it is running and has the same owner.
        write(std::process::id(), "/run/postgresql");
        assert_eq!(data_directory.server_process_id(), Some(std::process::id()));
        assert_eq!(data_directory.socket(), Some((PathBuf::from("/run/postgresql"), 5433)));
        write(std::process::id(), "");
        assert_eq!(data_directory.socket(), None, "it listens on TCP only");
        write(u32::MAX, "/run/postgresql");
        assert_eq!((data_directory.server_process_id(), data_directory.socket()), (None, None));
    }
}
