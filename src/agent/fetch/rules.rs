//! When recovery may believe that its WAL ends, and which segments are not on its way.
//!
//! PostgreSQL takes a missing segment for the archive's end and, without a target, promotes there without an error.

use crate::error::{Error, ErrorKind, RecoveryMode, Result};
use crate::postgres::{SegmentName, TimelineId, WalFileName};
use crate::repository::{Repository, wal};
use crate::spool::{GetRequest, TargetRule};

/// The answer for a file that the repository does not hold.
pub fn not_in_the_archive(name: WalFileName) -> Error {
    Error::absent(format!("{name} is not in the archive"))
}

/// The answer for a segment that the repository does not hold: [`ErrorKind::Absent`], or [`ErrorKind::Hole`] when
/// recovery would lose WAL by believing it.
///
/// # Errors
/// The store's own.
pub fn judge_absence(repository: &Repository, request: &GetRequest, segment: SegmentName) -> Result<Error> {
    let absent = not_in_the_archive(request.name);
    if !must_not_end_early(request) {
        return Ok(absent);
    }
    // A timeline's first segment follows from its history file, never from a listing: below it nothing is missing.
    if let Some(history) = repository.history(segment.timeline())? {
        let first = history.first_segment(request.segment_size);
        if first.is_some_and(|first| segment.number(request.segment_size).is_none_or(|number| number < first))
        {
            return Ok(absent);
        }
    }
    match wal::later_segment(repository, segment)? {
        None => Ok(absent),
        // Stored between the two questions: the archive of a living server grows while it is listed.
        Some(_) if repository.store().stat(&repository.layout().segment(segment)?)?.is_some() => {
            Err(Error::unavailable(format!("{segment} has arrived in the archive just now")))
        }
        Some(later) => Ok(Error::new(
            ErrorKind::Hole,
            format!("{segment} is missing in the archive, which holds {later} after it"),
        )
        .hint(
            "Recovery stops here rather than to end in silence before the hole. pgark info lists the holes; if the \
             segment cannot be found, recover to a target before it.",
        )),
    }
}

/// Whether a segment may be served on the way to the timeline that recovery goes to, as the request says it, or as
/// follows from the segment of a newer timeline that was just asked for and not found.
///
/// An ancestor's copy of the segment in which it was left may hold records that the timeline never had.
///
/// # Errors
/// [`ErrorKind::Hole`], or [`ErrorKind::Absent`] where a target protects recovery; and the store's own.
pub fn check_path(
    repository: &Repository,
    request: &GetRequest,
    segment: SegmentName,
    absent_before: Option<SegmentName>,
) -> Result<()> {
    let size = request.segment_size;
    let number = segment.number(size);
    let newer_of_same =
        absent_before.filter(|before| before.number(size) == number).map(SegmentName::timeline);
    let Some(destination) = request.timeline.max(newer_of_same).filter(|to| *to > segment.timeline()) else {
        return Ok(());
    };
    let Some(left_at) = left_at(repository, destination, segment.timeline())? else { return Ok(()) };
    if number.is_some_and(|number| number < left_at.segment(size)) {
        return Ok(());
    }
    let message = format!(
        "{segment} is not on the way to timeline {destination}, which left timeline {} at {left_at}",
        segment.timeline()
    );
    let kind = if must_not_end_early(request) { ErrorKind::Hole } else { ErrorKind::Absent };
    Err(Error::new(kind, message).hint(format!(
        "The archive lacks that segment of timeline {destination}. To recover what is there, recover to timeline {} with \
         --target-lsn {left_at}.",
        segment.timeline()
    )))
}

/// Where `ancestor` ends on the way to `destination`.
fn left_at(
    repository: &Repository,
    destination: TimelineId,
    ancestor: TimelineId,
) -> Result<Option<crate::postgres::Lsn>> {
    Ok(repository.history(destination)?.and_then(|history| history.end_of(ancestor)))
}

/// Whether PostgreSQL would promote at the archive's end without an error: not with a target, and not as a standby.
fn must_not_end_early(request: &GetRequest) -> bool {
    request.mode == RecoveryMode::OneShot && request.target == TargetRule::NoTarget
}
