//! The sections of the configuration as fields. A field's description and default are in `keys.rs`.

use super::compression::Compression;
use super::conninfo::Conninfo;
use super::pace::PaceSettings;
use super::settings::Settings;
use super::url::RepositoryUrl;
use crate::error::{Error, Result};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// `[repository]`
#[derive(Clone, Debug)]
pub struct RepositorySettings {
    /// Where WAL and base backups are kept.
    pub url: RepositoryUrl,
}

/// `[connection]`
#[derive(Clone, Debug)]
pub struct ConnectionSettings {
    /// How to reach the server.
    pub conninfo: Conninfo,
    /// How to reach the standby that backups are taken from.
    pub standby: Option<Conninfo>,
}

/// `[spool]`
#[derive(Clone, Debug)]
pub struct SpoolSettings {
    /// Where the archive programs meet the agent.
    pub directory: PathBuf,
}

/// `[push]`
#[derive(Clone, Debug)]
pub struct PushSettings {
    /// How long `archive-push` waits for a verdict.
    pub deadline: Duration,
}

/// `[get]`
#[derive(Clone, Debug)]
pub struct GetSettings {
    /// How long `archive-get` retries in a one-shot recovery.
    pub deadline: Duration,
    /// How long it retries for a segment on a standby.
    pub standby_segment_deadline: Duration,
    /// How long it retries for a history file on a standby.
    pub standby_history_deadline: Duration,
    /// Limit for WAL fetched ahead into the spool, in bytes; 0 disables fetching ahead.
    pub prefetch_max_bytes: u64,
}

/// `[agent]`
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// The `pgark` to start; `None`: the one beside the running program.
    pub program: Option<PathBuf>,
    /// Who starts it.
    pub start: AgentStart,
    /// Whether one that an archive program starts outlives the call.
    pub resident: bool,
    /// How long an agent runs without a request before it ends.
    pub idle: Duration,
    /// The maximum pause between attempts of the agent while the repository is unavailable.
    pub retry_max: Duration,
    /// The number of WAL files to transfer in parallel.
    pub workers: NonZeroUsize,
    /// The maximum size of the log.
    pub log_max_bytes: u64,
    /// Its limits of CPU and I/O.
    pub pace: PaceSettings,
}

/// Who starts the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentStart {
    /// The archive programs, when they need it.
    Needed,
    /// Another program, such as systemd.
    Never,
}

/// `[backup]`
#[derive(Clone, Debug)]
pub struct BackupSettings {
    /// The number of packs to write in parallel.
    pub workers: NonZeroUsize,
    /// How long to wait for the backup's WAL to arrive in the repository.
    pub wal_deadline: Duration,
    /// The checkpoint that begins the backup.
    pub checkpoint: Checkpoint,
    /// How many incremental backups may follow a full one.
    pub chain_max: usize,
    /// Its limits of CPU and I/O.
    pub pace: PaceSettings,
}

/// `[recover]`
#[derive(Clone, Debug)]
pub struct RecoverSettings {
    /// The number of packs to restore in parallel.
    pub workers: NonZeroUsize,
    /// How many bytes of stored WAL are read to prove a target.
    pub prove_wal_bytes: u64,
    /// How long an abandoned timeline may continue after the other one has begun and still count as a failover.
    pub fork_window: Duration,
    /// Its limits of CPU and I/O.
    pub pace: PaceSettings,
}

/// How a checkpoint is made: the argument `fast` of PostgreSQL's `pg_backup_start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// Spread over time, as the server's own are; may take minutes.
    Spread,
    /// Immediately, with a burst of I/O.
    Fast,
}

impl ConnectionSettings {
    /// The server to back up.
    pub fn backed_up(&self) -> &Conninfo {
        self.standby.as_ref().unwrap_or(&self.conninfo)
    }

    /// The primary of the standby from which backups are taken, if both are configured.
    pub fn primary(&self) -> Option<&Conninfo> {
        self.standby.as_ref().map(|_| &self.conninfo).filter(|conninfo| !conninfo.reveal().trim().is_empty())
    }
}

impl RepositorySettings {
    pub(super) fn read(settings: &Settings) -> RepositorySettings {
        RepositorySettings { url: settings.repository_url("repository.url") }
    }
}

impl ConnectionSettings {
    pub(super) fn read(settings: &Settings) -> ConnectionSettings {
        ConnectionSettings {
            conninfo: settings.conninfo("connection.conninfo"),
            standby: settings.optional_conninfo("connection.standby"),
        }
    }
}

impl SpoolSettings {
    pub(super) fn read(settings: &Settings) -> SpoolSettings {
        SpoolSettings { directory: settings.path("spool.directory") }
    }
}

impl PushSettings {
    pub(super) fn read(settings: &Settings) -> PushSettings {
        PushSettings { deadline: settings.time("push.deadline") }
    }
}

impl GetSettings {
    pub(super) fn read(settings: &Settings) -> GetSettings {
        GetSettings {
            deadline: settings.time("get.deadline"),
            standby_segment_deadline: settings.time("get.standby_segment_deadline"),
            standby_history_deadline: settings.time("get.standby_history_deadline"),
            prefetch_max_bytes: settings.bytes("get.prefetch_max"),
        }
    }
}

impl AgentSettings {
    pub(super) fn read(settings: &Settings) -> AgentSettings {
        AgentSettings {
            program: settings.optional_path("agent.program"),
            start: match settings.word("agent.start") {
                "never" => AgentStart::Never,
                _ => AgentStart::Needed,
            },
            resident: settings.truth("agent.resident"),
            idle: settings.time("agent.idle"),
            retry_max: settings.time("agent.retry_max"),
            workers: settings.count("agent.workers"),
            log_max_bytes: settings.bytes("agent.log_max"),
            pace: PaceSettings::read(settings, "agent"),
        }
    }
}

impl BackupSettings {
    pub(super) fn read(settings: &Settings) -> BackupSettings {
        BackupSettings {
            workers: settings.count("backup.workers"),
            wal_deadline: settings.time("backup.wal_deadline"),
            checkpoint: match settings.word("backup.checkpoint") {
                "fast" => Checkpoint::Fast,
                _ => Checkpoint::Spread,
            },
            pace: PaceSettings::read(settings, "backup"),
            chain_max: settings.count("backup.chain_max").get(),
        }
    }
}

impl RecoverSettings {
    pub(super) fn read(settings: &Settings) -> RecoverSettings {
        RecoverSettings {
            workers: settings.count("recover.workers"),
            prove_wal_bytes: settings.bytes("recover.prove_wal"),
            fork_window: settings.time("recover.fork_window"),
            pace: PaceSettings::read(settings, "recover"),
        }
    }
}

impl Compression {
    /// Reads `[compression]`.
    ///
    /// # Errors
    /// Usage: a level without zstd.
    pub(super) fn read(settings: &Settings) -> Result<Compression> {
        let method = settings.word("compression.method");
        if method != "zstd" && settings.is_given("compression.level") {
            let error = Error::usage(format!("\"compression.level\" has no meaning for {method}"))
                .hint("Set compression.method = \"zstd\", or remove compression.level.");
            return Err(settings.blame("compression.level", error));
        }
        Ok(match method {
            "zstd" => Compression::Zstd {
                level: u8::try_from(settings.number("compression.level")).unwrap_or(u8::MAX),
            },
            "none" => Compression::None,
            _ => Compression::Lz4,
        })
    }
}
