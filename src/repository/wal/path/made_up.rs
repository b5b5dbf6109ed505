//! Made-up archives for tests: names only.

use super::catalog::WalCatalog;
use crate::error::Result;
use crate::postgres::{SegmentName, SegmentNumber, SegmentSize, TimelineHistory, TimelineId};
use crate::repository::wal::Timelines;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// Histories, and segments of 1 MiB.
#[derive(Clone, Debug, Default)]
pub struct MadeUpCatalog {
    pub histories: BTreeMap<TimelineId, TimelineHistory>,
    pub segments: BTreeSet<(TimelineId, u64)>,
    /// Those of the segments that have another size.
    pub others: BTreeSet<(TimelineId, u64)>,
}

impl MadeUpCatalog {
    /// An archive with these history files, as (timeline, content), and segments, as (timeline, number).
    pub fn new(histories: &[(u32, &str)], segments: &[(u32, u64)]) -> MadeUpCatalog {
        let id = |number| TimelineId::new(number).unwrap();
        let parsed = |(timeline, text): &(u32, &str)| {
            (id(*timeline), TimelineHistory::parse(id(*timeline), text.as_bytes()).unwrap())
        };
        MadeUpCatalog {
            histories: histories.iter().map(parsed).collect(),
            segments: segments.iter().map(|(timeline, number)| (id(*timeline), *number)).collect(),
            others: BTreeSet::new(),
        }
    }

    pub fn size() -> SegmentSize {
        SegmentSize::new(1 << 20).unwrap()
    }

    /// The history of a timeline, including the first one.
    pub fn history_of(&self, timeline: u32) -> TimelineHistory {
        match timeline {
            1 => TimelineHistory::of_first(),
            _ => self.histories[&TimelineId::new(timeline).unwrap()].clone(),
        }
    }

    pub fn holds(&self, name: SegmentName) -> bool {
        self.segments.contains(&(name.timeline(), name.number(MadeUpCatalog::size()).unwrap().as_u64()))
    }
}

impl WalCatalog for MadeUpCatalog {
    fn timelines(&self) -> Result<Timelines> {
        let with_files: BTreeSet<TimelineId> = self.segments.iter().map(|(timeline, _)| *timeline).collect();
        Ok(Timelines {
            with_files: with_files.into_iter().collect(),
            with_history: self.histories.keys().copied().collect(),
        })
    }

    fn history(&self, timeline: TimelineId) -> Result<Option<TimelineHistory>> {
        Ok(self.histories.get(&timeline).cloned())
    }

    fn visit_segments(
        &self,
        from: SegmentName,
        visit: &mut dyn FnMut(SegmentNumber) -> ControlFlow<()>,
    ) -> Result<()> {
        let first = from.number(MadeUpCatalog::size()).unwrap().as_u64();
        for (timeline, number) in self.segments.range((from.timeline(), first)..) {
            if *timeline != from.timeline() || visit(SegmentNumber::new(*number)).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn is_of_size(&self, name: SegmentName) -> Result<bool> {
        let number = name.number(MadeUpCatalog::size()).unwrap().as_u64();
        Ok(!self.others.contains(&(name.timeline(), number)))
    }
}
