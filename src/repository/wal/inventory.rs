//! Lists the WAL files in the repository.

use crate::error::Result;
use crate::postgres::{SegmentName, SegmentNumber, TimelineId, WalFileName};
use crate::repository::Repository;
use crate::store::{ObjectInfo, ObjectKey};
use std::ops::ControlFlow;

/// The timelines that have segments, in order, and those that have a history file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timelines {
    /// Timelines with a segment, partial segment or backup history file.
    pub with_files: Vec<TimelineId>,
    /// Timelines whose history file is stored.
    pub with_history: Vec<TimelineId>,
}

/// Lists the timelines in the repository.
///
/// # Errors
/// Those of the store.
pub fn timelines(repository: &Repository) -> Result<Timelines> {
    let listing = repository.store().list(Some(&repository.layout().wal()?))?;
    let with_files = listing
        .directories
        .iter()
        .filter_map(|name| eight_hex_digits(name).and_then(TimelineId::new))
        .collect();
    let with_history = listing
        .objects
        .iter()
        .filter_map(|(name, _)| match name.parse() {
            Ok(WalFileName::History(timeline)) => Some(timeline),
            _ => None,
        })
        .collect();
    Ok(Timelines { with_files, with_history })
}

/// Visits the complete segments of a timeline in order, from `from` on, until `visit` breaks.
///
/// Uses one flat list: a bucket takes one request for each thousand names, and memory does not grow with the archive.
///
/// # Errors
/// Those of the store.
pub fn visit_segments(
    repository: &Repository,
    timeline: TimelineId,
    from: Option<SegmentName>,
    visit: &mut dyn FnMut(SegmentName, ObjectInfo) -> ControlFlow<()>,
) -> Result<()> {
    let layout = repository.layout();
    let from = from.map(|name| layout.segment(name)).transpose()?;
    visit_below(repository, &layout.wal_timeline(timeline)?, from.as_ref(), visit)
}

/// Visits the complete segments below a key.
fn visit_below(
    repository: &Repository,
    below: &ObjectKey,
    from: Option<&ObjectKey>,
    visit: &mut dyn FnMut(SegmentName, ObjectInfo) -> ControlFlow<()>,
) -> Result<()> {
    visit_files(repository, below, from, &mut |name, info| match name {
        WalFileName::Segment(segment) => visit(segment, info),
        _ => ControlFlow::Continue(()),
    })
}

/// Visits the files of any form below a key.
fn visit_files(
    repository: &Repository,
    below: &ObjectKey,
    from: Option<&ObjectKey>,
    visit: &mut dyn FnMut(WalFileName, ObjectInfo) -> ControlFlow<()>,
) -> Result<()> {
    let layout = repository.layout();
    repository.store().walk(below, from, &mut |path, info| {
        let name = path.rsplit('/').next().unwrap_or_default();
        let Ok(name) = name.parse() else { return ControlFlow::Continue(()) };
        // Files in other places are never read.
        match (layout.wal_file(name), below.join(path)) {
            (Ok(place), Ok(found)) if place == found => visit(name, info),
            _ => ControlFlow::Continue(()),
        }
    })
}

/// The first and the last complete segment of a timeline, regardless of gaps.
///
/// Takes a handful of requests to a bucket, however many segments there are: names are in order, and the last segment
/// has the last log number.
///
/// # Errors
/// Those of the store.
pub fn segment_ends(
    repository: &Repository,
    timeline: TimelineId,
) -> Result<Option<(SegmentName, SegmentName)>> {
    let (store, layout) = (repository.store(), repository.layout());
    let mut first = None;
    visit_segments(repository, timeline, None, &mut |name, _| {
        first = Some(name);
        ControlFlow::Break(())
    })?;
    let Some(first) = first else { return Ok(None) };
    let logs = store.list(Some(&layout.wal_timeline(timeline)?))?.directories;
    // Usually the last one: some logs contain only partial segments and backup history files.
    for log in logs.iter().rev().filter_map(|name| eight_hex_digits(name)) {
        let mut last = None;
        visit_below(repository, &layout.wal_log(timeline, log)?, None, &mut |name, _| {
            last = Some(name);
            ControlFlow::Continue(())
        })?;
        if let Some(last) = last {
            return Ok(Some((first, last)));
        }
    }
    // Removed during the search.
    Ok(None)
}

/// Consecutive segments of one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRun {
    /// The first.
    pub first: SegmentNumber,
    /// The last, which may equal the first.
    pub last: SegmentNumber,
    /// Their length in the repository, in bytes.
    pub stored_bytes: u64,
}

/// Segments of one timeline and log with consecutive names, which do not depend on the segment size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameRun {
    /// The first.
    pub first: SegmentName,
    /// The last, which may equal the first.
    pub last: SegmentName,
    /// Their length in the repository, in bytes.
    pub stored_bytes: u64,
}

impl NameRun {
    /// Adds a segment to the last of the runs, or begins a new one.
    pub(super) fn add(runs: &mut Vec<NameRun>, name: SegmentName, stored_bytes: u64) {
        match runs.last_mut().filter(|run| name.follows(run.last)) {
            Some(run) => {
                run.last = name;
                run.stored_bytes = run.stored_bytes.saturating_add(stored_bytes);
            }
            None => runs.push(NameRun { first: name, last: name, stored_bytes }),
        }
    }
}

/// The files of a timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimelineFiles {
    /// The runs of its segments, in order.
    pub runs: Vec<NameRun>,
    /// Its partial segments, in order; further ones of a name follow the first.
    pub partials: Vec<WalFileName>,
}

/// The complete and partial segments of a timeline. Lists all of them; memory grows only with the gaps, logs and
/// partial segments.
///
/// # Errors
/// Those of the store.
pub fn timeline_files(repository: &Repository, timeline: TimelineId) -> Result<TimelineFiles> {
    let mut files = TimelineFiles::default();
    let below = repository.layout().wal_timeline(timeline)?;
    visit_files(repository, &below, None, &mut |name, info| {
        let segment = match name {
            WalFileName::Segment(segment) => segment,
            WalFileName::Partial(_) | WalFileName::FurtherPartial(..) => {
                files.partials.push(name);
                return ControlFlow::Continue(());
            }
            _ => return ControlFlow::Continue(()),
        };
        NameRun::add(&mut files.runs, segment, info.length_bytes);
        ControlFlow::Continue(())
    })?;
    Ok(files)
}

/// The partial segments of this name: the first one and further ones.
///
/// # Errors
/// Those of the store.
pub fn partials_of(repository: &Repository, segment: SegmentName) -> Result<Vec<WalFileName>> {
    let layout = repository.layout();
    let below = layout.wal_log(segment.timeline(), segment.log())?;
    let first = layout.wal_file(WalFileName::Partial(segment))?;
    let mut partials = Vec::new();
    visit_files(repository, &below, Some(&first), &mut |name, _| {
        if name.segment() != Some(segment) {
            return ControlFlow::Break(());
        }
        if matches!(name, WalFileName::Partial(_) | WalFileName::FurtherPartial(..)) {
            partials.push(name);
        }
        ControlFlow::Continue(())
    })?;
    Ok(partials)
}

fn eight_hex_digits(text: &str) -> Option<u32> {
    let well_formed = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    if well_formed { u32::from_str_radix(text, 16).ok() } else { None }
}
