//! Resolves a recovery request to a backup, a path and a target that the server is proven to reach.
//!
//! Owns: the decisions. Queries the archive through [`Archive`]; writes nothing.

use super::choice::{self, BackupCandidate, none_on_path, on_path};
use super::evidence::{self, TimeEvidence, WalEnd};
use super::forks::{ForkRule, left_aside, newest_timeline, note};
use super::survey::{SurveyEnd, WaySurvey, survey};
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::control_file::ServerLimits;
use crate::postgres::{
    Lsn, PgTimestamp, RecoveryTarget, RestorePointName, SegmentName, SegmentNumber, SegmentSize,
    TargetAction, TargetBound, TargetSettings, TargetTimeline, TimelineHistory, TimelineId, TimelineSwitch,
    WalFileName,
};
use crate::repository::wal::{
    Archive, PathWal, TimelineFork, TimelinePath, TransactionEnd, WalEvent, WalMark, has_segments,
    missing_history, resolve,
};
use std::ops::ControlFlow;

/// How many other restore points of the same name a note lists.
const NAMESAKES_MAX: usize = 20;

/// The goal of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// A target in the server's terms.
    Target(RecoveryTarget, TargetBound),
    /// The last transaction that ended at or before this time, however long before.
    LatestBefore(jiff::Timestamp),
}

/// Whether a recovery with an unproven end may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Only a proven one.
    ProvenOnly,
    /// An unproven one, too: the operator accepts that the server stops with an error if it does not reach
    /// the target.
    AcceptUnproven,
}

/// All inputs for choosing the target, except the archive.
#[derive(Clone, Debug)]
pub struct TargetRequest {
    /// What to reach.
    pub goal: Goal,
    /// The timeline to follow.
    pub timeline: TargetTimeline,
    /// What the server does at the target; `None`: promote at the end of the WAL, pause elsewhere.
    pub action: Option<TargetAction>,
    /// The only backup to use, if the operator named one.
    pub backup: Option<String>,
    /// Whether the target must be proven.
    pub consent: Consent,
    /// The operator's command without its target, for errors that suggest a working command.
    pub command: String,
    /// The epoch of the target transaction, if the operator gave it.
    pub epoch: Option<u32>,
    /// How many bytes of stored WAL may be read to prove the target.
    pub prove_bytes: u64,
    /// How to resolve a fork whose latest timeline is ambiguous.
    pub forks: ForkRule,
}

/// Start and end of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPlan {
    /// The label of the backup.
    pub backup: String,
    /// The target timeline, with its ancestors.
    pub history: TimelineHistory,
    /// The target settings for the server.
    pub settings: TargetSettings,
    /// The first segment that recovery needs.
    pub first_segment: SegmentName,
    /// The last segment that recovery needs, as far as known.
    pub last_segment: SegmentName,
    /// Number of segments that recovery needs.
    pub segments: u64,
    /// Where recovery is expected to end.
    pub expected: ExpectedEnd,
    /// The highest values of the limited server settings along the way, if they changed after the backup.
    pub limits: Option<ServerLimits>,
    /// Whether an in-place tablespace was created along the way.
    pub new_in_place_tablespace: bool,
    /// Warnings to show before the recovery starts.
    pub warnings: Vec<String>,
}

/// The expected end of recovery, as far as the archive shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpectedEnd {
    /// Why the end is not proven; `None` if it is.
    pub unproven: Option<String>,
    /// The position after the last replayed record.
    pub end: Option<Lsn>,
    /// The last recovered transaction, if it ended after the backup.
    pub last_transaction: Option<TransactionEnd>,
    /// The first transaction that is not recovered.
    pub first_lost: Option<TransactionEnd>,
}

/// Plans the start and the end of a recovery.
///
/// # Errors
/// [`ErrorKind::Absent`]: the backup, timeline, restore point or transaction does not exist, or the archive
/// cannot reach the target. [`ErrorKind::Hole`]: WAL is missing on the way. [`ErrorKind::Usage`]: the chosen
/// backup does not lead to the target. Also those of the archive.
pub fn plan_target(
    request: &TargetRequest,
    backups: &[BackupCandidate],
    segment_size: SegmentSize,
    archive: &dyn Archive,
) -> Result<TargetPlan> {
    let usable = chosen(request, backups)?;
    let newest = choice::newest(&usable)?;
    // Detects a missing history file, which the server would not.
    let mut timeline = resolve(request.timeline, newest.timeline, &archive.timelines()?.with_history)?;
    if request.timeline == TargetTimeline::Latest {
        check_later_timelines(timeline, segment_size, archive)?;
        timeline = newest_timeline(archive, newest, segment_size)?;
    }
    let history = history(archive, timeline)?;
    let path = TimelinePath::find(archive, history, segment_size)?;
    let candidates = on_path(&usable, &path);
    if candidates.is_empty() {
        return Err(none_on_path(&path, &usable, &reachable(archive, &usable, segment_size)?));
    }
    let only = request.backup.is_some().then_some(newest);
    let decision = (request.timeline, request.forks);
    let forks = left_aside(archive, path.history(), backups, only, segment_size, decision, &request.command)?;
    let planner = Planner { request, archive, path, candidates, forks };
    let mut plan = match &request.goal {
        Goal::Target(RecoveryTarget::Latest, _) => planner.latest(),
        Goal::Target(RecoveryTarget::Immediate, bound) => planner.immediate(*bound),
        Goal::Target(RecoveryTarget::Lsn(lsn), bound) => planner.lsn(*lsn, *bound),
        Goal::Target(RecoveryTarget::Time(time), bound) => planner.time(*time, *bound),
        Goal::Target(target @ (RecoveryTarget::Xid(_) | RecoveryTarget::Name(_)), bound) => {
            planner.record(target, *bound)
        }
        Goal::LatestBefore(time) => planner.latest_before(*time),
    }?;
    let time = match &request.goal {
        Goal::Target(RecoveryTarget::Time(time), _) | Goal::LatestBefore(time) => {
            Some(PgTimestamp::from_jiff(*time))
        }
        Goal::Target(..) => None,
    };
    plan.warnings.extend(planner.forks.iter().filter_map(|fork| note(fork, time)));
    Ok(plan)
}

/// The timelines that at least one backup leads to.
fn reachable(
    archive: &dyn Archive,
    backups: &[BackupCandidate],
    size: SegmentSize,
) -> Result<Vec<TimelineId>> {
    let mut reachable = Vec::new();
    let known = archive.timelines()?.with_history;
    for timeline in [TimelineId::FIRST].into_iter().chain(known) {
        let Some(history) = archive.origin(timeline)? else { continue };
        if !on_path(backups, &TimelinePath::new(history, size)).is_empty() {
            reachable.push(timeline);
        }
    }
    Ok(reachable)
}

/// The eligible backups: the named one, or all.
fn chosen(request: &TargetRequest, backups: &[BackupCandidate]) -> Result<Vec<BackupCandidate>> {
    let Some(label) = &request.backup else { return Ok(backups.to_vec()) };
    match backups.iter().find(|backup| backup.label == *label) {
        Some(backup) => Ok(vec![backup.clone()]),
        None => Err(Error::absent(format!("the repository holds no backup \"{label}\" of this cluster"))
            .hint("pgark info lists the backups.")),
    }
}

/// Refuses to treat a timeline as the latest while there is WAL of a later one whose history file was never
/// archived.
fn check_later_timelines(timeline: TimelineId, size: SegmentSize, archive: &dyn Archive) -> Result<()> {
    for later in archive.timelines()?.with_files.into_iter().filter(|later| *later > timeline) {
        if has_segments(archive, later, size)? {
            return Err(missing_history(timeline, later));
        }
    }
    Ok(())
}

fn history(archive: &dyn Archive, timeline: TimelineId) -> Result<TimelineHistory> {
    archive.origin(timeline)?.ok_or_else(|| {
        Error::new(
            ErrorKind::Hole,
            format!("the history file of timeline {timeline} is missing from the repository"),
        )
        .hint(format!(
            "On the server of that timeline, run in its data directory: archive-push pg_wal/{}. Or recover on another timeline \
             with --target-timeline.",
            WalFileName::History(timeline)
        ))
    })
}

/// Describes a target for messages about reading WAL.
fn described(target: &RecoveryTarget) -> String {
    match target {
        RecoveryTarget::Xid(xid) => format!("the end of transaction {xid}"),
        other => other.to_string(),
    }
}

/// Start and end of a recovery to a time.
struct TimedEnd<'a> {
    backup: &'a BackupCandidate,
    wal: PathWal,
    way: WaySurvey,
    found: TimeEvidence,
}

/// Inputs shared by all kinds of targets.
struct Planner<'a> {
    request: &'a TargetRequest,
    archive: &'a dyn Archive,
    path: TimelinePath,
    /// The backups on the path, newest first; never empty.
    candidates: Vec<&'a BackupCandidate>,
    /// Forks off the path.
    forks: Vec<TimelineFork>,
}

impl Planner<'_> {
    /// Plans a recovery to the end of the WAL.
    fn latest(&self) -> Result<TargetPlan> {
        let backup = self.newest()?;
        let wal = self.wal_from(backup)?;
        let way = self.survey(backup, &wal, &mut |_| false)?;
        let end = match way.ended {
            // Beyond the limit only the end is read.
            SurveyEnd::Limit => evidence::wal_end(self.archive, &wal, backup.stop_point)?,
            _ => WalEnd::of(&way),
        };
        self.check_no_hole(&wal, &end)?;
        let expected =
            ExpectedEnd { end: end.end, last_transaction: end.last_transaction, ..ExpectedEnd::default() };
        let plan = self.plan(backup, &wal, RecoveryTarget::Latest, TargetBound::Inclusive, expected)?;
        let mut plan = self.with_way(plan, &way);
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

    /// Reads the WAL from a backup to the `wanted` record. A record that no recovery can pass is an error.
    fn survey(
        &self,
        backup: &BackupCandidate,
        wal: &PathWal,
        wanted: &mut dyn FnMut(&WalMark) -> bool,
    ) -> Result<WaySurvey> {
        let (from, floor) = (backup.start_point, backup.stop_point);
        let mut way = survey(self.archive, wal, from, floor, self.request.prove_bytes, wanted)?;
        if let Some(damage) = way.damage.take() {
            let is_within_backup = way.end.is_none_or(|end| end <= backup.stop_point);
            return Err(damage.hint(if is_within_backup {
                format!(
                    "Backup {} needs this segment. Choose another backup with --backup; pgark info lists them.",
                    backup.label
                )
            } else {
                self.as_far_as_possible(&WalEnd::of(&way))
            }));
        }
        match way.ended {
            SurveyEnd::Minimal(point) => Err(self.written_with_minimal(point, &WalEnd::of(&way))),
            _ => Ok(way),
        }
    }

    fn written_with_minimal(&self, point: Lsn, end: &WalEnd) -> Error {
        Error::new(
            ErrorKind::Hole,
            format!("WAL was written with wal_level = minimal after {point}: PostgreSQL cannot recover any further"),
        )
        .hint(format!(
            "Only a backup taken after the level was raised again can recover past this point. {}",
            self.as_far_as_possible(end)
        ))
    }

    /// Adds the results of reading the WAL to a plan.
    fn with_way(&self, plan: TargetPlan, way: &WaySurvey) -> TargetPlan {
        let mut plan = TargetPlan { limits: way.limits, new_in_place_tablespace: way.new_in_place, ..plan };
        plan.warnings.extend(way.new_tablespaces.iter().map(|path| {
            format!(
                "a tablespace was created in \"{path}\" after the backup: the server uses that directory on this host, which \
                 must exist, be empty and belong to the server's user"
            )
        }));
        if way.ended == SurveyEnd::Limit {
            if matches!(self.request.goal, Goal::LatestBefore(_) | Goal::Target(RecoveryTarget::Time(_), _)) {
                plan.warnings.push("the end is proven, unless the server's clock was set back".to_owned());
            }
            plan.warnings.push(format!(
                "only the first {} MiB of the stored WAL up to the target were read: raised settings and wal_level = minimal \
                 after them would go unnoticed (recover.prove_wal_mib)",
                self.request.prove_bytes >> 20
            ));
        }
        plan
    }

    /// Refuses a timeline without stored WAL if the parent's copy of its first segment is stored. That copy
    /// is not served, because it may hold records that the timeline never had, and its records before the
    /// switch would be lost.
    fn check_switch_segment(&self, switch: TimelineSwitch) -> Result<()> {
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
                "timeline {timeline}, which left timeline {parent} at {point}, has no WAL in the repository yet"
            ),
        )
        .hint(format!(
            "Wait until its first segment is archived. To recover everything up to the switch: {} --target-lsn {point} \
             --exclusive --target-timeline {parent}",
            self.request.command
        )))
    }

    /// Plans a recovery to the end of the backup.
    fn immediate(&self, bound: TargetBound) -> Result<TargetPlan> {
        let backup = self.newest()?;
        let wal = self.wal_from(backup)?;
        let way = self.survey(backup, &wal, &mut |mark| mark.start >= backup.stop_point)?;
        let expected = ExpectedEnd { end: Some(backup.stop_point), ..ExpectedEnd::default() };
        Ok(self.with_way(self.plan(backup, &wal, RecoveryTarget::Immediate, bound, expected)?, &way))
    }

    /// Plans a recovery to a position.
    fn lsn(&self, lsn: Lsn, bound: TargetBound) -> Result<TargetPlan> {
        let backup = self.candidates.iter().find(|backup| backup.stop_point <= lsn);
        let backup = *backup.ok_or_else(|| self.before_first_backup(&format!("LSN {lsn}")))?;
        let wal = self.wal_from(backup)?;
        let target = RecoveryTarget::Lsn(lsn);
        let way = self.survey(backup, &wal, &mut |mark| mark.start >= lsn)?;
        let found = match &way.ended {
            SurveyEnd::Found(mark) => Some(mark.clone()),
            SurveyEnd::Limit => evidence::record_from(self.archive, &wal, lsn)?,
            SurveyEnd::WalEnd | SurveyEnd::Minimal(_) => None,
        };
        let Some(mark) = found else { return self.unreached(backup, &wal, target, bound) };
        let end = match bound {
            TargetBound::Inclusive => mark.end,
            TargetBound::Exclusive => mark.start,
        };
        let expected = ExpectedEnd { end: Some(end), ..ExpectedEnd::default() };
        Ok(self.with_way(self.plan(backup, &wal, target, bound, expected)?, &way))
    }

    /// Plans a recovery to a time.
    fn time(&self, time: jiff::Timestamp, bound: TargetBound) -> Result<TargetPlan> {
        let target = RecoveryTarget::Time(time);
        let end = self.ended_before(time, bound, &target)?;
        let Some(beyond) = end.found.beyond else {
            return self.unreached(end.backup, &end.wal, target, bound);
        };
        let expected = ExpectedEnd {
            unproven: None,
            end: Some(beyond.start),
            last_transaction: end.found.last,
            first_lost: Some(beyond),
        };
        Ok(self.with_way(self.plan(end.backup, &end.wal, target, bound, expected)?, &end.way))
    }

    /// Plans a recovery to the last transaction at or before a time, expressed as the position of its record.
    fn latest_before(&self, time: jiff::Timestamp) -> Result<TargetPlan> {
        let bound = TargetBound::Inclusive;
        let TimedEnd { backup, wal, way, found } =
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
        Ok(self.with_way(self.plan(backup, &wal, target, bound, expected)?, &way))
    }

    /// Plans a recovery to a restore point or the end of a transaction, which requires a forward read.
    fn record(&self, target: &RecoveryTarget, bound: TargetBound) -> Result<TargetPlan> {
        let mut read_until = None;
        let mut newest = None;
        // The record as found from a newer backup, which is too new to recover to it.
        let mut later: Option<WalMark> = None;
        for &backup in &self.candidates {
            let wal = self.wal_from(backup)?;
            let mut meant = Meant { target, epoch: self.request.epoch, next_xid: None };
            let earlier =
                evidence::first_record(self.archive, &wal, backup.start_point, read_until, &mut |event| {
                    meant.is(event)
                })?;
            let readable = |mark: &WalMark| wal.readable_end().is_some_and(|end| mark.end <= end);
            later = earlier.or(later);
            match later.clone().filter(readable) {
                // Within the backup: the server would refuse it, but an older backup may work.
                Some(mark) if mark.start < backup.stop_point => {}
                Some(mark) => return self.to_record(backup, &wal, target, bound, &mark),
                None => {}
            }
            read_until = Some(self.path.segment_at(backup.start_point));
            newest = newest.or(Some((backup, wal)));
        }
        match newest {
            Some(_) if later.is_some_and(|mark| self.is_in_first_backup(&mark)) => {
                Err(self.before_first_backup(&described(target)))
            }
            Some((backup, wal)) => self.unreached(backup, &wal, target.clone(), bound),
            None => Err(none_on_path(&self.path, &[], &[])),
        }
    }

    fn to_record(
        &self,
        backup: &BackupCandidate,
        wal: &PathWal,
        target: &RecoveryTarget,
        bound: TargetBound,
        mark: &WalMark,
    ) -> Result<TargetPlan> {
        let way = self.survey(backup, wal, &mut |passed| passed.start >= mark.start)?;
        let mut warnings = Vec::new();
        let target = match (target, &mark.event) {
            // The server compares only the transaction itself.
            (RecoveryTarget::Xid(wanted), WalEvent::TransactionEnd { xid, .. }) if wanted != xid => {
                warnings
                    .push(format!("{wanted} was a subtransaction of transaction {xid}, which is the target"));
                RecoveryTarget::Xid(*xid)
            }
            (RecoveryTarget::Name(name), _) => {
                warnings.extend(self.namesakes(name, mark)?);
                target.clone()
            }
            _ => target.clone(),
        };
        let plan = self.plan(backup, wal, target, bound, found_record(mark, bound))?;
        let mut plan = self.with_way(plan, &way);
        plan.warnings.append(&mut warnings);
        Ok(plan)
    }

    /// A note about other restore points of the same name: the server stops at the first one that it reaches.
    fn namesakes(&self, name: &RestorePointName, taken: &WalMark) -> Result<Option<String>> {
        // Starts from the oldest backup with complete WAL; gaps after other backups do not affect this
        // target.
        let whole =
            self.candidates.iter().rev().find_map(|backup| Some((*backup, self.wal_from(backup).ok()?)));
        let Some((oldest, wal)) = whole else { return Ok(None) };
        let mut found: Vec<String> = Vec::new();
        survey(
            self.archive,
            &wal,
            oldest.start_point,
            oldest.stop_point,
            self.request.prove_bytes,
            &mut |mark| {
                if let WalEvent::RestorePoint { name: Some(other), time } = &mark.event
                    && other == name
                    && mark.start != taken.start
                    && found.len() < NAMESAKES_MAX
                {
                    found.push(format!("{time} (LSN {})", mark.start));
                }
                false
            },
        )?;
        if found.is_empty() {
            return Ok(None);
        }
        let time = match &taken.event {
            WalEvent::RestorePoint { time, .. } => time.to_string(),
            _ => String::new(),
        };
        Ok(Some(format!(
            "other restore points of this name were created {}; the target is the one of {time} (LSN {}); select another with \
             --target-lsn",
            found.join(", "),
            taken.start
        )))
    }

    fn is_in_first_backup(&self, mark: &WalMark) -> bool {
        let within =
            |backup: &&BackupCandidate| (backup.start_point..backup.stop_point).contains(&mark.start);
        self.candidates.last().is_some_and(within)
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
            let way = self.survey(backup, &wal, &mut |mark| is_beyond(mark))?;
            let beyond = match &way.ended {
                SurveyEnd::Found(mark) => mark.transaction_end(),
                // Only the first part was read, and all its transactions ended before the time.
                SurveyEnd::Limit => {
                    let from = way.end.unwrap_or(backup.stop_point).max(backup.stop_point);
                    let found = evidence::time(self.archive, &wal, from, limit, bound)?;
                    let last = found.last.or(way.last_transaction);
                    let found = TimeEvidence { last, ..found };
                    return Ok(TimedEnd { backup, wal, way, found });
                }
                SurveyEnd::WalEnd | SurveyEnd::Minimal(_) => None,
            };
            // If a clock was set back, an older backup may be the right one.
            if beyond.is_none_or(|end| end.start >= backup.stop_point) {
                let found = TimeEvidence { last: way.last_transaction, beyond };
                return Ok(TimedEnd { backup, wal, way, found });
            }
        }
        Err(self.before_first_backup(&target.to_string()))
    }

    /// The WAL from a backup's start point, which must reach its stop point.
    fn wal_from(&self, backup: &BackupCandidate) -> Result<PathWal> {
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
    fn check_no_hole(&self, wal: &PathWal, end: &WalEnd) -> Result<()> {
        match wal.gap() {
            Some(gap) => Err(wal.hole(gap, &self.as_far_as_possible(end))),
            None => Ok(()),
        }
    }

    /// The sentence that explains how to recover as far as the WAL reaches.
    fn as_far_as_possible(&self, end: &WalEnd) -> String {
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
    fn unreached(
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

    fn not_found(&self, target: &RecoveryTarget, wal: &PathWal, end: &WalEnd) -> Error {
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
    fn after_the_end(&self, target: &RecoveryTarget, end: &WalEnd) -> Error {
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

    fn before_first_backup(&self, target: &str) -> Error {
        let error = Error::absent(format!("no backup ended before {target}"));
        match (&self.request.backup, self.candidates.last()) {
            (Some(label), Some(backup)) => error.with_kind(ErrorKind::Usage).hint(format!(
                "Backup {label} ended at {} (LSN {}). Omit --backup to let pgark choose one.",
                backup.stop_time, backup.stop_point
            )),
            (None, Some(oldest)) => error.hint(format!(
                "The oldest backup that leads to timeline {}, {}, ended at {} (LSN {}): no earlier point can be \
                 recovered.",
                self.path.timeline(),
                oldest.label,
                oldest.stop_time,
                oldest.stop_point
            )),
            _ => error,
        }
    }

    fn plan(
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

/// Searches for the record at which the server stops.
struct Meant<'a> {
    target: &'a RecoveryTarget,
    epoch: Option<u32>,
    /// The next transaction ID from the last checkpoint.
    next_xid: Option<u64>,
}

impl Meant<'_> {
    fn is(&mut self, event: &WalEvent) -> bool {
        match (self.target, event) {
            (_, WalEvent::Checkpoint { next_xid }) => {
                self.next_xid = Some(*next_xid);
                false
            }
            (RecoveryTarget::Xid(wanted), WalEvent::TransactionEnd { xid, holds_wanted, .. }) => {
                let known = self.next_xid.map(|next| wanted.epoch_near(next));
                let is_of_epoch = self.epoch.is_none_or(|epoch| known.is_none_or(|known| known == epoch));
                (wanted == xid || *holds_wanted) && is_of_epoch
            }
            (RecoveryTarget::Name(wanted), WalEvent::RestorePoint { name, .. }) => {
                name.as_ref() == Some(wanted)
            }
            _ => false,
        }
    }
}

fn found_record(mark: &WalMark, bound: TargetBound) -> ExpectedEnd {
    match (mark.transaction_end(), bound) {
        (Some(end), TargetBound::Exclusive) => {
            ExpectedEnd { end: Some(mark.start), first_lost: Some(end), ..ExpectedEnd::default() }
        }
        (end, _) => ExpectedEnd { end: Some(mark.end), last_transaction: end, ..ExpectedEnd::default() },
    }
}
