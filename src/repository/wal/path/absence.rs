//! The meaning of a file that the archive does not hold: the archive's end, or a hole.
//!
//! PostgreSQL takes a missing segment for the archive's end and, without a target, promotes there without an error. It
//! takes a missing history file for a timeline that does not exist, and may assign its number to another one.

use super::catalog::WalCatalog;
use crate::error::Result;
use crate::postgres::{Lsn, SegmentName, SegmentNumber, SegmentSize, TimelineHistory, TimelineId};
use std::fmt;
use std::ops::ControlFlow;

/// After how many interruptions of the WAL that follows a missing segment its size is no longer checked.
const STARTS_MAX: usize = 1000;

/// The meaning of a missing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveEnd {
    /// Nothing in the archive proves that the file ever existed.
    End,
    /// The file existed and is lost.
    Hole(HoleProof),
}

/// The proof that a missing file existed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoleProof {
    /// A later segment of the same timeline is stored.
    LaterSegment(SegmentName),
    /// Another timeline branched off in a later segment.
    LaterSwitch {
        /// That timeline.
        timeline: TimelineId,
        /// The position where it branched off.
        switch_point: Lsn,
    },
    /// For a history file: segments of its timeline are stored.
    SegmentsOfTimeline,
    /// For a history file: a later timeline is stored, and PostgreSQL numbers timelines consecutively.
    LaterTimeline(TimelineId),
}

impl fmt::Display for HoleProof {
    /// The proof, as the end of a sentence that begins with the missing file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HoleProof::LaterSegment(later) => write!(f, "the archive holds {later} after it"),
            HoleProof::LaterSwitch { timeline, switch_point } => {
                write!(f, "timeline {timeline} began after it, at {switch_point}")
            }
            HoleProof::SegmentsOfTimeline => f.write_str("the archive holds WAL of that timeline"),
            HoleProof::LaterTimeline(later) => write!(f, "the archive holds timeline {later}"),
        }
    }
}

/// The meaning of a missing `segment` on the way to `destination`; `None`: to the newest known timeline.
///
/// # Errors
/// Those of the catalog.
pub fn judge_segment(
    catalog: &dyn WalCatalog,
    destination: Option<TimelineId>,
    segment: SegmentName,
    size: SegmentSize,
) -> Result<ArchiveEnd> {
    let timeline = segment.timeline();
    let Some(number) = segment.number(size) else { return Ok(ArchiveEnd::End) };
    // A timeline's first segment follows from its history file, never from a listing. Below it nothing is missing.
    let history = catalog.history(timeline)?;
    if history.and_then(|history| history.first_segment(size)).is_some_and(|first| number < first) {
        return Ok(ArchiveEnd::End);
    }
    let switch = match destination.filter(|destination| *destination != timeline) {
        Some(destination) => {
            let history = catalog.history(destination)?;
            match history.and_then(|history| left_at(&history, timeline)) {
                Some(switch) => Some(switch),
                // The destination does not come from this timeline: all known branches count.
                None => last_switch(catalog, timeline)?,
            }
        }
        None => last_switch(catalog, timeline)?,
    };
    if let Some((by, switch_point)) = switch
        && number < switch_point.segment(size)
    {
        return Ok(ArchiveEnd::Hole(HoleProof::LaterSwitch { timeline: by, switch_point }));
    }
    let later = later_segment(catalog, segment, number, size)?;
    Ok(later.map_or(ArchiveEnd::End, |later| ArchiveEnd::Hole(HoleProof::LaterSegment(later))))
}

/// A stored segment after `number`, the segment `from`. Names of segments of another size mean other positions.
fn later_segment(
    catalog: &dyn WalCatalog,
    from: SegmentName,
    number: SegmentNumber,
    size: SegmentSize,
) -> Result<Option<SegmentName>> {
    let name = |number| SegmentName::new(from.timeline(), number, size);
    // Usually the first one has this size, and the others need not be listed.
    for starts_max in [1, STARTS_MAX] {
        let starts = run_starts(catalog, from, number, starts_max)?;
        for start in starts.iter().filter_map(|start| name(*start)) {
            if catalog.is_of_size(start)? {
                return Ok(Some(start));
            }
        }
        if starts.len() == STARTS_MAX {
            return Ok(starts.first().and_then(|start| name(*start)));
        }
        if starts.is_empty() {
            break;
        }
    }
    Ok(None)
}

/// Where stored segments begin again after `number`; at most `starts_max` positions. Consecutive segments have the same
/// size.
fn run_starts(
    catalog: &dyn WalCatalog,
    from: SegmentName,
    number: SegmentNumber,
    starts_max: usize,
) -> Result<Vec<SegmentNumber>> {
    let mut starts = Vec::new();
    let mut previous: Option<SegmentNumber> = None;
    catalog.visit_segments(from, &mut |found| {
        if found <= number {
            return ControlFlow::Continue(());
        }
        if previous.is_none_or(|previous| previous.next() != found) {
            starts.push(found);
        }
        previous = Some(found);
        if starts.len() < starts_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(starts)
}

/// The meaning of a missing history file of `timeline`.
///
/// # Errors
/// Those of the catalog.
pub fn judge_history(
    catalog: &dyn WalCatalog,
    timeline: TimelineId,
    size: SegmentSize,
) -> Result<ArchiveEnd> {
    let known = catalog.timelines()?;
    let later_history = known.with_history.into_iter().find(|known| *known > timeline);
    let mut first_with_segments = None;
    for candidate in known.with_files.into_iter().filter(|known| *known >= timeline) {
        if has_segments(catalog, candidate, size)? {
            first_with_segments = Some(candidate);
            break;
        }
    }
    Ok(match (first_with_segments, later_history) {
        (Some(first), _) if first == timeline => ArchiveEnd::Hole(HoleProof::SegmentsOfTimeline),
        (first, later) => match [first, later].into_iter().flatten().min() {
            Some(later) => ArchiveEnd::Hole(HoleProof::LaterTimeline(later)),
            None => ArchiveEnd::End,
        },
    })
}

/// Whether a segment of `timeline` is stored. A directory of its name does not prove it: an interrupted write may have
/// left that.
///
/// # Errors
/// Those of the catalog.
pub fn has_segments(catalog: &dyn WalCatalog, timeline: TimelineId, size: SegmentSize) -> Result<bool> {
    let Some(first) = SegmentName::new(timeline, SegmentNumber::new(0), size) else { return Ok(false) };
    has_segments_from(catalog, first)
}

/// Whether this segment or a later one of its timeline is stored.
///
/// # Errors
/// Those of the catalog.
pub fn has_segments_from(catalog: &dyn WalCatalog, first: SegmentName) -> Result<bool> {
    let mut found = false;
    catalog.visit_segments(first, &mut |_| {
        found = true;
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// Where the way to `destination` has left the timeline of `segment`, if it has in this segment or an earlier one. The
/// segment may then hold records that `destination` never had.
///
/// # Errors
/// Those of the catalog.
pub fn divergence(
    catalog: &dyn WalCatalog,
    destination: TimelineId,
    segment: SegmentName,
    size: SegmentSize,
) -> Result<Option<Lsn>> {
    if destination <= segment.timeline() {
        return Ok(None);
    }
    let left = catalog.history(destination)?.and_then(|history| history.end_of(segment.timeline()));
    let number = segment.number(size);
    Ok(left.filter(|left| number.is_none_or(|number| number >= left.segment(size))))
}

/// The last segment of `timeline` that another timeline proves to have existed on the way to the timeline's own end:
/// the one before the last segment in which another timeline branched off.
pub(super) fn proven_by_switches(
    catalog: &dyn WalCatalog,
    timeline: TimelineId,
    size: SegmentSize,
) -> Result<Option<SegmentNumber>> {
    Ok(last_switch(catalog, timeline)?.and_then(|(_, switch_point)| switch_point.segment(size).previous()))
}

/// The last position at which a stored history leaves `timeline`, and the timeline that begins there.
fn last_switch(catalog: &dyn WalCatalog, timeline: TimelineId) -> Result<Option<(TimelineId, Lsn)>> {
    let mut last: Option<(TimelineId, Lsn)> = None;
    for newer in catalog.timelines()?.with_history.into_iter().filter(|newer| *newer > timeline) {
        let Some(history) = catalog.history(newer)? else { continue };
        if let Some(switch) = left_at(&history, timeline)
            && last.is_none_or(|(_, at)| switch.1 > at)
        {
            last = Some(switch);
        }
    }
    Ok(last)
}

/// The position where a history leaves `timeline`, and the timeline that begins there.
fn left_at(history: &TimelineHistory, timeline: TimelineId) -> Option<(TimelineId, Lsn)> {
    let position = history.switches().iter().position(|switch| switch.timeline == timeline)?;
    let next = history.switches().get(position + 1).map_or(history.timeline(), |next| next.timeline);
    Some((next, history.end_of(timeline)?))
}
