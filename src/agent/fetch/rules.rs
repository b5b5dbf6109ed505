//! The agent's answers for files that the repository does not hold, and the segments that it refuses to
//! serve.
//!
//! `repository::wal` owns the rules of paths and holes. Here they are combined with what is known about the
//! requesting recovery.

use crate::error::{Error, ErrorKind, RecoveryMode, Result};
use crate::postgres::{Lsn, SegmentName, TimelineId, WalFileName};
use crate::repository::Repository;
use crate::repository::wal::{
    ArchiveEnd, HoleProof, RepositoryCatalog, WalCatalog, divergence, judge_history, judge_segment,
};
use crate::spool::{GetRequest, TargetRule};

/// What is known about the destination of a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryDestination {
    /// This timeline: the request names it, or the recovery has just requested the same segment of this
    /// timeline in vain.
    To(TimelineId),
    /// Nothing, because this agent has not seen the previous request.
    Unknown,
    /// The timelines of the requested segments, whatever they are.
    AsRequested,
}

/// The answer for a file that the repository does not hold.
pub fn not_in_the_archive(name: WalFileName) -> Error {
    Error::absent(format!("{name} is not in the archive"))
}

/// The answer for a file that the repository does not hold: [`ErrorKind::Absent`], or [`ErrorKind::Hole`]
/// when recovery would lose WAL by relying on it, or [`ErrorKind::Unavailable`] instead of a loss when the
/// file is being stored.
///
/// # Errors
/// The store's own.
pub fn judge_absence(
    repository: &Repository,
    request: &GetRequest,
    destination: RecoveryDestination,
    coming: bool,
) -> Result<Error> {
    let judged = judge_by_catalog(repository, request, destination)?;
    let would_lose = match request.name {
        WalFileName::Segment(segment) => is_required(request, segment),
        _ => judged.kind() == ErrorKind::Hole,
    };
    Ok(if coming && would_lose {
        Error::unavailable(format!("{} is still being stored by the agent of this host", request.name))
            .hint("The repository is slow. \"pgark status\" shows the agent's progress.")
    } else {
        judged
    })
}

fn judge_by_catalog(
    repository: &Repository,
    request: &GetRequest,
    destination: RecoveryDestination,
) -> Result<Error> {
    let catalog = RepositoryCatalog::new(repository, request.segment_size);
    match request.name {
        WalFileName::Segment(segment) if is_required(request, segment) => {
            let destination = match destination {
                RecoveryDestination::To(timeline) => Some(timeline),
                RecoveryDestination::Unknown | RecoveryDestination::AsRequested => None,
            };
            let judged = judge_segment(&catalog, destination, segment, request.segment_size)?;
            segment_answer(repository, request, segment, judged)
        }
        WalFileName::History(timeline) => {
            Ok(history_answer(request, timeline, judge_history(&catalog, timeline, request.segment_size)?))
        }
        // The absence of a partial segment or a backup history file proves nothing.
        _ => Ok(not_in_the_archive(request.name)),
    }
}

fn segment_answer(
    repository: &Repository,
    request: &GetRequest,
    segment: SegmentName,
    judged: ArchiveEnd,
) -> Result<Error> {
    let ArchiveEnd::Hole(proof) = judged else { return Ok(not_in_the_archive(request.name)) };
    // Stored between the two requests: the archive of a running server grows while it is listed.
    if repository.store().stat(&repository.layout().segment(segment)?)?.is_some() {
        return Ok(Error::unavailable(format!("{segment} has just arrived in the archive")));
    }
    Ok(Error::new(ErrorKind::Hole, format!("{segment} is missing from the archive: {proof}")).hint(
        "Recovery stops here instead of ending before the hole without an error. pgark info lists the holes. If the \
         segment cannot be found, recover to a target before it.",
    ))
}

/// PostgreSQL numbers timelines consecutively, and takes the first number without a history file as free.
fn history_answer(request: &GetRequest, timeline: TimelineId, judged: ArchiveEnd) -> Error {
    let ArchiveEnd::Hole(proof) = judged else { return not_in_the_archive(request.name) };
    let name = request.name;
    let message = format!("{name} is missing from the archive: {proof}");
    // A standby retries, and the file may arrive. At the deadline the answer is that the file is absent.
    let kind = match request.mode {
        RecoveryMode::Standby => ErrorKind::Unavailable,
        RecoveryMode::OneShot => ErrorKind::Hole,
    };
    Error::new(kind, message).hint(match proof {
        HoleProof::LaterTimeline(_) => format!(
            "PostgreSQL would reuse the number of timeline {timeline}. On a server that has the file, run in its data \
             directory: archive-push pg_wal/{name}"
        ),
        _ => format!(
            "Without it PostgreSQL would end recovery before timeline {timeline}, or begin another timeline with that number. \
             On a server of that timeline, run in its data directory: archive-push pg_wal/{name}"
        ),
    })
}

/// Refuses a segment that must not be served on the way to another timeline. An ancestor's copy of the
/// segment in which it was left may hold records that the destination never had.
///
/// # Errors
/// [`ErrorKind::Hole`], or [`ErrorKind::Absent`] where recovery may end before the segment; and the store's
/// own.
pub fn check_destination(
    repository: &Repository,
    request: &GetRequest,
    segment: SegmentName,
    destination: RecoveryDestination,
) -> Result<()> {
    let catalog = RepositoryCatalog::new(repository, request.segment_size);
    let diverged = match destination {
        RecoveryDestination::AsRequested => None,
        RecoveryDestination::To(timeline) => {
            divergence(&catalog, timeline, segment, request.segment_size)?.map(|left_at| (timeline, left_at))
        }
        RecoveryDestination::Unknown => possible_divergence(&catalog, request, segment)?,
    };
    let Some((timeline, left_at)) = diverged else { return Ok(()) };
    // Without a copy there is nothing to refuse, and no stored WAL is lost.
    if repository.store().stat(&repository.layout().segment(segment)?)?.is_none() {
        return Err(not_in_the_archive(request.name));
    }
    let ancestor = segment.timeline();
    let message = format!(
        "{segment} is not on the path to timeline {timeline}, which branched off timeline {ancestor} at {left_at}"
    );
    let kind = if is_required(request, segment) { ErrorKind::Hole } else { ErrorKind::Absent };
    Err(Error::new(kind, message).hint(format!(
        "The archive lacks that segment of timeline {timeline}. To recover what is there, recover to timeline {ancestor} with \
         --target-lsn {left_at} --exclusive. If recovery must follow timeline {ancestor}, set restore_command = 'archive-get \
         --timeline {ancestor} %f %p'."
    )))
}

/// Where an unknown recovery may have left the timeline of `segment` within this segment, on the way to a
/// timeline without stored WAL. If that timeline had stored WAL, its segment would have been served, or
/// reported as a hole.
fn possible_divergence(
    catalog: &dyn WalCatalog,
    request: &GetRequest,
    segment: SegmentName,
) -> Result<Option<(TimelineId, Lsn)>> {
    let known = catalog.timelines()?;
    let newer =
        |timeline: &TimelineId| *timeline > segment.timeline() && !known.with_files.contains(timeline);
    for timeline in known.with_history.iter().copied().filter(newer) {
        let Some(left_at) = divergence(catalog, timeline, segment, request.segment_size)? else { continue };
        if segment.number(request.segment_size) == Some(left_at.segment(request.segment_size)) {
            return Ok(Some((timeline, left_at)));
        }
    }
    Ok(None)
}

/// Whether recovery must not end before this segment when the archive proves that it existed.
///
/// Without a target, PostgreSQL would promote there without an error. With a target, PostgreSQL itself fails
/// if it does not reach the target, but it also requests segments after the target: only those up to the
/// proven end are required. A standby keeps retrying.
fn is_required(request: &GetRequest, segment: SegmentName) -> bool {
    let size = request.segment_size;
    request.mode == RecoveryMode::OneShot
        && match request.target {
            TargetRule::NoTarget => true,
            TargetRule::WithTarget => {
                request.proven_end.is_some_and(|end| segment.number(size) <= end.number(size))
            }
        }
}
