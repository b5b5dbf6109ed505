//! `running`: that a backup is being taken, and by whom.
//!
//! The object is created once, which is what keeps two backups from one label, and then replaced again and again with a
//! new heartbeat. A sweep leaves a backup alone whose last heartbeat is young. The times in it are those of
//! [`StoreService::now`](crate::store::StoreService::now): of the service for a bucket, of the writer for a directory, where hosts that share
//! it must agree on the time to within [`Running::ALIVE`].

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

/// A backup that is being taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The version of this format.
    pub version: u32,
    /// Tells this run from every other.
    pub run: String,
    /// Where it runs.
    pub host: String,
    /// The boot of the kernel that it runs on, and the PID namespace there in which its process has its number; `None` where the
    /// system does not tell.
    #[serde(flatten)]
    pub place: Option<ProcessPlace>,
    /// Its process there.
    pub pid: u32,
    /// When it began.
    pub started: Timestamp,
    /// When it was last known to run.
    pub heartbeat: Timestamp,
    /// The backup on which it builds: nobody removes that or its ancestors meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Label>,
}

/// Where a process number means one process: containers share the name of a host, and number their processes for themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlace {
    /// `/proc/sys/kernel/random/boot_id`.
    boot_id: String,
    /// The inode of `/proc/self/ns/pid`. It tells namespaces apart that exist at the same time, and may come again when one is
    /// gone: with all of its processes.
    pid_namespace: u64,
}

impl ProcessPlace {
    /// Ours.
    fn here() -> Option<ProcessPlace> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        let pid_namespace = fs::metadata("/proc/self/ns/pid").ok()?.ino();
        Some(ProcessPlace { boot_id, pid_namespace })
    }
}

impl Running {
    /// How often the heartbeat is renewed.
    pub const HEARTBEAT: Duration = Duration::from_secs(30);

    /// How old the last heartbeat of a running backup may be. Many heartbeats long, because a store may be out of reach
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

    /// Whether the backup may still be running: its heartbeat is young, and where its process can be seen from here, it lives.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        now.duration_since(self.heartbeat) <= Running::ALIVE && !self.has_died_here()
    }

    /// Whether its process had its number in our PID namespace, on this boot, and lives no more: a killed backup can be taken
    /// again at once. Of every other the heartbeat decides: a host's name says nothing.
    fn has_died_here(&self) -> bool {
        let (Some(place), Ok(pid)) = (&self.place, i32::try_from(self.pid)) else { return false };
        // Not by /proc, which may show another namespace than ours.
        ProcessPlace::here().as_ref() == Some(place) && kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)
    }

    /// Stores the object under a label that nobody uses.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when somebody does, and the store's own.
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

    /// Stores the object in place of that of a run which is taken for dead; it finds that out at its next heartbeat.
    ///
    /// # Errors
    /// The store's own.
    pub fn take_over(&self, repository: &Repository, label: &Label) -> Result<()> {
        repository.store().replace(&repository.layout().backup_running(label)?, &self.to_json()?)
    }

    /// Renews the heartbeat.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the object is not ours any more: somebody took this backup for dead and removed it.
    pub fn beat(&mut self, repository: &Repository, label: &Label, now: Timestamp) -> Result<()> {
        self.check_ours(repository, label)?;
        self.heartbeat = now;
        repository.store().replace(&repository.layout().backup_running(label)?, &self.to_json()?)
    }

    /// Makes sure that the object is ours.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it is not, and the store's own.
    pub fn check_ours(&self, repository: &Repository, label: &Label) -> Result<()> {
        if Running::read(repository, label)?.is_some_and(|found| found.run == self.run) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, format!("backup {label} was removed as abandoned while it was still running"))
            .hint("Check that the clocks of all hosts using this repository agree. A backup without a heartbeat for 15 minutes \
                   is removed."))
    }

    /// Who is taking the backup of this label; `None` when nobody is.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], and the store's own.
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
