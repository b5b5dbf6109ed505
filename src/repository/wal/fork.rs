//! Timelines that fork, and what a recovery to one of them omits.
//!
//! A failover leaves a short tail on the old timeline. If a forgotten copy archives, or an old primary continues, both
//! timelines are in use. Then only the operator knows which one is wanted.

use super::path::{PathWal, TimelinePath, WalCatalog, has_segments_from};
use super::records::{Archive, TransactionEnd};
use crate::error::Result;
use crate::postgres::{Lsn, SegmentSize, TimelineHistory, TimelineId};
use std::ops::ControlFlow;
use std::time::Duration;

/// How many transactions of a tail are counted.
const COUNTED_MAX: u64 = 10_000;

/// A backup, as evidence that a timeline was in use.
#[derive(Clone, Copy, Debug)]
pub struct BackupSpan<'a> {
    /// Its label.
    pub label: &'a str,
    /// The timeline on which it ended.
    pub timeline: TimelineId,
    /// Where its replay begins.
    pub start_point: Lsn,
    /// Where it is consistent.
    pub stop_point: Lsn,
}

/// What is on one of two timelines after the fork.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Branch {
    /// The first transaction that ended there.
    pub first: Option<TransactionEnd>,
    /// The last one; on the chosen timeline, the first.
    pub last: Option<TransactionEnd>,
    /// How many ended there, up to 10,000; on the chosen timeline, up to 1.
    pub transactions: u64,
    /// The newest backup that was taken there.
    pub backup: Option<String>,
}

/// A timeline with WAL that a recovery to another one does not replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineFork {
    /// The timeline to recover to.
    pub taken: TimelineId,
    /// What is on it.
    pub taken_branch: Branch,
    /// The omitted timeline.
    pub left: TimelineId,
    /// What is on that one.
    pub left_branch: Branch,
    /// The position of the fork.
    pub forked_at: Lsn,
    /// Whether WAL is missing at the beginning of the chosen timeline. Planning reports that, and nothing can be
    /// compared.
    pub is_interrupted: bool,
    /// The last transaction before the fork, if it ended in the same segment or the previous one.
    pub common: Option<TransactionEnd>,
}

impl TimelineFork {
    /// Whether either timeline may be the current one: the omitted one has a backup after the fork, or continued for
    /// more than `window` after the other had begun.
    pub fn is_ambiguous(&self, window: Duration) -> bool {
        if self.is_interrupted {
            return false;
        }
        if self.left_branch.backup.is_some() {
            return true;
        }
        let Some(last) = &self.left_branch.last else { return false };
        let begun = self.taken_branch.first.as_ref().or(self.common.as_ref());
        begun.is_none_or(|begun| last.time.is_later_by(begun.time, window))
    }
}

/// The timelines that end with WAL which a recovery to the timeline of `history` does not replay, with both sides of
/// each fork. If `from` is given, only those that lead from this backup.
///
/// # Errors
/// Those of the archive.
pub fn forks(
    archive: &dyn Archive,
    history: &TimelineHistory,
    backups: &[BackupSpan<'_>],
    from: Option<BackupSpan<'_>>,
    size: SegmentSize,
) -> Result<Vec<TimelineFork>> {
    let taken = TimelinePath::find(archive, history.clone(), size)?;
    let mut forks = Vec::new();
    for timeline in archive.timelines()?.with_files {
        if timeline == history.timeline() {
            continue;
        }
        // Without a history its origin is unknown. Planning refuses to pass it.
        let Some(other) = archive.origin(timeline)? else { continue };
        let left = TimelinePath::find(archive, other, size)?;
        if from.is_some_and(|backup| !left.holds(backup.timeline, backup.start_point, backup.stop_point)) {
            continue;
        }
        let Some(forked_at) = fork_point(taken.history(), left.history()) else { continue };
        let is_after = |path: &TimelinePath, other: &TimelinePath| {
            let newest = backups.iter().filter(|backup| {
                let span = (backup.timeline, backup.start_point, backup.stop_point);
                path.holds(span.0, span.1, span.2) && !other.holds(span.0, span.1, span.2)
            });
            newest.max_by_key(|backup| backup.stop_point).map(|backup| backup.label.to_owned())
        };
        // A timeline that others branched off from, and that did not continue after that, is part of their path.
        if !has_wal_from(archive, &left, forked_at)? {
            continue;
        }
        let left_branch = branch(archive, &left, forked_at, is_after(&left, &taken), Depth::Whole)?;
        if left_branch == Branch::default() {
            continue;
        }
        forks.push(TimelineFork {
            taken: history.timeline(),
            taken_branch: branch(archive, &taken, forked_at, is_after(&taken, &left), Depth::First)?,
            left: timeline,
            left_branch,
            forked_at,
            is_interrupted: is_interrupted(archive, &taken, forked_at)?,
            common: common(archive, &taken, forked_at)?,
        });
    }
    Ok(forks)
}

/// Where two timelines fork; `None` if one leads to the other and has no WAL of its own after that.
pub fn fork_point(one: &TimelineHistory, other: &TimelineHistory) -> Option<Lsn> {
    let spans = |history: &TimelineHistory| -> Vec<(TimelineId, Option<Lsn>)> {
        let ancestors = history.switches().iter().map(|switch| (switch.timeline, Some(switch.switch_point)));
        ancestors.chain([(history.timeline(), None)]).collect()
    };
    let mut left_together = None;
    for (one, other) in spans(one).into_iter().zip(spans(other)) {
        if one.0 != other.0 {
            return left_together;
        }
        if one.1 != other.1 {
            return [one.1, other.1].into_iter().flatten().min();
        }
        left_together = one.1;
    }
    None
}

/// Whether a segment with this timeline's own name contains positions after `position`.
fn has_wal_from(catalog: &dyn WalCatalog, path: &TimelinePath, position: Lsn) -> Result<bool> {
    let segment = path.segment_at(position);
    let Some(name) =
        path.name_of(segment.max(path.history().first_segment(path.segment_size()).unwrap_or(segment)))
    else {
        return Ok(false);
    };
    has_segments_from(catalog, name)
}

fn is_interrupted(catalog: &dyn WalCatalog, path: &TimelinePath, position: Lsn) -> Result<bool> {
    let wal = PathWal::find(path.clone(), path.segment_at(position), catalog)?;
    Ok(wal.readable().is_none() && wal.gap().is_some())
}

/// How much of a branch is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// Up to the first transaction.
    First,
    /// All of it, up to [`COUNTED_MAX`] transactions.
    Whole,
}

/// What ended on a path after `position`. Reads forward for the first transaction and the count, as far as that goes,
/// and backward for the last one.
fn branch(
    archive: &dyn Archive,
    path: &TimelinePath,
    position: Lsn,
    backup: Option<String>,
    depth: Depth,
) -> Result<Branch> {
    let mut branch = Branch { backup, ..Branch::default() };
    let wal = PathWal::find(path.clone(), path.segment_at(position), archive)?;
    let Some(run) = wal.readable() else { return Ok(branch) };
    archive.visit_records(&wal, run.first, run.last, &mut |mark| {
        let Some(end) = mark.transaction_end().filter(|end| end.start >= position) else {
            return ControlFlow::Continue(());
        };
        branch.first = branch.first.or(Some(end));
        branch.last = Some(end);
        branch.transactions += 1;
        match depth {
            Depth::Whole if branch.transactions < COUNTED_MAX => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    })?;
    if branch.transactions == COUNTED_MAX {
        branch.last = last_transaction(archive, &wal, position)?.or(branch.last);
    }
    Ok(branch)
}

/// The last transaction in the readable WAL that begins at or after `floor`. Searches from the end backward.
///
/// # Errors
/// Those of the archive.
fn last_transaction(archive: &dyn Archive, wal: &PathWal, floor: Lsn) -> Result<Option<TransactionEnd>> {
    let Some(run) = wal.readable() else { return Ok(None) };
    let mut segment = run.last;
    loop {
        let mut last = None;
        archive.visit_records(wal, segment, segment, &mut |mark| {
            last = mark.transaction_end().filter(|end| end.start >= floor).or(last);
            ControlFlow::Continue(())
        })?;
        match segment.previous().filter(|previous| last.is_none() && *previous >= run.first) {
            Some(previous) => segment = previous,
            None => return Ok(last),
        }
    }
}

/// The last transaction before the fork, in its segment or the previous one.
fn common(archive: &dyn Archive, path: &TimelinePath, position: Lsn) -> Result<Option<TransactionEnd>> {
    let segment = path.segment_at(position);
    for from in [Some(segment), segment.previous()].into_iter().flatten() {
        let wal = PathWal::find(path.clone(), from, archive)?;
        let mut last = None;
        archive.visit_records(&wal, from, segment, &mut |mark| {
            if mark.start >= position {
                return ControlFlow::Break(());
            }
            last = mark.transaction_end().or(last);
            ControlFlow::Continue(())
        })?;
        if last.is_some() {
            return Ok(last);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(timeline: u32, text: &str) -> TimelineHistory {
        match timeline {
            1 => TimelineHistory::of_first(),
            _ => TimelineHistory::parse(TimelineId::new(timeline).unwrap(), text.as_bytes()).unwrap(),
        }
    }

    #[test]
    fn timelines_fork_where_their_histories_differ() {
        let parts = |one: (u32, &str), other: (u32, &str)| {
            let (one, other) = (history(one.0, one.1), history(other.0, other.1));
            let position = fork_point(&one, &other);
            assert_eq!(position, fork_point(&other, &one));
            position.map(|position| position.to_string())
        };
        let first = (1, "");
        let second = (2, "1 0/500000 x\n");
        assert_eq!(parts(first, second).as_deref(), Some("0/500000"), "timeline 1 may have gone on");
        assert_eq!(parts(second, (3, "1 0/500000 x\n2 0/700000 x\n")).as_deref(), Some("0/700000"));
        assert_eq!(parts(second, (3, "1 0/300000 x\n")).as_deref(), Some("0/300000"));
        assert_eq!(
            parts(second, (3, "1 0/500000 x\n")).as_deref(),
            Some("0/500000"),
            "both left at one point"
        );
        assert_eq!(parts(first, first), None);
    }
}
