//! The way through the timelines: from a backup to the timeline that is to be reached.

use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{
    Lsn, SegmentName, SegmentNumber, SegmentSize, TargetTimeline, TimelineHistory, TimelineId, WalFileName,
};

/// The timelines that lead to a target timeline, and which segments of each the server reads on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelinePath {
    history: TimelineHistory,
    size: SegmentSize,
}

/// The consecutive segments that are read under the name of one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathSpan {
    /// The timeline in their names.
    pub timeline: TimelineId,
    /// The first of them.
    pub first: SegmentNumber,
    /// The last of them; `None` on the target timeline, which goes on.
    pub last: Option<SegmentNumber>,
}

/// Which timeline `wanted` means for a backup of `backup`, given the timelines whose history is archived (in order).
///
/// `latest` is what the server makes of it: the newest that is reached by counting up from the backup's timeline.
///
/// # Errors
/// [`ErrorKind::Hole`] for `latest` when the counting stops at a history file that is missing while later ones exist: the
/// server would stop there too, without a word. [`ErrorKind::Absent`] for a timeline without a history file.
/// Source: PostgreSQL `access/transam/timeline.c`, `findNewestTimeLine`.
pub fn resolve(wanted: TargetTimeline, backup: TimelineId, histories: &[TimelineId]) -> Result<TimelineId> {
    let newest = histories.last().copied().unwrap_or(TimelineId::FIRST);
    match wanted {
        TargetTimeline::Current => Ok(backup),
        TargetTimeline::Id(timeline) if timeline == TimelineId::FIRST || histories.contains(&timeline) => {
            Ok(timeline)
        }
        TargetTimeline::Id(timeline) => Err(Error::absent(format!(
            "timeline {timeline} is not in the repository: there is no {}",
            WalFileName::History(timeline)
        ))
        .hint(format!("The newest timeline there is {newest}."))),
        TargetTimeline::Latest => {
            let mut reached = backup;
            while let Some(next) = TimelineId::new(reached.as_u32().saturating_add(1))
                && next > reached
                && histories.contains(&next)
            {
                reached = next;
            }
            match histories.iter().find(|timeline| **timeline > reached) {
                None => Ok(reached),
                Some(later) => Err(missing_history(reached, *later)),
            }
        }
    }
}

/// The error for a timeline that exists, be it by its history or by its WAL, and is not reached by counting.
pub fn missing_history(reached: TimelineId, later: TimelineId) -> Error {
    let missing = TimelineId::new(reached.as_u32().saturating_add(1)).unwrap_or(later);
    Error::new(
        ErrorKind::Hole,
        format!(
            "{} is missing from the repository, but timeline {later} is there",
            WalFileName::History(missing)
        ),
    )
    .hint(format!(
        "It is not clear which timeline is the latest. Archive the missing file (it lies in some server's pg_wal), or \
         name the timeline: --target-timeline {reached} or --target-timeline {later}."
    ))
}

impl TimelinePath {
    /// The path to the timeline of this history.
    pub fn new(history: TimelineHistory, size: SegmentSize) -> TimelinePath {
        TimelinePath { history, size }
    }

    /// The timeline that is to be reached.
    pub fn timeline(&self) -> TimelineId {
        self.history.timeline()
    }

    /// How that timeline came to be.
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

    /// The timeline on which the byte before `position` was written: that of what ends there.
    pub fn timeline_before(&self, position: Lsn) -> TimelineId {
        self.history.timeline_at(position.previous().unwrap_or(position))
    }

    /// Whether what was written on `timeline` from `start` to `stop` lies on this path: both ends do, and no switch is
    /// between them.
    pub fn holds(&self, timeline: TimelineId, start: Lsn, stop: Lsn) -> bool {
        self.history.timeline_at(start) == timeline && self.timeline_before(stop) == timeline
    }

    /// The segments from `from` on, in the order in which they are read.
    pub fn spans(&self, from: SegmentNumber) -> Vec<PathSpan> {
        let mut spans = Vec::new();
        let mut first = from;
        for switch in self.history.switches() {
            // The segment that holds the switch point is read from the timeline that begins there.
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

    fn timelines(numbers: &[u32]) -> Vec<TimelineId> {
        numbers.iter().copied().map(timeline).collect()
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
    fn latest_counts_up_from_the_backup() {
        let latest = |backup, histories: &[u32]| {
            resolve(TargetTimeline::Latest, timeline(backup), &timelines(histories)).map(TimelineId::as_u32)
        };
        assert_eq!(latest(1, &[]).unwrap(), 1);
        assert_eq!(latest(1, &[2, 3]).unwrap(), 3);
        assert_eq!(latest(3, &[3]).unwrap(), 3, "older histories are of no interest");
        assert_eq!(latest(9, &[2, 9, 10, 11]).unwrap(), 11, "numbers, not digits");
        let error = latest(1, &[3]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Hole);
        assert_eq!(
            error.to_string(),
            "00000002.history is missing from the repository, but timeline 3 is there"
        );
        assert!(error.hint_text().unwrap().contains("--target-timeline 1 or --target-timeline 3"));
    }

    #[test]
    fn a_named_timeline_must_be_there() {
        let named = |number| resolve(TargetTimeline::Id(timeline(number)), timeline(1), &timelines(&[3]));
        assert_eq!(named(1).unwrap(), timeline(1));
        assert_eq!(named(3).unwrap(), timeline(3), "a hole below it does not matter");
        assert_eq!(named(2).unwrap_err().kind(), ErrorKind::Absent);
        assert_eq!(resolve(TargetTimeline::Current, timeline(2), &[]).unwrap(), timeline(2));
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
    fn a_backup_lies_on_the_path_up_to_the_switch() {
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
