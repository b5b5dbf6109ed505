//! The paths within a spool.

use super::process::AgentProcess;
use crate::config::{Config, LOG_FILE_NAME, LogSettings};
use crate::data_directory::{DataDirectory, user_name};
use crate::durable::{self, Disk};
use crate::error::{Context, Error, Result};
use nix::errno::Errno;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, Uid, access};
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The longest path of a Unix socket, in bytes: `sockaddr_un.sun_path` less its final NUL (`unix(7)`).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The paths of one cluster's spool.
#[derive(Clone, Debug)]
pub struct Spool {
    directory: PathBuf,
    socket: PathBuf,
    log: LogSettings,
}

impl Spool {
    /// The spool of a configuration. Does no I/O.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) when the socket's path would exceed the operating
    /// system's limit.
    pub fn of(config: &Config) -> Result<Spool> {
        let directory = config.spool.directory.clone();
        // The name contains the configuration's fingerprint, so that a changed one never talks to an old
        // agent.
        let socket = directory.join(format!("agent-{}.sock", config.fingerprint()));
        let length = socket.as_os_str().as_bytes().len();
        if length > SOCKET_PATH_BYTES_MAX {
            return Err(Error::usage(format!(
                "the path of the agent's socket is {length} bytes long, the limit is {SOCKET_PATH_BYTES_MAX}: \"{}\"",
                socket.display()
            ))
            .hint("Set spool.directory to a shorter path."));
        }
        Ok(Spool { directory, socket, log: config.log.clone() })
    }

    /// The same spool with another agent's socket.
    pub fn with_socket(&self, socket: PathBuf) -> Spool {
        Spool { socket, ..self.clone() }
    }

    /// The spool's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The agent's socket, which exists while an agent with this configuration runs.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The sockets of all agents of this spool, whatever their configuration or version, including those that
    /// dead agents left.
    ///
    /// # Errors
    /// The operating system's. A missing spool has no sockets.
    pub fn sockets(&self) -> Result<Vec<PathBuf>> {
        let what = || format!("could not list \"{}\"", self.directory.display());
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.context(what)?,
        };
        let mut sockets = Vec::new();
        for entry in entries {
            let path = entry.context(what)?.path();
            if path.extension().is_some_and(|extension| extension == "sock") {
                sockets.push(path);
            }
        }
        sockets.sort_unstable();
        Ok(sockets)
    }

    /// The agent of this spool according to the lock file, while the lock is held.
    pub fn holder(&self) -> Option<AgentProcess> {
        let lock = File::open(self.lock()).ok()?;
        match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                fs::read_to_string(self.lock()).ok()?.lines().next()?.trim().parse().ok().map(AgentProcess)
            }
            // Released at once, for an agent that starts at this moment.
            _ => None,
        }
    }

    /// The file whose lock the one agent of this spool holds. Its first line is the agent's process id.
    pub fn lock(&self) -> PathBuf {
        self.directory.join("agent.lock")
    }

    /// The log in the spool, for an agent that cannot write another one.
    pub fn own_log(&self) -> PathBuf {
        self.directory.join(LOG_FILE_NAME)
    }

    /// Where the agent logs, which need not be inside the spool.
    pub fn log(&self) -> &LogSettings {
        &self.log
    }

    /// The file that records which places in the repository exist.
    pub fn places(&self) -> PathBuf {
        self.directory.join("places")
    }

    /// The file that names the spool's owner: the cluster's name and its data directory, one line each.
    pub fn cluster(&self) -> PathBuf {
        self.directory.join("cluster")
    }

    /// Checks that no other cluster uses the spool: their agents would silently end each other.
    ///
    /// A cluster may change its name or its data directory, as after `pg_upgrade`. If both differ, it is
    /// another cluster. A cluster of the same name is another one, too, while a server runs in the other data
    /// directory.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for another cluster's spool, and the operating
    /// system's.
    pub fn check_cluster(&self, config: &Config) -> Result<()> {
        let path = self.cluster();
        let content = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.context(|| format!("could not read \"{}\"", path.display()))?,
        };
        let (name, data_directory) = match content.iter().position(|byte| *byte == b'\n') {
            Some(end) => content.split_at(end),
            None => return Ok(()),
        };
        let data_directory = data_directory.trim_ascii();
        let theirs = Path::new(OsStr::from_bytes(data_directory));
        let other_name = name != config.cluster.as_str().as_bytes();
        let their_server = DataDirectory::open(theirs).ok();
        let is_ours = theirs == config.data_directory
            || their_server.as_ref().is_some_and(|theirs| theirs.is(&config.data_directory));
        let runs = their_server.is_some_and(|theirs| theirs.server_process_id().is_some());
        if is_ours || !(other_name || runs) {
            return Ok(());
        }
        Err(Error::usage(format!(
            "the spool \"{}\" belongs to cluster \"{}\" in \"{}\"",
            self.directory.display(),
            String::from_utf8_lossy(name),
            theirs.display()
        ))
        .hint(format!(
            "Each cluster needs its own spool: set spool.directory. If that cluster no longer exists, remove \"{}\".",
            path.display()
        )))
    }

    /// Records the spool's owner, unless it is another cluster's. If the disk is full, the next agent records
    /// it.
    ///
    /// # Errors
    /// As [`Spool::check_cluster`].
    pub fn claim(&self, config: &Config, disk: &dyn Disk) -> Result<()> {
        self.check_cluster(config)?;
        let data_directory = config.data_directory.as_os_str().as_bytes();
        let content = [config.cluster.as_str().as_bytes(), b"\n", data_directory, b"\n"].concat();
        if !fs::read(self.cluster()).is_ok_and(|known| known == content) {
            let _ = durable::replace_file(disk, &self.cluster(), &content, 0o600);
        }
        Ok(())
    }

    /// The directory of prefetched WAL.
    pub fn prefetch(&self) -> PathBuf {
        self.directory.join("prefetch")
    }

    /// Wraps a failure in the spool. The spool's own trouble comes first.
    pub fn failed(&self, error: Error) -> Error {
        let state = match error.io_kind() {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => "is full",
            Some(io::ErrorKind::ReadOnlyFilesystem) => "is read-only",
            _ => return error,
        };
        error.context(format!("the spool \"{}\" {state}", self.directory.display()))
    }

    /// The reason why the spool cannot be written now, found without trying; `None` if it can.
    pub fn trouble(&self) -> Option<Error> {
        let what = || format!("could not write to \"{}\"", self.directory.display());
        match access(&self.directory, AccessFlags::W_OK) {
            // The agent creates it.
            Err(Errno::ENOENT) => return None,
            Err(errno) => return Some(self.failed(Error::io(what(), errno.into()))),
            Ok(()) => {}
        }
        let left = statvfs(&self.directory).ok()?;
        let is_full = left.blocks_available() == 0 || (left.files() > 0 && left.files_available() == 0);
        is_full.then(|| self.failed(Error::io(what(), io::ErrorKind::StorageFull.into())))
    }

    /// Creates the spool if it is missing, and checks that it is private to this user.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) when the parent directory is missing, or when the
    /// spool belongs to another user or is writable by others; otherwise the operating system's.
    pub fn prepare(&self, disk: &dyn Disk) -> Result<()> {
        self.create(disk).map_err(|error| self.failed(error))
    }

    fn create(&self, disk: &dyn Disk) -> Result<()> {
        let parent = durable::parent_directory(&self.directory);
        if !parent.is_dir() {
            return Err(Error::usage(format!(
                "the spool cannot be created: directory \"{}\" does not exist",
                parent.display()
            ))
            .hint(format!(
                "Create it for the owner of the data directory: install -d -o {} -m 0755 \"{}\"",
                user_name(Uid::effective()),
                parent.display()
            )));
        }
        let name = self.directory.file_name().unwrap_or_default();
        durable::create_directories(disk, parent, Path::new(name), 0o700).map_err(|error| {
            error.hint(format!(
                "Create it for the owner of the data directory: install -d -o {} -m 0700 \"{}\"",
                user_name(Uid::effective()),
                self.directory.display()
            ))
        })?;
        let metadata = fs::symlink_metadata(&self.directory)
            .context(|| format!("could not inspect the spool \"{}\"", self.directory.display()))?;
        if metadata.uid() != Uid::effective().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(Error::usage(format!(
                "the spool \"{}\" belongs to another user, or others may write to it",
                self.directory.display()
            ))
            .hint(format!(
                "It must belong to {} with mode 0700. If another user created it, remove it while no agent is running.",
                user_name(Uid::effective())
            )));
        }
        let prefetch = self.prefetch();
        match disk.create_directory(&prefetch, 0o700) {
            // Two agents may start at once; one of them continues.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.context(|| format!("could not create directory \"{}\"", prefetch.display())),
        }
    }
}
