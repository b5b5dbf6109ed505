//! The names of a system's archived WAL, listed once: questions about many paths then take no more requests.

use super::catalog::WalCatalog;
use crate::error::Result;
use crate::postgres::{SegmentName, SegmentNumber, SegmentSize, TimelineHistory, TimelineId, WalFileName};
use crate::repository::Repository;
use crate::repository::wal::{
    NameRun, SegmentRun, SegmentSizes, TimelineFiles, Timelines, runs_of_size, segment_ends, timeline_files,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// How thoroughly the WAL is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalSearch {
    /// Every segment, so that gaps are found: one request to a bucket for each thousand segments.
    EverySegment,
    /// The first and the last of each timeline: a handful of requests, however many segments there are.
    Ends,
}

/// What a repository held at one moment. Takes memory for each interruption, not for each segment.
#[derive(Clone, Debug)]
pub struct WalSnapshot {
    /// The size of its segments.
    pub segment_size: SegmentSize,
    timelines: Timelines,
    histories: BTreeMap<TimelineId, TimelineHistory>,
    runs: BTreeMap<TimelineId, Vec<SegmentRun>>,
    partials: BTreeMap<TimelineId, Vec<WalFileName>>,
}

/// The files of one timeline, and their sizes.
struct Listed {
    timeline: TimelineId,
    files: TimelineFiles,
    sizes: SegmentSizes,
}

impl Listed {
    fn read(
        repository: &Repository,
        timeline: TimelineId,
        known: &[SegmentSize],
        search: WalSearch,
    ) -> Result<Listed> {
        let find = |files: TimelineFiles| {
            SegmentSizes::find(repository, &files.runs, known).map(|sizes| Listed { timeline, files, sizes })
        };
        if search == WalSearch::Ends {
            let ends = segment_ends(repository, timeline)?.map(<[_; 2]>::from).into_iter().flatten();
            let runs = ends.map(|name| NameRun { first: name, last: name, stored_bytes: 0 });
            let listed = find(TimelineFiles { runs: runs.collect(), partials: Vec::new() })?;
            // If the size was changed, the end of one size and the beginning of the other are somewhere between.
            if listed.sizes.all().nth(1).is_none() {
                return Ok(listed);
            }
        }
        find(timeline_files(repository, timeline)?)
    }

    /// The runs of the segments of this size.
    fn runs(&self, repository: &Repository, size: SegmentSize, search: WalSearch) -> Result<Vec<SegmentRun>> {
        let runs = runs_of_size(repository, self.timeline, &self.files.runs, &self.sizes, size)?;
        if search == WalSearch::EverySegment {
            return Ok(runs);
        }
        let ends = runs.first().zip(runs.last());
        let whole =
            ends.map(|(first, last)| SegmentRun { first: first.first, last: last.last, stored_bytes: 0 });
        Ok(whole.into_iter().collect())
    }

    /// Where the last segment of this size ends, in bytes.
    fn end(&self, size: SegmentSize) -> u64 {
        let of_size = self.files.runs.iter().flat_map(|run| [run.first, run.last]);
        let numbers =
            of_size.filter(|name| self.sizes.of(*name) == Some(size)).filter_map(|name| name.number(size));
        numbers.max().map_or(0, |number| number.as_u64().saturating_add(1).saturating_mul(size.as_u64()))
    }
}

impl WalSnapshot {
    /// Lists the WAL of `timelines`, separately for each segment size: first the `known` sizes in their order, then
    /// others that are found, the newest first. With [`WalSearch::Ends`] there are no gaps between the first and the
    /// last segment.
    ///
    /// A timeline is in the snapshots of the sizes of its segments; in the first one, if it has no segments.
    ///
    /// # Errors
    /// Those of the store and of damaged history files.
    pub fn read_by_size(
        repository: &Repository,
        timelines: &Timelines,
        known: &[SegmentSize],
        search: WalSearch,
    ) -> Result<Vec<WalSnapshot>> {
        let listed = timelines
            .with_files
            .iter()
            .map(|timeline| Listed::read(repository, *timeline, known, search))
            .collect::<Result<Vec<_>>>()?;
        let mut histories = BTreeMap::new();
        for &timeline in &timelines.with_history {
            histories.extend(repository.history(timeline)?.map(|history| (timeline, history)));
        }
        let mut snapshots = Vec::new();
        for segment_size in sizes_of(&listed, known) {
            let (mut runs, mut partials) = (BTreeMap::new(), BTreeMap::new());
            for of_timeline in &listed {
                let found = of_timeline.runs(repository, segment_size, search)?;
                if found.is_empty() && !(snapshots.is_empty() && of_timeline.files.runs.is_empty()) {
                    continue;
                }
                runs.insert(of_timeline.timeline, found);
                partials.insert(of_timeline.timeline, of_timeline.files.partials.clone());
            }
            let (timelines, histories) = (timelines.clone(), histories.clone());
            snapshots.push(WalSnapshot { segment_size, timelines, histories, runs, partials });
        }
        Ok(snapshots)
    }

    /// The runs of each timeline with stored WAL, in order.
    pub fn runs(&self) -> &BTreeMap<TimelineId, Vec<SegmentRun>> {
        &self.runs
    }

    /// The partial segments of a timeline, if every file was listed.
    pub fn partials(&self, timeline: TimelineId) -> &[WalFileName] {
        self.partials.get(&timeline).map(Vec::as_slice).unwrap_or_default()
    }

    /// The last segment of a timeline, regardless of gaps before it.
    pub fn last(&self, timeline: TimelineId) -> Option<SegmentNumber> {
        self.runs.get(&timeline)?.last().map(|run| run.last)
    }

    /// The origin of a timeline; without ancestors if its history is missing.
    pub fn history_of(&self, timeline: TimelineId) -> TimelineHistory {
        let known = self.histories.get(&timeline).cloned();
        known.unwrap_or_else(|| TimelineHistory::without_ancestors(timeline))
    }

    /// The timelines on which a recovery can end with WAL that no other timeline has, in order: those from which no
    /// timeline with WAL branched off, and those that continued after one did.
    pub fn tips(&self) -> Vec<TimelineId> {
        let is_tip = |timeline: &TimelineId| {
            let Some(last) = self.last(*timeline) else { return false };
            let mut left = self
                .histories
                .values()
                .filter(|history| self.last(history.timeline()).is_some())
                .filter_map(|history| history.end_of(*timeline));
            left.all(|left| left.segment(self.segment_size) <= last)
        };
        self.runs.keys().copied().filter(is_tip).collect()
    }
}

/// The known sizes and those that are found, the newest first.
fn sizes_of(listed: &[Listed], known: &[SegmentSize]) -> Vec<SegmentSize> {
    let mut found: Vec<((TimelineId, u64), SegmentSize)> = Vec::new();
    for of_timeline in listed {
        let others = of_timeline.sizes.all().filter(|size| !known.contains(size));
        found.extend(others.map(|size| ((of_timeline.timeline, of_timeline.end(size)), size)));
    }
    found.sort_by_key(|(end, _)| std::cmp::Reverse(*end));
    let mut sizes = known.to_vec();
    for (_, size) in found {
        if !sizes.contains(&size) {
            sizes.push(size);
        }
    }
    sizes
}

impl WalCatalog for WalSnapshot {
    fn timelines(&self) -> Result<Timelines> {
        Ok(self.timelines.clone())
    }

    fn history(&self, timeline: TimelineId) -> Result<Option<TimelineHistory>> {
        Ok(self.histories.get(&timeline).cloned())
    }

    fn visit_segments(
        &self,
        from: SegmentName,
        visit: &mut dyn FnMut(SegmentNumber) -> ControlFlow<()>,
    ) -> Result<()> {
        let Some(from_number) = from.number(self.segment_size) else { return Ok(()) };
        for run in self.runs.get(&from.timeline()).into_iter().flatten() {
            let mut number = run.first.max(from_number);
            while number <= run.last {
                if visit(number).is_break() {
                    return Ok(());
                }
                number = number.next();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(histories: &[(u32, &str)], runs: &[(u32, u64, u64)]) -> WalSnapshot {
        let id = |number: u32| TimelineId::new(number).unwrap();
        let histories: BTreeMap<_, _> = histories
            .iter()
            .map(|(timeline, text)| {
                (id(*timeline), TimelineHistory::parse(id(*timeline), text.as_bytes()).unwrap())
            })
            .collect();
        let mut held: BTreeMap<TimelineId, Vec<SegmentRun>> = BTreeMap::new();
        for &(timeline, first, last) in runs {
            let run = SegmentRun {
                first: SegmentNumber::new(first),
                last: SegmentNumber::new(last),
                stored_bytes: 1,
            };
            held.entry(id(timeline)).or_default().push(run);
        }
        WalSnapshot {
            segment_size: SegmentSize::new(1 << 20).unwrap(),
            timelines: Timelines {
                with_files: held.keys().copied().collect(),
                with_history: histories.keys().copied().collect(),
            },
            histories,
            runs: held,
            partials: BTreeMap::new(),
        }
    }

    #[test]
    fn tips_hold_wal_of_no_other_timeline() {
        const TWO: &[(u32, &str)] = &[(2, "1 0/500100 x\n")];
        let tips = |runs: &[(u32, u64, u64)]| -> Vec<u32> {
            snapshot(TWO, runs).tips().into_iter().map(TimelineId::as_u32).collect()
        };
        assert_eq!(tips(&[(1, 1, 4), (2, 5, 7)]), [2], "timeline 1 ended at the switch");
        assert_eq!(tips(&[(1, 1, 5), (2, 5, 7)]), [1, 2], "timeline 1 went on");
        assert_eq!(tips(&[(1, 1, 4)]), [1], "timeline 2 has no WAL yet");
        assert_eq!(tips(&[]), [0_u32; 0]);
    }

    #[test]
    fn segments_are_visited_across_interruptions() {
        let snapshot = snapshot(&[], &[(1, 1, 3), (1, 6, 7)]);
        let mut seen = Vec::new();
        snapshot
            .visit_segments("000000010000000000000002".parse().unwrap(), &mut |number| {
                seen.push(number.as_u64());
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(seen, [2, 3, 6, 7]);
    }
}
