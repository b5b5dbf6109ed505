//! Resolves a recovery request to a backup, a path and a target that the server is proven to reach.
//!
//! Owns: the decisions. Queries the archive through [`Archive`]; writes nothing.

pub mod choice;
mod evidence;
mod forks;
mod planned;
mod planner;
mod record;
mod refusal;
mod replay_survey;
mod request;

#[cfg(test)]
mod tests;

pub use forks::ForkRule;
pub use planned::{ExpectedEnd, TargetPlan};
pub use request::{Consent, Goal, TargetRequest};

use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{
    PgTimestamp, RecoveryTarget, SegmentSize, TargetTimeline, TimelineHistory, TimelineId, WalFileName,
};
use crate::repository::wal::{Archive, TimelinePath, has_segments, missing_history, resolve};
use choice::{BackupCandidate, none_on_path, on_path};
use forks::{abandoned_timelines, newest_timeline, note};
use planner::Planner;

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
    let forks = abandoned_timelines(
        archive,
        path.history(),
        backups,
        only,
        segment_size,
        decision,
        &request.command,
    )?;
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
