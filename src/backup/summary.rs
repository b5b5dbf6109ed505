//! What a backup came to.

use crate::postgres::{Lsn, TimelineId};
use crate::repository::backup::StoredBackup;
use crate::repository::backup::manifest::DamagedPages;
use jiff::Timestamp;
use serde::Serialize;
use std::time::Duration;

/// The outcome of a base backup, for people and programs.
#[derive(Clone, Debug, Serialize)]
pub struct BackupSummary {
    /// The backup's name.
    pub label: String,
    /// Whether it was taken from a standby.
    pub from_standby: bool,
    /// "full" or "incremental".
    pub r#type: &'static str,
    /// The backup that an incremental one builds on.
    pub parent: Option<String>,
    /// When it began, by the server's clock.
    pub started: Timestamp,
    /// When it ended: recovery can reach any point after this.
    pub stopped: Timestamp,
    /// The start point.
    pub start_lsn: Lsn,
    /// The stop point.
    pub stop_lsn: Lsn,
    /// The timeline of both.
    pub timeline: TimelineId,
    /// How many files it holds.
    pub files: u64,
    /// How long they are, as they are restored.
    pub file_bytes: u64,
    /// How much of them had to be stored, before it was compressed.
    pub changed_bytes: u64,
    /// How long its objects are.
    pub stored_bytes: u64,
    /// How much was read of the server's files; `None`: they were not asked.
    pub read_bytes: Option<u64>,
    /// How many packs there are.
    pub packs: usize,
    /// How many WAL segments it needs, all of which are in the repository.
    pub wal_segments: u64,
    /// How long it took, all in all.
    pub duration_s: f64,
    /// Pages that are damaged in the cluster.
    pub damaged_pages: DamagedPages,
    /// What to know before it is recovered.
    pub notes: Vec<String>,
}

/// Of an incremental backup without data checksums, and of what was combined of such ones.
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

    /// Says so where the maps are missing of which this backup, or what it was made of, would consist.
    pub(super) fn noting_maps_of(mut self, backup: &StoredBackup) -> BackupSummary {
        if backup.lacks_visibility_maps() {
            self.notes.push(NO_VISIBILITY_MAPS.to_owned());
        }
        self
    }
}
