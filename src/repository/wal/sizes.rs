//! The sizes of stored segments. `pg_resetwal --wal-segsize` changes the size within one system and timeline, and a
//! name means different positions for different sizes.

use super::decode;
use super::inventory::{NameRun, SegmentRun, visit_segments};
use crate::error::Result;
use crate::postgres::{SegmentName, SegmentSize, TimelineId};
use crate::repository::Repository;
use std::ops::ControlFlow;

/// The sizes of a timeline's segments: each applies from a name on, in the order of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentSizes(Vec<(SegmentName, SegmentSize)>);

impl SegmentSizes {
    /// Determines the sizes from the segments' headers: those of the first and the last one. If these differ, or if the
    /// system is known to have had several sizes, those of both ends of every run, until it is clear where each size
    /// begins. `known` are the sizes in the system's backups.
    ///
    /// A segment that cannot be read counts as one of the preceding size.
    ///
    /// # Errors
    /// Those of the store.
    pub fn find(repository: &Repository, runs: &[NameRun], known: &[SegmentSize]) -> Result<SegmentSizes> {
        let size_at = |name: SegmentName| {
            Ok(decode::readable_header(repository, name)?.map(|header| header.segment_size))
        };
        SegmentSizes::decide(runs, known, &size_at)
    }

    fn decide(
        runs: &[NameRun],
        known: &[SegmentSize],
        size_at: &dyn Fn(SegmentName) -> Result<Option<SegmentSize>>,
    ) -> Result<SegmentSizes> {
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else {
            return Ok(SegmentSizes::default());
        };
        let ends = [size_at(first.first)?, size_at(last.last)?];
        let fallback = ends.iter().flatten().chain(known).copied().next().unwrap_or(SegmentSize::DEFAULT);
        if ends.iter().flatten().chain(known).all(|size| *size == fallback) {
            return Ok(SegmentSizes(vec![(first.first, fallback)]));
        }
        let mut sizes = SegmentSizes::default();
        for run in runs {
            let (low, high) = (size_at(run.first)?, size_at(run.last)?);
            let before = sizes.0.last().map_or(fallback, |(_, size)| *size);
            sizes.push(run.first, low.or(high).unwrap_or(before));
            if let (Some(low), Some(high)) = (low, high)
                && low != high
            {
                sizes.push(first_of(high, run, size_at)?, high);
            }
        }
        Ok(sizes)
    }

    fn push(&mut self, from: SegmentName, size: SegmentSize) {
        if self.0.last().is_none_or(|(_, before)| *before != size) {
            self.0.push((from, size));
        }
    }

    /// The size of a segment; `None` if there are no segments.
    pub fn of(&self, name: SegmentName) -> Option<SegmentSize> {
        let after = self.0.partition_point(|(from, _)| *from <= name);
        self.0.get(after.checked_sub(1)?).map(|(_, size)| *size)
    }

    /// All sizes.
    pub fn all(&self) -> impl Iterator<Item = SegmentSize> {
        self.0.iter().map(|(_, size)| *size)
    }
}

/// The runs of a timeline's segments of this size, in order. If there are several sizes, the names are listed again,
/// because one run of names may contain segments of two sizes.
///
/// # Errors
/// Those of the store.
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

/// Runs of names as runs of segments of this size, which continue from one log to the next.
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

/// Finds where the segments of a size begin in a run whose last segment has this size and whose first has not.
fn first_of(
    size: SegmentSize,
    run: &NameRun,
    size_at: &dyn Fn(SegmentName) -> Result<Option<SegmentSize>>,
) -> Result<SegmentName> {
    let (mut other, mut first) = (run.first, run.last);
    loop {
        let middle = other.middle(first);
        if middle == other {
            return Ok(first);
        }
        if size_at(middle)? == Some(size) {
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

    /// Decides about runs in which each segment has a size or is unreadable; also returns how many were read.
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
        let size_at = |name| {
            asked.set(asked.get() + 1);
            Ok(size(name))
        };
        (SegmentSizes::decide(&runs, known, &size_at).unwrap(), asked.get())
    }

    #[test]
    fn one_size_takes_two_requests() {
        let (sizes, asked) = decided(&[(1, 250), (300, 4000)], &[SMALL], &|_| Some(SMALL));
        assert_eq!((sizes.0.as_slice(), asked), (&[(name(1), SMALL)][..], 2));
        assert_eq!((sizes.of(name(0)), sizes.of(name(9999))), (None, Some(SMALL)));
        assert_eq!(decided(&[], &[SMALL], &|_| None).0, SegmentSizes::default());
        // Nothing is readable.
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
        // Large segments between small ones, known only from a backup.
        let size = |segment| if segment == name(60) { LARGE } else { SMALL };
        let (sizes, _) = decided(&[(1, 40), (60, 60), (70, 80)], &[LARGE, SMALL], &|s| Some(size(s)));
        assert_eq!(sizes.0, [(name(1), SMALL), (name(60), LARGE), (name(70), SMALL)]);
        // An unreadable segment changes nothing.
        let (sizes, _) = decided(&[(1, 40), (60, 80)], &[], &|s| {
            (s != name(60)).then(|| if s < name(60) { LARGE } else { SMALL })
        });
        assert_eq!((sizes.of(name(40)), sizes.of(name(60))), (Some(LARGE), Some(SMALL)));
    }
}
