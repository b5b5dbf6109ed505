//! Which backup a recovery begins from.

use crate::error::{Error, Result};
use crate::postgres::{Lsn, TimelineHistory, TimelineId};
use crate::repository::wal::TimelinePath;

/// A backup, as far as it matters for the choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupCandidate {
    /// Its label, the name in the repository.
    pub label: String,
    /// The timeline on which it was taken.
    pub timeline: TimelineId,
    /// Where its replay begins.
    pub start_point: Lsn,
    /// Where it is consistent: no recovery can end earlier.
    pub stop_point: Lsn,
    /// When it reached that point, by the clock of the server.
    pub stop_time: jiff::Timestamp,
}

/// The newest of several backups by the server's clock, which decides where timelines have parted.
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

/// The backups from which the path can be followed, newest first.
///
/// The LSN orders them, no clock: on one path it only rises.
pub fn on_path<'a>(backups: &'a [BackupCandidate], path: &TimelinePath) -> Vec<&'a BackupCandidate> {
    let mut found: Vec<_> = backups
        .iter()
        .filter(|backup| path.holds(backup.timeline, backup.start_point, backup.stop_point))
        .collect();
    found.sort_by_key(|backup| std::cmp::Reverse(backup.stop_point));
    found
}

/// The error for a timeline to which no backup leads; `others` are the timelines to which one does.
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
                "Timeline {} left timeline {} at {}.",
                history.timeline(),
                parent.timeline,
                parent.switch_point
            )
        }
        None => "Timeline 1 has no ancestors.".to_owned(),
    }
}
