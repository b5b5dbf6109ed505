//! Plans for each kind of target, from the backups on one path.
//!
//! Restore points and transactions are in `record.rs`; the errors and their hints are in `refusal.rs`.

use super::choice::{BackupCandidate, none_on_path};
use super::evidence::{self, ReadableWalEnd, TimeEvidence};
use super::planned::{ExpectedEnd, TargetPlan};
use super::replay_survey::{ReplaySurvey, SurveyEnd, survey};
use super::request::{Goal, TargetRequest};
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{
    Lsn, PgTimestamp, RecoveryTarget, TargetAction, TargetBound, TargetSettings, TargetTimeline,
};
use crate::repository::wal::{Archive, PathWal, TimelineFork, TimelinePath, WalMark};

/// Start and end of a recovery to a time.
struct TimedEnd<'a> {
    backup: &'a BackupCandidate,
    wal: PathWal,
    survey: ReplaySurvey,
    found: TimeEvidence,
}

/// Inputs shared by all kinds of targets.
pub(super) struct Planner<'a> {
    pub(super) request: &'a TargetRequest,
    pub(super) archive: &'a dyn Archive,
    pub(super) path: TimelinePath,
    /// The backups on the path, newest first; never empty.
    pub(super) candidates: Vec<&'a BackupCandidate>,
    /// Forks off the path.
    pub(super) forks: Vec<TimelineFork>,
}

impl Planner<'_> {
    /// Plans a recovery to the end of the WAL.
    pub(super) fn latest(&self) -> Result<TargetPlan> {
        let backup = self.newest()?;
        let wal = self.wal_from(backup)?;
        let survey = self.survey(backup, &wal, &mut |_| false)?;
        let end = match survey.ended {
            // Beyond the limit only the end is read.
            SurveyEnd::Limit => evidence::wal_end(self.archive, &wal, backup.stop_point)?,
            _ => ReadableWalEnd::of(&survey),
        };
        self.check_no_hole(&wal, &end)?;
        let expected =
            ExpectedEnd { end: end.end, last_transaction: end.last_transaction, ..ExpectedEnd::default() };
        let plan = self.plan(backup, &wal, RecoveryTarget::Latest, TargetBound::Inclusive, expected)?;
        let mut plan = self.with_survey(plan, &survey);
        let last = wal.readable().map(|run| run.last);
        if let (Some(last), Some(switch)) = (last, self.path.history().parent())
            && last < switch.switch_point.segment(self.path.segment_size())
        {
            self.check_switch_segment(switch)?;
            plan.warnings.push(format!(
                "timeline {} has no WAL in the repository yet: recovery ends on timeline {}, before {}",
                self.path.timeline(),
                plan.last_segment.timeline(),
                switch.switch_point
            ));
        }
        Ok(plan)
    }

    /// Plans a recovery to the end of the backup.
    pub(super) fn immediate(&self, bound: TargetBound) -> Result<TargetPlan> {
        let backup = self.newest()?;
        let wal = self.wal_from(backup)?;
        let survey = self.survey(backup, &wal, &mut |mark| mark.start >= backup.stop_point)?;
        let expected = ExpectedEnd { end: Some(backup.stop_point), ..ExpectedEnd::default() };
        Ok(self.with_survey(self.plan(backup, &wal, RecoveryTarget::Immediate, bound, expected)?, &survey))
    }

    /// Plans a recovery to a position.
    pub(super) fn lsn(&self, lsn: Lsn, bound: TargetBound) -> Result<TargetPlan> {
        let backup = self.candidates.iter().find(|backup| backup.stop_point <= lsn);
        let backup = *backup.ok_or_else(|| self.before_first_backup(&format!("LSN {lsn}")))?;
        let wal = self.wal_from(backup)?;
        let target = RecoveryTarget::Lsn(lsn);
        let survey = self.survey(backup, &wal, &mut |mark| mark.start >= lsn)?;
        let found = match &survey.ended {
            SurveyEnd::Found(mark) => Some(mark.clone()),
            SurveyEnd::Limit => evidence::record_from(self.archive, &wal, lsn)?,
            SurveyEnd::ReadableWalEnd | SurveyEnd::Minimal(_) => None,
        };
        let Some(mark) = found else { return self.unreachable_target(backup, &wal, target, bound) };
        let end = match bound {
            TargetBound::Inclusive => mark.end,
            TargetBound::Exclusive => mark.start,
        };
        let expected = ExpectedEnd { end: Some(end), ..ExpectedEnd::default() };
        Ok(self.with_survey(self.plan(backup, &wal, target, bound, expected)?, &survey))
    }

    /// Plans a recovery to a time.
    pub(super) fn time(&self, time: jiff::Timestamp, bound: TargetBound) -> Result<TargetPlan> {
        let target = RecoveryTarget::Time(time);
        let end = self.ended_before(time, bound, &target)?;
        let Some(beyond) = end.found.beyond else {
            return self.unreachable_target(end.backup, &end.wal, target, bound);
        };
        let expected = ExpectedEnd {
            unproven: None,
            end: Some(beyond.start),
            last_transaction: end.found.last,
            first_lost: Some(beyond),
        };
        Ok(self.with_survey(self.plan(end.backup, &end.wal, target, bound, expected)?, &end.survey))
    }

    /// Plans a recovery to the last transaction at or before a time, expressed as the position of its record.
    pub(super) fn latest_before(&self, time: jiff::Timestamp) -> Result<TargetPlan> {
        let bound = TargetBound::Inclusive;
        let TimedEnd { backup, wal, survey, found } =
            self.ended_before(time, bound, &RecoveryTarget::Time(time))?;
        if found.beyond.is_none() {
            // Missing WAL might contain transactions from before that time.
            self.check_no_hole(&wal, &evidence::wal_end(self.archive, &wal, backup.stop_point)?)?;
        }
        let (target, end) = match found.last {
            Some(last) => (RecoveryTarget::Lsn(last.start), last.end),
            None => (RecoveryTarget::Immediate, backup.stop_point),
        };
        let expected = ExpectedEnd {
            unproven: None,
            end: Some(end),
            last_transaction: found.last,
            first_lost: found.beyond,
        };
        Ok(self.with_survey(self.plan(backup, &wal, target, bound, expected)?, &survey))
    }

    fn newest(&self) -> Result<&BackupCandidate> {
        self.candidates.first().copied().ok_or_else(|| none_on_path(&self.path, &[], &[]))
    }

    /// The newest backup that ended before a time and contains no later transaction, and where recovery from
    /// it to that time ends. The server stops at the first transaction past the time, wherever it lies.
    fn ended_before(
        &self,
        time: jiff::Timestamp,
        bound: TargetBound,
        target: &RecoveryTarget,
    ) -> Result<TimedEnd<'_>> {
        let limit = PgTimestamp::from_jiff(time);
        let is_beyond = |mark: &WalMark| match (mark.transaction_end(), bound) {
            (Some(end), TargetBound::Inclusive) => end.time > limit,
            (Some(end), TargetBound::Exclusive) => end.time >= limit,
            (None, _) => false,
        };
        for &backup in self.candidates.iter().filter(|backup| backup.stop_time <= time) {
            let wal = self.wal_from(backup)?;
            let survey = self.survey(backup, &wal, &mut |mark| is_beyond(mark))?;
            let beyond = match &survey.ended {
                SurveyEnd::Found(mark) => mark.transaction_end(),
                // Only the first part was read, and all its transactions ended before the time.
                SurveyEnd::Limit => {
                    let from = survey.end.unwrap_or(backup.stop_point).max(backup.stop_point);
                    let found = evidence::time(self.archive, &wal, from, limit, bound)?;
                    let last = found.last.or(survey.last_transaction);
                    let found = TimeEvidence { last, ..found };
                    return Ok(TimedEnd { backup, wal, survey, found });
                }
                SurveyEnd::ReadableWalEnd | SurveyEnd::Minimal(_) => None,
            };
            // If a clock was set back, an older backup may be the right one.
            if beyond.is_none_or(|end| end.start >= backup.stop_point) {
                let found = TimeEvidence { last: survey.last_transaction, beyond };
                return Ok(TimedEnd { backup, wal, survey, found });
            }
        }
        Err(self.before_first_backup(&target.to_string()))
    }

    /// The WAL from a backup's start point, which must reach its stop point.
    pub(super) fn wal_from(&self, backup: &BackupCandidate) -> Result<PathWal> {
        let from = self.path.segment_at(backup.start_point);
        let wal = PathWal::find(self.path.clone(), from, self.archive)?;
        let stop = self.path.segment_at(backup.stop_point.previous().unwrap_or(backup.stop_point));
        if wal.readable().is_some_and(|run| run.last >= stop) {
            return Ok(wal);
        }
        let missing = wal.readable().map_or(from, |run| run.last.next());
        Err(Error::new(
            ErrorKind::Hole,
            format!(
                "WAL segment {} is missing from the repository: backup {} needs it",
                wal.name_of(missing)?,
                backup.label
            ),
        )
        .hint(
            "This backup cannot be recovered without it. Choose another one with --backup; pgark info lists them.",
        ))
    }

    /// Refuses to recover to the end of the WAL if WAL continues after a gap.
    fn check_no_hole(&self, wal: &PathWal, end: &ReadableWalEnd) -> Result<()> {
        match wal.gap() {
            Some(gap) => Err(wal.hole(gap, &self.as_far_as_possible(end))),
            None => Ok(()),
        }
    }

    /// Reads the WAL from a backup to the `wanted` record. A record that no recovery can pass is an error.
    pub(super) fn survey(
        &self,
        backup: &BackupCandidate,
        wal: &PathWal,
        wanted: &mut dyn FnMut(&WalMark) -> bool,
    ) -> Result<ReplaySurvey> {
        let (from, floor) = (backup.start_point, backup.stop_point);
        let mut survey = survey(self.archive, wal, from, floor, self.request.prove_bytes, wanted)?;
        if let Some(damage) = survey.damage.take() {
            let is_within_backup = survey.end.is_none_or(|end| end <= backup.stop_point);
            return Err(damage.hint(if is_within_backup {
                format!(
                    "Backup {} needs this segment. Choose another backup with --backup; pgark info lists them.",
                    backup.label
                )
            } else {
                self.as_far_as_possible(&ReadableWalEnd::of(&survey))
            }));
        }
        match survey.ended {
            SurveyEnd::Minimal(point) => Err(self.written_with_minimal(point, &ReadableWalEnd::of(&survey))),
            _ => Ok(survey),
        }
    }

    /// Adds the results of reading the WAL to a plan.
    pub(super) fn with_survey(&self, plan: TargetPlan, survey: &ReplaySurvey) -> TargetPlan {
        let mut plan =
            TargetPlan { limits: survey.limits, new_in_place_tablespace: survey.new_in_place, ..plan };
        plan.warnings.extend(survey.new_tablespaces.iter().map(|path| {
            format!(
                "a tablespace was created in \"{path}\" after the backup: the server uses that directory on this host, which \
                 must exist, be empty and belong to the server's user"
            )
        }));
        if survey.ended == SurveyEnd::Limit {
            if matches!(self.request.goal, Goal::LatestBefore(_) | Goal::Target(RecoveryTarget::Time(_), _)) {
                plan.warnings.push("the end is proven, unless the server's clock was set back".to_owned());
            }
            plan.warnings.push(format!(
                "only the first {} MiB of the stored WAL up to the target were read: raised settings and wal_level = minimal \
                 after them would go unnoticed (recover.prove_wal)",
                self.request.prove_bytes >> 20
            ));
        }
        plan
    }

    pub(super) fn plan(
        &self,
        backup: &BackupCandidate,
        wal: &PathWal,
        target: RecoveryTarget,
        bound: TargetBound,
        expected: ExpectedEnd,
    ) -> Result<TargetPlan> {
        let first = wal.from();
        let readable = wal.readable().map_or(first, |run| run.last);
        // The deciding record lies at or before the expected end.
        let decisive = expected.first_lost.map(|lost| lost.end).or(expected.end);
        let last = match (&target, decisive.and_then(Lsn::previous)) {
            (RecoveryTarget::Latest, _) | (_, None) => readable,
            (_, Some(byte)) => self.path.segment_at(byte).clamp(first, readable.max(first)),
        };
        let action = match (self.request.action, &target) {
            (Some(action), _) => action,
            (None, RecoveryTarget::Latest) => TargetAction::Promote,
            (None, _) => TargetAction::Pause,
        };
        Ok(TargetPlan {
            backup: backup.label.clone(),
            history: self.path.history().clone(),
            settings: TargetSettings {
                target,
                bound,
                timeline: TargetTimeline::Id(self.path.timeline()),
                action,
            },
            first_segment: wal.name_of(first)?,
            last_segment: wal.name_of(last)?,
            segments: last.as_u64() - first.as_u64() + 1,
            expected,
            limits: None,
            new_in_place_tablespace: false,
            warnings: Vec::new(),
        })
    }
}
