//! The way from a backup to a timeline.

use super::absence::proven_by_switches;
use super::catalog::WalCatalog;
use crate::error::Result;
use crate::postgres::{Lsn, SegmentName, SegmentNumber, SegmentSize, TimelineHistory, TimelineId};

/// The timelines that lead to a target timeline, and which segments of each the server reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelinePath {
    history: TimelineHistory,
    size: SegmentSize,
    /// The last segment of the target timeline that other timelines prove to have existed.
    left_after: Option<SegmentNumber>,
}

/// The consecutive segments that are read under the name of one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathSpan {
    /// The timeline in their names.
    pub timeline: TimelineId,
    /// The first segment.
    pub first: SegmentNumber,
    /// The last segment; `None` on the target timeline, which continues.
    pub last: Option<SegmentNumber>,
}

impl TimelinePath {
    /// The path to the timeline of this history, without knowledge of other timelines.
    pub fn new(history: TimelineHistory, size: SegmentSize) -> TimelinePath {
        TimelinePath { history, size, left_after: None }
    }

    /// The path to the timeline of this history, with what the other timelines in the archive prove.
    ///
    /// # Errors
    /// Those of the catalog.
    pub fn find(
        catalog: &dyn WalCatalog,
        history: TimelineHistory,
        size: SegmentSize,
    ) -> Result<TimelinePath> {
        let left_after = proven_by_switches(catalog, history.timeline(), size)?;
        Ok(TimelinePath { history, size, left_after })
    }

    /// The last segment that is proven to have existed, whatever is stored: the one before the last segment in which
    /// this timeline, or an ancestor on the way to it, was left.
    pub fn proven_last(&self) -> Option<SegmentNumber> {
        let begun = self.history.first_segment(self.size).and_then(SegmentNumber::previous);
        begun.max(self.left_after)
    }

    /// The target timeline.
    pub fn timeline(&self) -> TimelineId {
        self.history.timeline()
    }

    /// The origin of that timeline.
    pub fn history(&self) -> &TimelineHistory {
        &self.history
    }

    /// The segment size.
    pub fn segment_size(&self) -> SegmentSize {
        self.size
    }

    /// The segment that holds the byte at `position`.
    pub fn segment_at(&self, position: Lsn) -> SegmentNumber {
        position.segment(self.size)
    }

    /// The name under which the server reads a segment; `None` past the last possible one.
    pub fn name_of(&self, segment: SegmentNumber) -> Option<SegmentName> {
        SegmentName::new(self.history.timeline_of_segment(segment, self.size), segment, self.size)
    }

    /// The timeline on which the byte before `position` was written.
    pub fn timeline_before(&self, position: Lsn) -> TimelineId {
        self.history.timeline_at(position.previous().unwrap_or(position))
    }

    /// Whether WAL written on `timeline` from `start` to `stop` is on this path: both ends are, and no switch is
    /// between them.
    pub fn holds(&self, timeline: TimelineId, start: Lsn, stop: Lsn) -> bool {
        self.history.timeline_at(start) == timeline && self.timeline_before(stop) == timeline
    }

    /// The segments from `from` on, in the order in which they are read.
    pub fn spans(&self, from: SegmentNumber) -> Vec<PathSpan> {
        let mut spans = Vec::new();
        let mut first = from;
        for switch in self.history.switches() {
            // The segment with the switch point is read from the timeline that begins there.
            let next = switch.switch_point.segment(self.size);
            if next > first {
                spans.push(PathSpan { timeline: switch.timeline, first, last: next.previous() });
                first = next;
            }
        }
        spans.push(PathSpan { timeline: self.timeline(), first, last: None });
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn path(number: u32, history: &str) -> TimelinePath {
        let history = match number {
            1 => TimelineHistory::of_first(),
            _ => TimelineHistory::parse(timeline(number), history.as_bytes()).unwrap(),
        };
        TimelinePath::new(history, SegmentSize::DEFAULT)
    }

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    #[test]
    fn a_switch_segment_is_read_from_the_newest_timeline_that_begins_in_it() {
        let path = path(4, "1 0/3000100 x\n2 0/5000000 x\n3 0/5000200 x\n");
        let spans: Vec<_> = path
            .spans(SegmentNumber::new(1))
            .into_iter()
            .map(|span| (span.timeline.as_u32(), span.first.as_u64(), span.last.map(SegmentNumber::as_u64)))
            .collect();
        assert_eq!(spans, [(1, 1, Some(2)), (2, 3, Some(4)), (4, 5, None)]);
        for number in 1..8 {
            let number = SegmentNumber::new(number);
            let span =
                path.spans(SegmentNumber::new(1)).into_iter().rfind(|span| span.first <= number).unwrap();
            assert_eq!(path.name_of(number).unwrap().timeline(), span.timeline);
        }
        assert_eq!(path.spans(SegmentNumber::new(6)).len(), 1);
    }

    #[test]
    fn a_backup_is_on_the_path_up_to_the_switch() {
        let path = path(2, "1 0/3000100 x\n");
        assert!(path.holds(timeline(1), lsn("0/2000028"), lsn("0/2000100")));
        assert!(
            path.holds(timeline(1), lsn("0/2000028"), lsn("0/3000100")),
            "it ends where timeline 2 begins"
        );
        assert!(!path.holds(timeline(1), lsn("0/2000028"), lsn("0/3000101")));
        assert!(path.holds(timeline(2), lsn("0/3000100"), lsn("0/3000200")));
        assert!(!path.holds(timeline(1), lsn("0/3000100"), lsn("0/3000200")));
    }
}
