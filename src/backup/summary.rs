//! The summary of a completed backup.

use crate::postgres::{Lsn, TimelineId};
use crate::repository::backup::StoredBackup;
use crate::repository::backup::manifest::DamagedPages;
use jiff::Timestamp;
use serde::Serialize;
use std::time::Duration;

/// The outcome of a base backup, shown to users and written as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct BackupSummary {
    /// The label of the backup.
    pub label: String,
    /// Whether it was taken from a standby.
    pub from_standby: bool,
    /// "full" or "incremental".
    pub r#type: &'static str,
    /// The backup that an incremental one builds on.
    pub parent: Option<String>,
    /// Start time, by the server's clock.
    pub started: Timestamp,
    /// Stop time, by the server's clock. Recovery can reach any later point.
    pub stopped: Timestamp,
    /// The start point.
    pub start_lsn: Lsn,
    /// The stop point.
    pub stop_lsn: Lsn,
    /// The timeline of both.
    pub timeline: TimelineId,
    /// Number of files.
    pub files: u64,
    /// Total size of the files as restored, in bytes.
    pub file_bytes: u64,
    /// Size of the stored content before compression, in bytes.
    pub changed_bytes: u64,
    /// Total size of its objects, in bytes.
    pub stored_bytes: u64,
    /// Number of bytes read from the server's files; `None` for a streamed backup.
    pub read_bytes: Option<u64>,
    /// Number of packs.
    pub packs: usize,
    /// Number of WAL segments that the backup needs; all are in the repository.
    pub wal_segments: u64,
    /// Duration of the whole run, in seconds.
    pub duration_s: f64,
    /// Pages that are damaged in the cluster.
    pub damaged_pages: DamagedPages,
    /// Notes for a later recovery.
    pub notes: Vec<String>,
}

/// For an incremental backup without data checksums, and for a backup combined from such ones.
const NO_VISIBILITY_MAPS: &str = "the cluster has no data checksums, so the backup holds no visibility maps: run VACUUM after a \
                                  recovery, or index-only scans are slow";

impl BackupSummary {
    pub(super) fn of(backup: &StoredBackup, wal_segments: u64, duration: Duration) -> BackupSummary {
        BackupSummary {
            label: backup.label.to_string(),
            from_standby: backup.from_standby,
            r#type: if backup.parent().is_some() { "incremental" } else { "full" },
            parent: backup.parent().map(|link| link.parent.to_string()),
            started: backup.start.time,
            stopped: backup.stop.time,
            start_lsn: backup.start.lsn,
            stop_lsn: backup.stop.lsn,
            timeline: backup.stop.timeline,
            files: backup.totals.files,
            file_bytes: backup.whole_bytes(),
            changed_bytes: backup.totals.file_bytes,
            stored_bytes: backup.totals.stored_bytes,
            read_bytes: None,
            packs: backup.packs.len(),
            wal_segments,
            duration_s: duration.as_secs_f64(),
            damaged_pages: backup.damaged_pages.clone(),
            notes: Vec::new(),
        }
        .noting_maps_of(backup)
    }

    /// Adds a note if the backup lacks visibility maps.
    pub(super) fn noting_maps_of(mut self, backup: &StoredBackup) -> BackupSummary {
        if backup.lacks_visibility_maps() {
            self.notes.push(NO_VISIBILITY_MAPS.to_owned());
        }
        self
    }
}
