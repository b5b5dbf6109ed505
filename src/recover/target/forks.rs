//! Notes and errors of the plan about timelines that a recovery does not follow.

use super::choice::BackupCandidate;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{PgTimestamp, SegmentSize, TargetTimeline, TimelineHistory, TimelineId};
use crate::repository::wal::{Archive, BackupSpan, Branch, TimelineFork, TimelinePath, forks};
use std::time::Duration;

/// How to resolve a fork if the archive does not determine the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkRule {
    /// Require the operator to choose if both timelines continued for longer than this after the fork.
    Refuse(Duration),
    /// Leave the decision to the primary that a standby follows.
    FollowPrimary,
}

/// The newest timeline whose path contains the newest backup. This choice never skips a backup that was taken
/// after a fork.
///
/// # Errors
/// Those of the archive.
pub fn newest_timeline(
    archive: &dyn Archive,
    newest: &BackupCandidate,
    size: SegmentSize,
) -> Result<TimelineId> {
    let histories = archive.timelines()?.with_history;
    for timeline in histories.into_iter().rev().filter(|timeline| *timeline > newest.timeline) {
        let Some(history) = archive.history(timeline)? else { continue };
        let path = TimelinePath::new(history, size);
        if path.holds(newest.timeline, newest.start_point, newest.stop_point) {
            return Ok(timeline);
        }
    }
    Ok(newest.timeline)
}

/// The timelines abandoned on the way to `history`.
///
/// # Errors
/// [`ErrorKind::Conflict`] if the operator has to choose a timeline; those of the archive.
pub fn abandoned_timelines(
    archive: &dyn Archive,
    history: &TimelineHistory,
    backups: &[BackupCandidate],
    only: Option<&BackupCandidate>,
    size: SegmentSize,
    decision: (TargetTimeline, ForkRule),
    command: &str,
) -> Result<Vec<TimelineFork>> {
    let spans: Vec<BackupSpan<'_>> = backups.iter().map(span).collect();
    let found = forks(archive, history, &spans, only.map(span), size)?;
    if let (TargetTimeline::Latest, ForkRule::Refuse(window)) = decision
        && let Some(fork) = found.iter().find(|fork| fork.is_ambiguous(window))
    {
        return Err(ambiguous(fork, command));
    }
    Ok(found)
}

fn span(backup: &BackupCandidate) -> BackupSpan<'_> {
    BackupSpan {
        label: &backup.label,
        timeline: backup.timeline,
        start_point: backup.start_point,
        stop_point: backup.stop_point,
    }
}

fn ambiguous(fork: &TimelineFork, command: &str) -> Error {
    let (taken, left) = (fork.taken, fork.left);
    Error::new(
        ErrorKind::Conflict,
        format!(
            "timelines {taken} and {left} were both in use after they diverged at {}: timeline {taken} has {}; timeline {left} \
             has {}",
            fork.forked_at,
            described(&fork.taken_branch),
            described(&fork.left_branch)
        ),
    )
    .hint(format!(
        "Choose one: {command} --target-timeline {taken} or {command} --target-timeline {left}. If a recovered copy archives \
         under the same cluster name, stop its archiving."
    ))
}

fn described(branch: &Branch) -> String {
    let transactions = match (&branch.first, &branch.last) {
        (Some(first), Some(last)) if first == last => format!("transactions from {} on", first.time),
        (Some(first), Some(last)) => format!("transactions from {} to {}", first.time, last.time),
        _ => "no transaction".to_owned(),
    };
    match &branch.backup {
        Some(label) => format!("{transactions} and backup {label}"),
        None => transactions,
    }
}

/// A line of the plan about the data lost on a timeline that is not followed.
pub fn note(fork: &TimelineFork, time: Option<PgTimestamp>) -> Option<String> {
    let last = fork.left_branch.last?;
    let count = match fork.left_branch.transactions {
        1 => "1 transaction".to_owned(),
        more => format!("{more} transactions"),
    };
    let left = fork.left;
    let mut note = format!(
        "timeline {left} continued after the switch at {}: {count} until {} are not on the path to timeline {}",
        fork.forked_at, last.time, fork.taken
    );
    let first = fork.left_branch.first?;
    if let Some(time) = time.filter(|time| (first.time..=last.time).contains(time)) {
        note.push_str(&format!("; {time} was also reached there: --target-timeline {left}"));
    }
    Some(note)
}
