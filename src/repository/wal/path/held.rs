//! Which WAL the repository holds on the way to a timeline, and what is missing.

use super::catalog::WalCatalog;
use super::timeline_path::{PathSpan, TimelinePath};
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{Lsn, SegmentName, SegmentNumber};
use std::ops::ControlFlow;

/// How many interruptions of the WAL are kept. More cannot be repaired one by one.
const RUNS_MAX: usize = 65_536;

/// Consecutive segments, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathRun {
    /// The first.
    pub first: SegmentNumber,
    /// The last.
    pub last: SegmentNumber,
}

/// The segments on a path in the repository, from one on.
///
/// Takes memory for each interruption, not for each segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathWal {
    path: TimelinePath,
    from: SegmentNumber,
    runs: Vec<PathRun>,
}

impl PathRun {
    /// The number of segments.
    pub fn count(self) -> u64 {
        self.last.as_u64() - self.first.as_u64() + 1
    }
}

impl PathWal {
    /// Searches the archive for the segments on `path`, beginning with `from`.
    ///
    /// # Errors
    /// Those of the catalog; [`ErrorKind::Hole`] for more than 65536 interruptions.
    pub fn find(path: TimelinePath, from: SegmentNumber, catalog: &dyn WalCatalog) -> Result<PathWal> {
        let mut runs: Vec<PathRun> = Vec::new();
        for span in path.spans(from) {
            let Some(first) = path.name_of(span.first) else { break };
            catalog.visit_segments(first, &mut |number| add(&mut runs, span, number))?;
        }
        if runs.len() > RUNS_MAX {
            return Err(Error::new(
                ErrorKind::Hole,
                format!("the WAL in the repository is interrupted more than {RUNS_MAX} times"),
            ));
        }
        let runs = of_own_size(&path, from, runs, catalog)?;
        Ok(PathWal { path, from, runs })
    }

    /// The path.
    pub fn path(&self) -> &TimelinePath {
        &self.path
    }

    /// The first segment of the search.
    pub fn from(&self) -> SegmentNumber {
        self.from
    }

    /// The segments that can be read consecutively, beginning with the first; `None` if that is missing.
    pub fn readable(&self) -> Option<PathRun> {
        self.runs.first().copied().filter(|run| run.first == self.from)
    }

    /// The last stored segment, regardless of gaps before it.
    pub fn last(&self) -> Option<SegmentNumber> {
        self.runs.last().map(|run| run.last)
    }

    /// The first interruption: missing segments that are proven to have existed.
    pub fn gap(&self) -> Option<PathRun> {
        self.gaps().next()
    }

    /// All interruptions, in order.
    pub fn gaps(&self) -> impl Iterator<Item = PathRun> {
        let mut next = self.from;
        let before_each_run = self.runs.iter().filter_map(move |run| {
            let gap = run.first.previous().map(|last| PathRun { first: next, last });
            next = run.last.next();
            gap.filter(|gap| gap.first <= gap.last)
        });
        let end = self.runs.last().map_or(self.from, |run| run.last.next());
        let at_the_end = self.path.proven_last().map(|last| PathRun { first: end, last });
        before_each_run.chain(at_the_end.filter(|gap| gap.first <= gap.last))
    }

    /// The name of a segment on the path.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] past the last possible one.
    pub fn name_of(&self, segment: SegmentNumber) -> Result<SegmentName> {
        self.path.name_of(segment).ok_or_else(|| {
            Error::damaged(format!("there is no WAL segment with number {}", segment.as_u64()))
        })
    }

    /// The error for an interruption before something stored; `remedy` is the command that recovers as far as possible.
    pub fn hole(&self, gap: PathRun, remedy: &str) -> Error {
        let missing = match (self.name_of(gap.first), self.name_of(gap.last)) {
            (Ok(first), Ok(last)) if first == last => format!("WAL segment {first} is missing"),
            (Ok(first), Ok(last)) => {
                format!("{} WAL segments are missing, from {first} to {last},", gap.count())
            }
            _ => "WAL is missing".to_owned(),
        };
        let proof = match self.last() {
            Some(last) if last > gap.last => "later ones are stored",
            _ => "another timeline branches off later",
        };
        Error::new(ErrorKind::Hole, format!("{missing} from the repository, but {proof}"))
            .hint(remedy.to_owned())
    }

    /// The position after the last byte that can be read from the first segment on.
    pub fn readable_end(&self) -> Option<Lsn> {
        self.readable().and_then(|run| run.last.next().start(self.path.segment_size()))
    }
}

/// The runs without those of segments of another size. Their absence follows from the first and the last run.
fn of_own_size(
    path: &TimelinePath,
    from: SegmentNumber,
    runs: Vec<PathRun>,
    catalog: &dyn WalCatalog,
) -> Result<Vec<PathRun>> {
    let is_own = |run: &PathRun| path.name_of(run.first).map_or(Ok(true), |name| catalog.is_of_size(name));
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return Ok(runs) };
    // Nothing is missing. Any other defect of a segment is found by its reader.
    let is_whole = first == last && first.first == from;
    if is_whole || (is_own(first)? && is_own(last)?) {
        return Ok(runs);
    }
    let mut own = Vec::new();
    for run in runs {
        if is_own(&run)? {
            own.push(run);
        }
    }
    Ok(own)
}

/// Adds a segment of a span to the runs, in order.
fn add(runs: &mut Vec<PathRun>, span: PathSpan, number: SegmentNumber) -> ControlFlow<()> {
    if span.last.is_some_and(|last| number > last) || runs.len() > RUNS_MAX {
        return ControlFlow::Break(());
    }
    match runs.last_mut() {
        Some(run) if run.last.next() == number => run.last = number,
        _ => runs.push(PathRun { first: number, last: number }),
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::super::absence::{ArchiveEnd, judge_segment};
    use super::super::made_up::MadeUpCatalog;
    use super::*;
    use crate::postgres::{TimelineHistory, TimelineId};

    /// The WAL of a timeline from segment `from` on, in an archive with these histories and segments (timeline,
    /// number).
    fn wal(timeline: u32, from: u64, histories: &[(u32, &str)], held: &[(u32, u64)]) -> PathWal {
        let catalog = MadeUpCatalog::new(histories, held);
        let path = TimelinePath::find(&catalog, catalog.history_of(timeline), MadeUpCatalog::size()).unwrap();
        PathWal::find(path, SegmentNumber::new(from), &catalog).unwrap()
    }

    const SECOND: &[(u32, &str)] = &[(2, "1 0/300100 x\n")];

    fn run(first: u64, last: u64) -> Option<PathRun> {
        Some(PathRun { first: SegmentNumber::new(first), last: SegmentNumber::new(last) })
    }

    #[test]
    fn consecutive_segments_make_one_run() {
        let wal = wal(1, 2, &[], &[(1, 1), (1, 2), (1, 3), (1, 4)]);
        assert_eq!((wal.readable(), wal.gap()), (run(2, 4), None));
        assert_eq!(wal.readable_end().unwrap().to_string(), "0/500000");
    }

    #[test]
    fn segments_of_another_size_mean_other_positions() {
        let first = TimelineId::FIRST;
        let mut catalog = MadeUpCatalog::new(&[], &[(1, 2), (1, 3), (1, 7), (1, 8), (1, 20)]);
        let path = || TimelinePath::new(TimelineHistory::of_first(), MadeUpCatalog::size());
        let find = |catalog: &MadeUpCatalog| PathWal::find(path(), SegmentNumber::new(2), catalog).unwrap();
        let meaning = |catalog: &MadeUpCatalog, missing: u64| {
            let name = SegmentName::new(first, SegmentNumber::new(missing), MadeUpCatalog::size()).unwrap();
            judge_segment(catalog, None, name, MadeUpCatalog::size()).unwrap()
        };
        assert_eq!(find(&catalog).gaps().count(), 2);
        catalog.others = [(first, 20)].into();
        assert_eq!((find(&catalog).gap(), find(&catalog).gaps().count()), (run(4, 6), 1));
        assert!(matches!(meaning(&catalog, 4), ArchiveEnd::Hole(_)));
        assert_eq!(meaning(&catalog, 9), ArchiveEnd::End);
        catalog.others = [(first, 7), (first, 8)].into();
        assert!(matches!(meaning(&catalog, 4), ArchiveEnd::Hole(_)), "one of this size follows them");
        catalog.others.insert((first, 20));
        assert_eq!((find(&catalog).readable(), find(&catalog).gap()), (run(2, 3), None));
        assert_eq!(meaning(&catalog, 4), ArchiveEnd::End);
        let beyond = PathWal::find(path(), SegmentNumber::new(4), &catalog).unwrap();
        assert_eq!((beyond.readable(), beyond.gap()), (None, None));
    }

    #[test]
    fn an_interruption_is_named() {
        let found = wal(1, 2, &[], &[(1, 2), (1, 3), (1, 6), (1, 9)]);
        assert_eq!((found.readable(), found.gap()), (run(2, 3), run(4, 5)));
        let error = found.hole(found.gap().unwrap(), "Do this.");
        assert_eq!(
            error.report(),
            "2 WAL segments are missing, from 000000010000000000000004 to 000000010000000000000005, from the repository, but \
             later ones are stored\nHINT: Do this."
        );
        let found = wal(1, 2, &[], &[(1, 3)]);
        assert_eq!((found.readable(), found.gap()), (None, run(2, 2)));
        let found = wal(1, 2, &[], &[]);
        assert_eq!((found.readable(), found.gap()), (None, None));
    }

    #[test]
    fn the_parents_copy_of_the_switch_segment_does_not_count() {
        let held = [(1, 2), (1, 3), (1, 4), (2, 4), (2, 5)];
        let found = wal(2, 2, SECOND, &held);
        assert_eq!((found.readable(), found.gap()), (run(2, 2), run(3, 3)));
        assert_eq!(found.name_of(SegmentNumber::new(3)).unwrap().to_string(), "000000020000000000000003");
        let whole = wal(2, 2, SECOND, &[(1, 2), (1, 3), (2, 3), (2, 4)]);
        assert_eq!((whole.readable(), whole.gap()), (run(2, 4), None));
        let nothing_on_it_yet = wal(2, 2, SECOND, &[(1, 2), (1, 3)]);
        assert_eq!((nothing_on_it_yet.readable(), nothing_on_it_yet.gap()), (run(2, 2), None));
    }

    #[test]
    fn the_end_of_a_timeline_that_was_left_later_is_missing() {
        const AT_SIX: &[(u32, &str)] = &[(2, "1 0/600100 x\n")];
        let held = [(1, 2), (1, 3)];
        for timeline in [1, 2] {
            let found = wal(timeline, 2, AT_SIX, &held);
            assert_eq!((found.readable(), found.gap()), (run(2, 3), run(4, 5)), "timeline {timeline}");
            assert!(
                found
                    .hole(found.gap().unwrap(), "")
                    .to_string()
                    .ends_with("another timeline branches off later")
            );
        }
        let found = wal(1, 4, AT_SIX, &held);
        assert_eq!((found.readable(), found.gap()), (None, run(4, 5)), "there is no segment");
        let found = wal(1, 6, AT_SIX, &held);
        assert_eq!(
            (found.readable(), found.gap()),
            (None, None),
            "the switch itself proves nothing of its segment"
        );
    }
}
