//! Back-fill after a promotion: stores the WAL that the old primary never archived.
//!
//! A standby marks the segments that it received by streaming as done, so PostgreSQL never asks for them to
//! be archived. If the old primary fails before it has archived them, recovery across the failover meets a
//! hole. The segments are still in the new primary's `pg_wal`.

use crate::config::Compression;
use crate::durable::Disk;
use crate::error::{Context, Result};
use crate::postgres::{SegmentName, SegmentSize, TimelineHistory, TimelineId, WalFileName};
use crate::repository::Repository;
use crate::repository::wal::{
    self, PageCheck, PathRun, PathWal, PutError, RepositoryCatalog, TimelinePath, WalSource,
};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing::{info, warn};

/// A server whose `pg_wal` may hold such segments.
#[derive(Clone, Debug)]
pub struct Backfill {
    /// The timeline that the server writes on.
    pub timeline: TimelineId,
    /// Its `pg_wal`.
    pub pg_wal: PathBuf,
    /// The disk through which it is read.
    pub disk: Arc<dyn Disk>,
    /// Its segment size.
    pub segment_size: SegmentSize,
    /// How to compress what is stored.
    pub compression: Compression,
    /// A directory for what does not fit into memory.
    pub scratch: PathBuf,
}

/// Segments that the archive lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingSegments {
    /// The first one.
    pub first: SegmentName,
    /// The last one.
    pub last: SegmentName,
    /// Their number.
    pub segments: u64,
}

/// The result of a back-fill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackfillSummary {
    /// The number of segments stored.
    pub stored_segments: u64,
    /// What recovery across the switch still lacks.
    pub missing: Option<MissingSegments>,
}

impl Backfill {
    /// Stores every complete segment of an ancestor that is in `pg_wal` and absent from the repository, then
    /// checks whether the archive leads across the switch. Skips a file whose header does not match its name,
    /// with a warning.
    ///
    /// # Errors
    /// The store's own. Segments may then be missing, and the caller should retry.
    pub fn run(&self, repository: &Repository) -> Result<BackfillSummary> {
        let Some(history) = wal::history_beside(repository, self.disk.as_ref(), &self.pg_wal, self.timeline)?
        else {
            return Ok(BackfillSummary { stored_segments: 0, missing: None });
        };
        let stored_segments = self.store_candidates(repository, &history)?;
        let missing = missing_before_switch(repository, history, self.segment_size)?;
        if let Some(MissingSegments { first, last, segments }) = &missing {
            warn!(
                %first, %last, segments,
                "recovery cannot cross the timeline switch: WAL is missing from the archive and from pg_wal"
            );
        }
        Ok(BackfillSummary { stored_segments, missing })
    }

    fn store_candidates(&self, repository: &Repository, history: &TimelineHistory) -> Result<u64> {
        let mut stored = 0;
        for name in candidates(self.disk.as_ref(), &self.pg_wal, history, self.segment_size)? {
            if repository.store().stat(&repository.layout().segment(name)?)?.is_some() {
                continue;
            }
            let source = WalSource {
                name: WalFileName::Segment(name),
                path: self.pg_wal.join(name.to_string()),
                segment_size: self.segment_size,
                pages: PageCheck::EveryPage,
                disk: self.disk.clone(),
            };
            match wal::put(repository, &source, self.compression, &self.scratch, NonZeroUsize::MIN) {
                Ok(_) => {
                    info!(%name, "stored WAL that the old primary had not archived");
                    stored += 1;
                }
                Err(PutError::Repository(error)) if error.kind().is_transient() => return Err(error),
                // Recycled in the meantime, never complete, or unreadable. Only its absence is certain, and
                // `info` reports that.
                Err(error) => {
                    warn!(%name, error = %error.error(), "is absent from the archive and cannot be stored");
                }
            }
        }
        Ok(stored)
    }
}

/// The first gap in the archived WAL of the timeline that was left, between its first stored segment and the
/// switch.
fn missing_before_switch(
    repository: &Repository,
    history: TimelineHistory,
    size: SegmentSize,
) -> Result<Option<MissingSegments>> {
    let Some(switch) = history.parent() else { return Ok(None) };
    let mut from = None;
    wal::visit_segments(repository, switch.timeline, None, &mut |name, _| {
        from = name.number(size);
        ControlFlow::Break(())
    })?;
    // Nothing of it was archived, so there is no recovery from before the switch.
    let Some(from) = from else { return Ok(None) };
    let path = TimelinePath::new(history, size);
    let held = PathWal::find(path, from, &RepositoryCatalog::new(repository, size))?;
    let before = |gap: &PathRun| gap.first < switch.switch_point.segment(size);
    let Some(gap) = held.gaps().find(before) else { return Ok(None) };
    Ok(Some(MissingSegments {
        first: held.name_of(gap.first)?,
        last: held.name_of(gap.last)?,
        segments: gap.count(),
    }))
}

/// The segments of ancestors in `pg_wal`, in order. Excludes the segment in which each timeline was left: it
/// may be incomplete, or hold records that the new timeline never had.
fn candidates(
    disk: &dyn Disk,
    pg_wal: &Path,
    history: &TimelineHistory,
    size: SegmentSize,
) -> Result<Vec<SegmentName>> {
    let what = || format!("could not list \"{}\"", pg_wal.display());
    let mut names = Vec::new();
    for entry in disk.list_data(pg_wal).context(what)? {
        let name = entry.context(what)?.file_name();
        let Some(Ok(name)) = name.to_str().map(str::parse::<SegmentName>) else { continue };
        let Some(number) = name.number(size) else { continue };
        if name.timeline() != history.timeline()
            && history.timeline_of_segment(number, size) == name.timeline()
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_segments_below_the_switch_point_are_candidates() {
        let scratch = tempfile::tempdir().unwrap();
        for name in [
            "000000010000000000000002",
            "000000010000000000000003",
            "000000010000000000000004",
            "000000020000000000000003",
            "000000010000000000000002.partial",
            "00000002.history",
            "archive_status",
        ] {
            std::fs::write(scratch.path().join(name), b"").unwrap();
        }
        let history = TimelineHistory::parse(TimelineId::new(2).unwrap(), b"1\t0/3000148\tx\n").unwrap();
        let names =
            candidates(&crate::durable::RealDisk, scratch.path(), &history, SegmentSize::DEFAULT).unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["000000010000000000000002"]);
    }
}
