//! Which of the stored segments have which size: `pg_resetwal --wal-segsize` changes it within one system and timeline, and
//! names of one size mean other positions at another.

use super::decode;
use super::inventory::{NameRun, SegmentRun, visit_segments};
use crate::error::Result;
use crate::postgres::{SegmentName, SegmentSize, TimelineId};
use crate::repository::Repository;
use std::ops::ControlFlow;

/// The sizes of a timeline's segments: from each of these names on, in the order of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentSizes(Vec<(SegmentName, SegmentSize)>);

impl SegmentSizes {
    /// What the segments' own headers say: of the first and the last, and where those differ or the system is known to have
    /// had several sizes, of both ends of every run, until it is clear where a size begins. `known` are the sizes of the
    /// system's backups.
    ///
    /// A segment that cannot be read has the size of those before it.
    ///
    /// # Errors
    /// The store's own.
    pub fn find(repository: &Repository, runs: &[NameRun], known: &[SegmentSize]) -> Result<SegmentSizes> {
        let says = |name: SegmentName| {
            Ok(decode::readable_header(repository, name)?.map(|header| header.segment_size))
        };
        SegmentSizes::decide(runs, known, &says)
    }

    fn decide(
        runs: &[NameRun],
        known: &[SegmentSize],
        says: &dyn Fn(SegmentName) -> Result<Option<SegmentSize>>,
    ) -> Result<SegmentSizes> {
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else {
            return Ok(SegmentSizes::default());
        };
        let ends = [says(first.first)?, says(last.last)?];
        let fallback = ends.iter().flatten().chain(known).copied().next().unwrap_or(SegmentSize::DEFAULT);
        if ends.iter().flatten().chain(known).all(|size| *size == fallback) {
            return Ok(SegmentSizes(vec![(first.first, fallback)]));
        }
        let mut sizes = SegmentSizes::default();
        for run in runs {
            let (low, high) = (says(run.first)?, says(run.last)?);
            let before = sizes.0.last().map_or(fallback, |(_, size)| *size);
            sizes.push(run.first, low.or(high).unwrap_or(before));
            if let (Some(low), Some(high)) = (low, high)
                && low != high
            {
                sizes.push(first_of(high, run, says)?, high);
            }
        }
        Ok(sizes)
    }

    fn push(&mut self, from: SegmentName, size: SegmentSize) {
        if self.0.last().is_none_or(|(_, before)| *before != size) {
            self.0.push((from, size));
        }
    }

    /// The size of a segment; `None` when there is none.
    pub fn of(&self, name: SegmentName) -> Option<SegmentSize> {
        let after = self.0.partition_point(|(from, _)| *from <= name);
        self.0.get(after.checked_sub(1)?).map(|(_, size)| *size)
    }

    /// Every size that there is.
    pub fn all(&self) -> impl Iterator<Item = SegmentSize> {
        self.0.iter().map(|(_, size)| *size)
    }
}

/// The runs of the segments of a timeline that have this size, in order. With several sizes the names are listed again: one run
/// of names may hold segments of two sizes.
///
/// # Errors
/// The store's own.
pub fn runs_of_size(
    repository: &Repository,
    timeline: TimelineId,
    names: &[NameRun],
    sizes: &SegmentSizes,
    size: SegmentSize,
) -> Result<Vec<SegmentRun>> {
    let (same, others): (Vec<_>, Vec<_>) = sizes.all().partition(|known| *known == size);
    if same.is_empty() {
        return Ok(Vec::new());
    }
    if others.is_empty() {
        return Ok(merged(names, size));
    }
    let mut names = Vec::new();
    visit_segments(repository, timeline, None, &mut |name, info| {
        if sizes.of(name) == Some(size) {
            NameRun::add(&mut names, name, info.length_bytes);
        }
        ControlFlow::Continue(())
    })?;
    Ok(merged(&names, size))
}

/// Runs of names as runs of segments of this size, which go on from one log to the next.
fn merged(names: &[NameRun], size: SegmentSize) -> Vec<SegmentRun> {
    let mut runs: Vec<SegmentRun> = Vec::new();
    for NameRun { first, last, stored_bytes } in names {
        let (Some(first), Some(last)) = (first.number(size), last.number(size)) else { continue };
        match runs.last_mut().filter(|run| run.last.next() == first) {
            Some(run) => {
                run.last = last;
                run.stored_bytes = run.stored_bytes.saturating_add(*stored_bytes);
            }
            None => runs.push(SegmentRun { first, last, stored_bytes: *stored_bytes }),
        }
    }
    runs
}

/// Where in a run, whose last segment has this size and whose first has not, the segments of the size begin.
fn first_of(
    size: SegmentSize,
    run: &NameRun,
    says: &dyn Fn(SegmentName) -> Result<Option<SegmentSize>>,
) -> Result<SegmentName> {
    let (mut other, mut first) = (run.first, run.last);
    loop {
        let middle = other.middle(first);
        if middle == other {
            return Ok(first);
        }
        if says(middle)? == Some(size) {
            first = middle;
        } else {
            other = middle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const SMALL: SegmentSize = SegmentSize::new(1 << 20).unwrap();
    const LARGE: SegmentSize = SegmentSize::DEFAULT;

    fn name(segment: u64) -> SegmentName {
        format!("0000000100000000{segment:08X}").parse().unwrap()
    }

    /// Decides about runs in which each segment has a size, or cannot be read; how many were asked.
    fn decided(
        runs: &[(u64, u64)],
        known: &[SegmentSize],
        size: &dyn Fn(SegmentName) -> Option<SegmentSize>,
    ) -> (SegmentSizes, u32) {
        let runs: Vec<NameRun> = runs
            .iter()
            .map(|(first, last)| NameRun { first: name(*first), last: name(*last), stored_bytes: 0 })
            .collect();
        let asked = Cell::new(0);
        let says = |name| {
            asked.set(asked.get() + 1);
            Ok(size(name))
        };
        (SegmentSizes::decide(&runs, known, &says).unwrap(), asked.get())
    }

    #[test]
    fn one_size_costs_two_looks() {
        let (sizes, asked) = decided(&[(1, 250), (300, 4000)], &[SMALL], &|_| Some(SMALL));
        assert_eq!((sizes.0.as_slice(), asked), (&[(name(1), SMALL)][..], 2));
        assert_eq!((sizes.of(name(0)), sizes.of(name(9999))), (None, Some(SMALL)));
        assert_eq!(decided(&[], &[SMALL], &|_| None).0, SegmentSizes::default());
        // Nothing can be read.
        assert_eq!(decided(&[(1, 2)], &[SMALL], &|_| None).0.of(name(2)), Some(SMALL));
        assert_eq!(decided(&[(1, 2)], &[], &|_| None).0.of(name(2)), Some(LARGE));
    }

    #[test]
    fn a_change_is_found_within_a_run_and_between_runs() {
        for change in 2..=40 {
            let size = |segment| if segment < name(change) { LARGE } else { SMALL };
            let (sizes, asked) = decided(&[(1, 40)], &[], &|segment| Some(size(segment)));
            assert_eq!(sizes.0, [(name(1), LARGE), (name(change), SMALL)]);
            assert!(asked < 12, "{asked}");
        }
        // Large ones lie between small ones, which only a backup tells.
        let size = |segment| if segment == name(60) { LARGE } else { SMALL };
        let (sizes, _) = decided(&[(1, 40), (60, 60), (70, 80)], &[LARGE, SMALL], &|s| Some(size(s)));
        assert_eq!(sizes.0, [(name(1), SMALL), (name(60), LARGE), (name(70), SMALL)]);
        // One that cannot be read changes nothing.
        let (sizes, _) = decided(&[(1, 40), (60, 80)], &[], &|s| {
            (s != name(60)).then(|| if s < name(60) { LARGE } else { SMALL })
        });
        assert_eq!((sizes.of(name(40)), sizes.of(name(60))), (Some(LARGE), Some(SMALL)));
    }
}
