//! Detects another timeline in use beside this server's: a forgotten copy that was promoted, or a new primary
//! beside an old one that still runs. Each archives under the same name, and a later recovery has to choose
//! between them.

use crate::error::Result;
use crate::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};
use crate::repository::Repository;
use crate::repository::wal::{RepositoryCatalog, WalCatalog, divergence};
use std::time::{Duration, Instant};

/// The interval between checks, each of which lists the timelines of the archive once.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// A timeline that branched off this server's, which continued nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompetingTimeline {
    /// The other timeline.
    pub timeline: TimelineId,
    /// The position at which it branched off.
    pub left_at: Lsn,
}

/// The known competing timeline of one server.
#[derive(Debug, Default)]
pub struct CompetingTimelines {
    checked_at: Option<Instant>,
    found: Option<CompetingTimeline>,
}

impl CompetingTimelines {
    /// Whether the next check is due.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let due = self.checked_at.is_none_or(|looked| now.duration_since(looked) >= CHECK_EVERY);
        if due {
            self.checked_at = Some(now);
        }
        due
    }

    /// Records the result of a check. Returns whether it is news.
    pub fn keep(&mut self, found: Option<CompetingTimeline>) -> bool {
        let is_news = found.is_some() && found != self.found;
        self.found = found;
        is_news
    }

    /// The competing timeline, if one is known.
    pub fn found(&self) -> Option<CompetingTimeline> {
        self.found
    }
}

/// Finds a newer timeline that branched off the timeline of `segment`, which this server has just written, in
/// that segment or before it.
///
/// # Errors
/// The store's own.
pub fn find(
    repository: &Repository,
    segment: SegmentName,
    size: SegmentSize,
) -> Result<Option<CompetingTimeline>> {
    let catalog = RepositoryCatalog::new(repository, size);
    let newer = catalog.timelines()?.with_history.into_iter().rev();
    for timeline in newer.filter(|timeline| *timeline > segment.timeline()) {
        if let Some(left_at) = divergence(&catalog, timeline, segment, size)? {
            return Ok(Some(CompetingTimeline { timeline, left_at }));
        }
    }
    Ok(None)
}
