//! What paths and holes are determined from. A port, so that the rules can be tested with made-up archives.

use crate::error::Result;
use crate::postgres::{SegmentName, SegmentNumber, SegmentSize, TimelineHistory, TimelineId};
use crate::repository::Repository;
use crate::repository::wal::{Timelines, readable_header, timelines, visit_segments};
use std::ops::ControlFlow;

/// The names of one system's archived WAL.
pub trait WalCatalog {
    /// The known timelines, each list in order.
    fn timelines(&self) -> Result<Timelines>;

    /// The history of a timeline; `None` if it is not stored, as for timeline 1.
    fn history(&self, timeline: TimelineId) -> Result<Option<TimelineHistory>>;

    /// The origin of a timeline: its stored history, or for timeline 1 a history without ancestors. `None` if its
    /// history file is not stored.
    ///
    /// # Errors
    /// Those of [`WalCatalog::history`].
    fn origin(&self, timeline: TimelineId) -> Result<Option<TimelineHistory>> {
        match timeline {
            TimelineId::FIRST => Ok(Some(TimelineHistory::of_first())),
            _ => self.history(timeline),
        }
    }

    /// Visits the complete segments of one timeline in order, beginning with `from`, until `visit` breaks.
    fn visit_segments(
        &self,
        from: SegmentName,
        visit: &mut dyn FnMut(SegmentNumber) -> ControlFlow<()>,
    ) -> Result<()>;

    /// Whether a stored segment has the size of this catalog. After `pg_resetwal --wal-segsize` a timeline has segments
    /// of another size, whose names mean other positions. True if it is unknown.
    ///
    /// # Errors
    /// Those of the store.
    fn is_of_size(&self, _name: SegmentName) -> Result<bool> {
        Ok(true)
    }
}

/// The catalog of a repository.
#[derive(Clone, Copy, Debug)]
pub struct RepositoryCatalog<'a> {
    repository: &'a Repository,
    segment_size: SegmentSize,
}

impl<'a> RepositoryCatalog<'a> {
    /// The names in `repository`, for segments of this size.
    pub fn new(repository: &'a Repository, segment_size: SegmentSize) -> RepositoryCatalog<'a> {
        RepositoryCatalog { repository, segment_size }
    }
}

impl WalCatalog for RepositoryCatalog<'_> {
    fn timelines(&self) -> Result<Timelines> {
        let mut timelines = timelines(self.repository)?;
        timelines.with_files.sort_unstable();
        timelines.with_history.sort_unstable();
        Ok(timelines)
    }

    fn history(&self, timeline: TimelineId) -> Result<Option<TimelineHistory>> {
        self.repository.history(timeline)
    }

    fn visit_segments(
        &self,
        from: SegmentName,
        visit: &mut dyn FnMut(SegmentNumber) -> ControlFlow<()>,
    ) -> Result<()> {
        visit_segments(self.repository, from.timeline(), Some(from), &mut |name, _| {
            // A name that does not exist with this segment size does not count.
            name.number(self.segment_size).map_or(ControlFlow::Continue(()), &mut *visit)
        })
    }

    fn is_of_size(&self, name: SegmentName) -> Result<bool> {
        let header = readable_header(self.repository, name)?;
        // A damaged or removed one counts as one of this size.
        Ok(header.is_none_or(|header| header.segment_size == self.segment_size))
    }
}
