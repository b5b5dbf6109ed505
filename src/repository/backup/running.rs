//! `running`: the mark of a running backup, with its process.
//!
//! The object is created once, so that two backups cannot use one label, and then overwritten with each heartbeat. A
//! sweep spares a backup with a recent heartbeat. The times are those of
//! [`StoreService::now`](crate::store::StoreService::now): the service's for a bucket, the writer's for a directory.
//! Hosts that share a directory must agree on the time to within [`Running::ALIVE`].

use super::label::Label;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::repository::Repository;
use crate::store::{PutOutcome, StoreExt, json_text};
use jiff::{SignedDuration, Timestamp};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// The version that this pgark writes.
const VERSION: u32 = 1;

/// Far more than the object has.
const RUNNING_BYTES_MAX: u64 = 64 << 10;

/// A running backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The version of this format.
    pub version: u32,
    /// Distinguishes this run from every other.
    pub run: String,
    /// Its host.
    pub host: String,
    /// The boot of the kernel on which it runs, and the PID namespace of its process ID; `None` if the system does not
    /// report them.
    #[serde(flatten)]
    pub place: Option<ProcessPlace>,
    /// Its process ID.
    pub pid: u32,
    /// When it began.
    pub started: Timestamp,
    /// When its process was last alive.
    pub heartbeat: Timestamp,
    /// Its parent, which must not be removed meanwhile, nor its ancestors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Label>,
}

/// Where a process ID identifies one process. Containers may have the same host name, and assign process IDs of their
/// own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlace {
    /// `/proc/sys/kernel/random/boot_id`.
    boot_id: String,
    /// The inode of `/proc/self/ns/pid`. It distinguishes existing namespaces. It may be reused after the end of one,
    /// and then all processes of that have ended.
    pid_namespace: u64,
}

impl ProcessPlace {
    /// That of this process.
    fn here() -> Option<ProcessPlace> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        let pid_namespace = fs::metadata("/proc/self/ns/pid").ok()?.ino();
        Some(ProcessPlace { boot_id, pid_namespace })
    }
}

impl Running {
    /// How often the heartbeat is renewed.
    pub const HEARTBEAT: Duration = Duration::from_secs(30);

    /// The maximum age of a running backup's last heartbeat. Equals many heartbeats, because a store may be unavailable
    /// for a while, and because clocks differ.
    pub const ALIVE: SignedDuration = SignedDuration::from_mins(15);

    /// A run of this process that begins now.
    pub fn begin(now: Timestamp) -> Running {
        let host = host();
        let pid = std::process::id();
        Running {
            version: VERSION,
            run: format!("{host}.{pid}.{}", now.as_nanosecond()),
            host,
            place: ProcessPlace::here(),
            pid,
            started: now,
            heartbeat: now,
            parent: None,
        }
    }

    /// Whether the backup may still be running: its heartbeat is recent, and its process lives if it is visible here.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        now.duration_since(self.heartbeat) <= Running::ALIVE && !self.has_died_here()
    }

    /// Whether its process ID belonged to our PID namespace on this boot and no longer exists. A killed backup can then
    /// be repeated at once. For any other the heartbeat decides, because a host name proves nothing.
    fn has_died_here(&self) -> bool {
        let (Some(place), Ok(pid)) = (&self.place, i32::try_from(self.pid)) else { return false };
        // Not by /proc, which may show another namespace.
        ProcessPlace::here().as_ref() == Some(place) && kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)
    }

    /// Stores the object under an unused label.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the label is in use; those of the store.
    pub fn create(&self, repository: &Repository, label: &Label) -> Result<()> {
        let key = repository.layout().backup_running(label)?;
        match repository.store().put_new(&key, &[&self.to_json()?])? {
            PutOutcome::Created => Ok(()),
            PutOutcome::Exists => {
                Err(Error::new(ErrorKind::Conflict, format!("backup {label} is already running"))
                    .hint("Wait until it ends, or choose another label with --label."))
            }
        }
    }

    /// Overwrites the object of a run that is considered dead, and that notices it at its next heartbeat.
    ///
    /// # Errors
    /// Those of the store.
    pub fn take_over(&self, repository: &Repository, label: &Label) -> Result<()> {
        repository.store().replace(&repository.layout().backup_running(label)?, &self.to_json()?)
    }

    /// Renews the heartbeat.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the object is no longer ours: this backup was considered dead and removed.
    pub fn beat(&mut self, repository: &Repository, label: &Label, now: Timestamp) -> Result<()> {
        self.check_ours(repository, label)?;
        self.heartbeat = now;
        repository.store().replace(&repository.layout().backup_running(label)?, &self.to_json()?)
    }

    /// Checks that the object is ours.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if it is not; those of the store.
    pub fn check_ours(&self, repository: &Repository, label: &Label) -> Result<()> {
        if Running::read(repository, label)?.is_some_and(|found| found.run == self.run) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, format!("backup {label} was removed as abandoned while it was still running"))
            .hint("Check that the clocks of all hosts using this repository agree. A backup without a heartbeat for 15 minutes \
                   is removed."))
    }

    /// Reads the mark of this label; `None` if there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`]; those of the store.
    pub fn read(repository: &Repository, label: &Label) -> Result<Option<Running>> {
        let key = repository.layout().backup_running(label)?;
        let Some(text) = repository.store().read_small(&key, RUNNING_BYTES_MAX)? else { return Ok(None) };
        let what = || format!("\"{}\" cannot be used", repository.store().locate(&key));
        let damaged = |error| {
            Error::damaged("it does not identify the running backup").caused_by(error).hint(
                "If no backup with this label is running, remove this object. Otherwise choose another label.",
            )
        };
        serde_json::from_slice(&text).map_err(damaged).context(what).map(Some)
    }

    fn to_json(&self) -> Result<Vec<u8>> {
        json_text(self, "the heartbeat of a backup")
    }
}

fn host() -> String {
    nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned()
}
