//! Errors for targets that cannot be reached, with the command that reaches as far as possible.

use super::choice::BackupCandidate;
use super::evidence::{self, ReadableWalEnd};
use super::planned::{ExpectedEnd, TargetPlan};
use super::planner::Planner;
use super::request::Consent;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{
    Lsn, PgTimestamp, RecoveryTarget, SegmentName, SegmentNumber, TargetBound, TargetTimeline, TimelineSwitch,
};
use crate::repository::wal::PathWal;
use std::ops::ControlFlow;

/// Describes a target for messages about reading WAL.
pub(super) fn described(target: &RecoveryTarget) -> String {
    match target {
        RecoveryTarget::Xid(xid) => format!("the end of transaction {xid}"),
        other => other.to_string(),
    }
}

impl Planner<'_> {
    /// Refuses a timeline without stored WAL if the parent's copy of its first segment is stored. That copy
    /// is not served, because it may hold records that the timeline never had, and its records before the
    /// switch would be lost.
    pub(super) fn check_switch_segment(&self, switch: TimelineSwitch) -> Result<()> {
        let size = self.path.segment_size();
        let segment = switch.switch_point.segment(size);
        let Some(copy) = SegmentName::new(switch.timeline, segment, size) else { return Ok(()) };
        let mut is_stored = false;
        self.archive.visit_segments(copy, &mut |found| {
            is_stored = found == segment;
            ControlFlow::Break(())
        })?;
        if !is_stored {
            return Ok(());
        }
        let (timeline, parent, point) = (self.path.timeline(), switch.timeline, switch.switch_point);
        Err(Error::new(
            ErrorKind::Hole,
            format!(
                "timeline {timeline}, which branched off timeline {parent} at {point}, has no WAL in the repository yet"
            ),
        )
        .hint(format!(
            "Wait until its first segment is archived. To recover everything up to the switch: {} --target-lsn {point} \
             --exclusive --target-timeline {parent}",
            self.request.command
        )))
    }

    pub(super) fn written_with_minimal(&self, point: Lsn, end: &ReadableWalEnd) -> Error {
        Error::new(
            ErrorKind::Hole,
            format!("WAL was written with wal_level = minimal after {point}: PostgreSQL cannot recover any further"),
        )
        .hint(format!(
            "Only a backup taken after the level was raised again can recover past this point. {}",
            self.as_far_as_possible(end)
        ))
    }

    /// The sentence that explains how to recover as far as the WAL reaches.
    pub(super) fn as_far_as_possible(&self, end: &ReadableWalEnd) -> String {
        let Some(record) = end.last_record else {
            return "Only the end of the backup can be recovered: --target-immediate.".to_owned();
        };
        let until = match &end.last_transaction {
            Some(last) => format!(", the last transaction before it ended at {}", last.time),
            None => String::new(),
        };
        format!(
            "The last reachable point is {record}{until}. To recover that far: {} --target-lsn {record}{}",
            self.request.command,
            self.timeline_argument()
        )
    }

    fn timeline_argument(&self) -> String {
        match self.request.timeline {
            TargetTimeline::Latest => String::new(),
            _ => format!(" --target-timeline {}", self.path.timeline()),
        }
    }

    /// Handles a target that was not found in the WAL: refuses it, or accepts it with a reason.
    pub(super) fn unreachable_target(
        &self,
        backup: &BackupCandidate,
        wal: &PathWal,
        target: RecoveryTarget,
        bound: TargetBound,
    ) -> Result<TargetPlan> {
        let end = evidence::wal_end(self.archive, wal, backup.stop_point)?;
        let error = match (wal.gap(), &target) {
            (Some(gap), _) => {
                wal.hole(gap, &self.as_far_as_possible(&end)).context(format!("cannot reach {target}"))
            }
            (None, RecoveryTarget::Name(_) | RecoveryTarget::Xid(_)) => self.not_found(&target, wal, &end),
            (None, _) => self.after_the_end(&target, &end),
        };
        if self.request.consent == Consent::ProvenOnly {
            return Err(error);
        }
        let expected = ExpectedEnd { unproven: Some(error.to_string()), ..ExpectedEnd::default() };
        self.plan(backup, wal, target, bound, expected)
    }

    fn not_found(&self, target: &RecoveryTarget, wal: &PathWal, end: &ReadableWalEnd) -> Error {
        let what = described(target);
        let oldest =
            self.candidates.last().map_or_else(|| wal.from(), |b| self.path.segment_at(b.start_point));
        Error::absent(format!("{what} is not in the archived WAL of timeline {}", self.path.timeline())).hint(
            format!(
                "All of it was read, from {} to {}. Try another timeline with --target-timeline.",
                self.position(oldest),
                end.end.map_or_else(|| "its end".to_owned(), |end| end.to_string())
            ),
        )
    }

    fn position(&self, segment: SegmentNumber) -> String {
        segment
            .start(self.path.segment_size())
            .map_or_else(|| "the beginning".to_owned(), |start| start.to_string())
    }

    /// The error for a time after the last transaction: the server waits for a later transaction, and fails.
    fn after_the_end(&self, target: &RecoveryTarget, end: &ReadableWalEnd) -> Error {
        let command = &self.request.command;
        let timeline = self.timeline_argument();
        let known = match (&end.last_transaction, end.end) {
            (Some(last), Some(end)) => format!(
                "the last transaction in it, {}, ended at {} (LSN {}); the WAL ends at {end}",
                last.xid, last.time, last.start
            ),
            (None, Some(end)) => {
                format!("no transaction ended after the backup, and the WAL ends at {end}")
            }
            (_, None) => "there is no WAL after the backup".to_owned(),
        };
        let error = Error::absent(format!("the archived WAL does not reach {target}: {known}"));
        if let RecoveryTarget::Time(time) = target
            && let Some(other) = self.forks.iter().find(|fork| {
                let last = fork.left_branch.last;
                last.is_some_and(|last| last.time > PgTimestamp::from_jiff(*time))
            })
        {
            return error.hint(format!(
                "Timeline {} reaches this time, after it diverged from this one at {}: {command} --target-time '{target}' \
                 --target-timeline {}",
                other.left, other.forked_at, other.left
            ));
        }
        match target {
            RecoveryTarget::Time(_) => error.hint(format!(
                "PostgreSQL would not reach this target. To recover all transactions up to that time: {command} \
                 --latest-before '{target}'{timeline}"
            )),
            _ => error.hint(format!("To recover to the end of the WAL: {command} --latest{timeline}")),
        }
    }

    pub(super) fn before_first_backup(&self, target: &str) -> Error {
        let error = Error::absent(format!("no backup ended before {target}"));
        match (&self.request.backup, self.candidates.last()) {
            (Some(label), Some(backup)) => error.with_kind(ErrorKind::Usage).hint(format!(
                "Backup {label} ended at {} (LSN {}). Omit --backup to let pgark choose one.",
                PgTimestamp::from_jiff(backup.stop_time),
                backup.stop_point
            )),
            (None, Some(oldest)) => error.hint(format!(
                "The oldest backup that leads to timeline {}, {}, ended at {} (LSN {}): no earlier point can be \
                 recovered.",
                self.path.timeline(),
                oldest.label,
                PgTimestamp::from_jiff(oldest.stop_time),
                oldest.stop_point
            )),
            _ => error,
        }
    }
}
