//! Chooses the backup that a recovery starts from.

use crate::error::{Error, Result};
use crate::postgres::{Lsn, TimelineHistory, TimelineId};
use crate::repository::backup::manifest::StoredBackup;
use crate::repository::wal::TimelinePath;

/// The facts about a backup that the choice depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupCandidate {
    /// Label of the backup in the repository.
    pub label: String,
    /// Timeline on which the backup was taken.
    pub timeline: TimelineId,
    /// LSN at which replay begins.
    pub start_point: Lsn,
    /// LSN at which the restored cluster becomes consistent; recovery cannot end before it.
    pub stop_point: Lsn,
    /// When the backup reached its stop point, by the server's clock.
    pub stop_time: jiff::Timestamp,
}

impl From<&StoredBackup> for BackupCandidate {
    fn from(backup: &StoredBackup) -> BackupCandidate {
        BackupCandidate {
            label: backup.label.to_string(),
            timeline: backup.stop.timeline,
            start_point: backup.start.lsn,
            stop_point: backup.stop.lsn,
            stop_time: backup.stop.time,
        }
    }
}

/// The newest of several backups by the server's clock. This choice decides which timeline recovery follows
/// at a fork.
///
/// # Errors
/// [`ErrorKind::Absent`](crate::error::ErrorKind::Absent) when there is none.
pub fn newest(backups: &[BackupCandidate]) -> Result<&BackupCandidate> {
    let newest = backups.iter().max_by_key(|backup| (backup.stop_time, backup.timeline, backup.stop_point));
    newest.ok_or_else(|| {
        Error::absent("the repository holds no backup of this cluster")
            .hint("Recovery starts from a backup. Take one with pgark base-backup.")
    })
}

/// The backups from which `path` can be followed, newest first.
///
/// Orders them by LSN instead of by clock, because LSNs only increase along one path.
pub fn on_path<'a>(backups: &'a [BackupCandidate], path: &TimelinePath) -> Vec<&'a BackupCandidate> {
    let mut found: Vec<_> = backups
        .iter()
        .filter(|backup| path.holds(backup.timeline, backup.start_point, backup.stop_point))
        .collect();
    found.sort_by_key(|backup| std::cmp::Reverse(backup.stop_point));
    found
}

/// The error for a timeline that no backup leads to; `others` are the timelines that have one.
pub fn none_on_path(path: &TimelinePath, backups: &[BackupCandidate], others: &[TimelineId]) -> Error {
    let error = Error::absent(format!("no backup leads to timeline {}", path.timeline()));
    let Ok(newest) = newest(backups) else { return error };
    let proposed: Vec<String> =
        others.iter().map(|timeline| format!("--target-timeline {timeline}")).collect();
    let way_out = match proposed.as_slice() {
        [] => String::new(),
        proposed => format!(" A backup leads to: {}.", proposed.join(", ")),
    };
    error.hint(format!(
        "{} The newest backup, {}, was taken on timeline {} and ends at {}.{way_out}",
        branching(path.history()),
        newest.label,
        newest.timeline,
        newest.stop_point
    ))
}

fn branching(history: &TimelineHistory) -> String {
    match history.parent() {
        Some(parent) => {
            format!(
                "Timeline {} branched off timeline {} at {}.",
                history.timeline(),
                parent.timeline,
                parent.switch_point
            )
        }
        None => "Timeline 1 has no ancestors.".to_owned(),
    }
}
