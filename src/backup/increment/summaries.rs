//! Determines changes from the server's WAL summaries, so that unchanged files need not be read.
//!
//! Owns: whether the summaries cover all WAL from the parent's start point to the child's, and what they
//! name. PostgreSQL keeps them since version 17 with `summarize_wal = on`. Source: manual, "WAL Summarization
//! Information Functions"; PostgreSQL `backup/basebackup_incremental.c`.

use crate::backup::files::PlannedRelation;
use crate::backup::server::session::Session;
use crate::backup::server::summary_row::{Place, SummaryRange, SummaryRow};
use crate::error::{ErrorKind, Result};
use crate::interruption::Interruption;
use crate::postgres::{Lsn, TimelineHistory};
use crate::repository::backup::manifest::BackupPoint;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

/// How long to wait for a summarizer that makes no progress.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);
/// Interval between checks of the summarizer.
const LOOK: Duration = Duration::from_millis(100);

/// Number of rows requested at a time.
const ROWS_MAX: usize = 50_000;

/// The changes listed in the summaries. Takes one bit for each changed page.
#[derive(Debug, Default)]
pub struct Summaries {
    /// Number of summaries that were read.
    pub count: usize,
    relations: HashMap<Place, Changes>,
    /// Tablespace and database of each created database.
    databases: HashSet<(u32, u32)>,
}

/// Changes in the main fork of a relation.
#[derive(Debug, Default)]
struct Changes {
    /// Its shortest length, in pages; everything beyond it was created anew. `None` if it was never
    /// truncated.
    limit: Option<u64>,
    pages: PageSet,
}

/// A set of page numbers: a bitmap of 64-bit words that stores only nonzero words.
#[derive(Debug, Default)]
struct PageSet {
    words: std::collections::BTreeMap<u64, u64>,
}

/// The changes of one file.
#[derive(Debug, PartialEq, Eq)]
pub enum FileChanges {
    /// The whole file is new.
    Whole,
    /// The changed pages, numbered within the file; all others are unchanged.
    Pages(BTreeSet<u32>),
}

impl Summaries {
    /// Waits for the summarizer, and reads the summaries from the parent's start point to `start`. The inner error is
    /// the reason why they cannot be used.
    ///
    /// # Errors
    /// Those of the server and of [`Interruption::check`].
    pub fn read(
        session: &Session,
        history: &TimelineHistory,
        parent: &BackupPoint,
        start: &BackupPoint,
        interruption: &Interruption<'_>,
    ) -> Result<std::result::Result<Summaries, String>> {
        if !session.version().facts().has_wal_summaries {
            return Ok(Err(String::new()));
        }
        let read = || -> Result<std::result::Result<Summaries, String>> {
            if !session.summarizes_wal(interruption)? {
                return Ok(Err("summarize_wal is off".to_owned()));
            }
            if let Some(reached) = wait(session, start.lsn, interruption)? {
                return Ok(Err(format!("the WAL summarizer makes no progress beyond {reached}")));
            }
            let available = session.wal_summaries(interruption)?;
            let mut wanted = Vec::new();
            for range in ranges(history, parent, start) {
                match covering(&available, range) {
                    Ok(summaries) => wanted.extend(summaries),
                    Err(missing) => {
                        return Ok(Err(format!(
                            "there is no WAL summary of {missing} on timeline {}",
                            range.timeline
                        )));
                    }
                }
            }
            let mut summaries = Summaries { count: wanted.len(), ..Summaries::default() };
            for summary in wanted {
                session.visit_wal_summary(summary, ROWS_MAX, interruption, &mut |row| summaries.add(row))?;
            }
            Ok(Ok(summaries))
        };
        match read() {
            // The privilege to take backups does not include reading summaries, and a summary may be removed at any
            // time.
            Err(error) if error.kind() == ErrorKind::Usage => Ok(Err(error.to_string())),
            other => other,
        }
    }

    fn add(&mut self, row: SummaryRow) {
        if row.place.2 == 0 {
            self.databases.insert((row.place.0, row.place.1));
            return;
        }
        let changes = self.relations.entry(row.place).or_default();
        if row.is_limit {
            changes.limit = Some(changes.limit.map_or(row.page, |limit| limit.min(row.page)));
        } else {
            changes.pages.insert(row.page);
        }
    }

    /// The shortest length of a main fork's file, in pages; `None` if it was never truncated.
    pub fn truncated_to(&self, relation: PlannedRelation, pages_per_file: u32) -> Option<u64> {
        let place = (relation.tablespace, relation.database.unwrap_or_default(), relation.number);
        let first = u64::from(relation.segment) * u64::from(pages_per_file);
        self.relations.get(&place)?.limit.map(|limit| limit.saturating_sub(first))
    }

    /// The changes of a file of a main fork that has `pages` pages now and had `parent_pages` in the parent.
    pub fn of(
        &self,
        relation: PlannedRelation,
        pages: u64,
        parent_pages: u64,
        pages_per_file: u32,
    ) -> FileChanges {
        let database = relation.database.unwrap_or_default();
        if self.databases.contains(&(relation.tablespace, database)) {
            return FileChanges::Whole;
        }
        let first = u64::from(relation.segment) * u64::from(pages_per_file);
        let changes = self.relations.get(&(relation.tablespace, database, relation.number));
        let limit = changes.and_then(|changes| changes.limit).unwrap_or(u64::MAX);
        if limit <= first {
            return FileChanges::Whole;
        }
        let changed = changes.into_iter().flat_map(|changes| changes.pages.within(first, first + pages));
        // Pages beyond the parent's end, or truncated since: created anew, possibly without a trace in WAL.
        let new = parent_pages.min(limit - first)..pages;
        // A file of a relation has less than 2^32 pages.
        FileChanges::Pages(
            changed.map(|page| (page - first) as u32).chain(new.map(|page| page as u32)).collect(),
        )
    }
}

impl PageSet {
    fn insert(&mut self, page: u64) {
        *self.words.entry(page / 64).or_default() |= 1 << (page % 64);
    }

    fn within(&self, from: u64, to: u64) -> impl Iterator<Item = u64> + '_ {
        let words = self.words.range(from / 64..to.div_ceil(64).max(from / 64));
        let pages = words.flat_map(|(word, bits)| {
            let (word, bits) = (*word, *bits);
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 64 + bit)
        });
        pages.filter(move |page| (from..to).contains(page))
    }
}

/// Waits until the summarizer reaches `lsn`; returns its position if it makes no progress.
fn wait(session: &Session, lsn: Lsn, interruption: &Interruption<'_>) -> Result<Option<String>> {
    let mut last = None;
    let mut since = Instant::now();
    loop {
        let reached = session.summarized_to(interruption)?;
        if reached.is_some_and(|reached| reached >= lsn) {
            return Ok(None);
        }
        if reached != last {
            last = reached;
            since = Instant::now();
        }
        if since.elapsed() > STANDSTILL_MAX {
            return Ok(Some(reached.map_or("its beginning".to_owned(), |reached| reached.to_string())));
        }
        interruption.sleep(LOOK)?;
    }
}

/// Splits the WAL between two start points by timeline.
fn ranges(history: &TimelineHistory, parent: &BackupPoint, start: &BackupPoint) -> Vec<SummaryRange> {
    let own = (history.timeline(), start.lsn);
    let ancestors = history.switches().iter().map(|switch| (switch.timeline, switch.switch_point));
    let mut from = parent.lsn;
    let mut ranges = Vec::new();
    for (timeline, end) in ancestors.chain([own]).skip_while(|(timeline, _)| *timeline != parent.timeline) {
        let end = end.min(start.lsn);
        if from < end {
            ranges.push(SummaryRange { timeline, start: from, end });
        }
        from = from.max(end);
    }
    ranges
}

/// Returns the summaries that cover a stretch without a gap, or the first position that none covers.
fn covering(available: &[SummaryRange], wanted: SummaryRange) -> std::result::Result<Vec<SummaryRange>, Lsn> {
    let mut overlapping: Vec<SummaryRange> = available
        .iter()
        .filter(|found| {
            found.timeline == wanted.timeline && found.start < wanted.end && found.end > wanted.start
        })
        .copied()
        .collect();
    overlapping.sort_by_key(|found| (found.start, found.end));
    let mut covered = wanted.start;
    for found in &overlapping {
        if found.start > covered {
            return Err(covered);
        }
        covered = covered.max(found.end);
    }
    if covered < wanted.end { Err(covered) } else { Ok(overlapping) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::files::exclusions::Fork;
    use crate::postgres::TimelineId;
    use jiff::Timestamp;

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn point(number: u32, position: &str) -> BackupPoint {
        BackupPoint {
            time: Timestamp::UNIX_EPOCH,
            lsn: lsn(position),
            timeline: timeline(number),
            snapshot: None,
        }
    }

    fn range(number: u32, start: &str, end: &str) -> SummaryRange {
        SummaryRange { timeline: timeline(number), start: lsn(start), end: lsn(end) }
    }

    #[test]
    fn wal_is_followed_through_the_timelines() {
        let history = TimelineHistory::parse(timeline(3), b"1\t0/3000148\tx\n2\t0/50000A0\tx\n").unwrap();
        assert_eq!(
            ranges(&history, &point(1, "0/2000028"), &point(3, "0/6000028")),
            [
                range(1, "0/2000028", "0/3000148"),
                range(2, "0/3000148", "0/50000A0"),
                range(3, "0/50000A0", "0/6000028"),
            ]
        );
        assert_eq!(
            ranges(&history, &point(3, "0/5100000"), &point(3, "0/6000028")),
            [range(3, "0/5100000", "0/6000028")]
        );
    }

    #[test]
    fn a_gap_is_found() {
        let available = [
            range(1, "0/3000000", "0/4000000"),
            range(1, "0/1000000", "0/2000000"),
            range(1, "0/2000000", "0/3000000"),
            range(2, "0/4000000", "0/5000000"),
        ];
        let covered = |start: &str, end: &str| {
            covering(&available, range(1, start, end)).map(|found| found.len()).map_err(|at| at.to_string())
        };
        assert_eq!(covered("0/1500000", "0/3500000"), Ok(3));
        assert_eq!(covered("0/2000000", "0/3000000"), Ok(1));
        assert_eq!(covered("0/500000", "0/3000000"), Err("0/500000".to_owned()));
        assert_eq!(covered("0/2000000", "0/4000001"), Err("0/4000000".to_owned()));
        let holed = [available[0], available[1]];
        assert_eq!(covering(&holed, range(1, "0/1000000", "0/4000000")), Err(lsn("0/2000000")));
    }

    #[test]
    fn pages_come_from_the_right_file() {
        let mut summaries = Summaries::default();
        let row = |number, page, is_limit| SummaryRow { place: (1663, 5, number), page, is_limit };
        for page in [0, 63, 64, 130, 199, 200, 1000] {
            summaries.add(row(7, page, false));
        }
        summaries.add(row(8, 150, true));
        summaries.add(row(8, 120, true));
        summaries.add(row(8, 121, false));
        summaries.add(SummaryRow { place: (1663, 6, 0), page: 0, is_limit: true });
        let of = |database, number, segment, pages, parent_pages| {
            let relation = PlannedRelation {
                tablespace: 1663,
                database: Some(database),
                number,
                fork: Fork::Main,
                segment,
            };
            summaries.of(relation, pages, parent_pages, 100)
        };
        let pages = |numbers: &[u32]| FileChanges::Pages(numbers.iter().copied().collect());
        assert_eq!(of(5, 7, 0, 100, 100), pages(&[0, 63, 64]));
        assert_eq!(of(5, 7, 1, 100, 100), pages(&[30, 99]));
        assert_eq!(of(5, 7, 1, 40, 38), pages(&[30, 38, 39]));
        assert_eq!(of(5, 9, 0, 3, 3), pages(&[]));
        assert_eq!(of(5, 8, 0, 100, 100), pages(&[]));
        assert_eq!(of(5, 8, 1, 23, 80), pages(&[20, 21, 22]));
        assert_eq!(of(5, 8, 2, 10, 10), FileChanges::Whole);
        assert_eq!(of(6, 7, 0, 3, 3), FileChanges::Whole);
        let truncated_to = |number, segment| {
            let relation =
                PlannedRelation { tablespace: 1663, database: Some(5), number, fork: Fork::Main, segment };
            summaries.truncated_to(relation, 100)
        };
        assert_eq!(
            [truncated_to(8, 0), truncated_to(8, 1), truncated_to(8, 2)],
            [Some(120), Some(20), Some(0)]
        );
        assert_eq!([truncated_to(7, 0), truncated_to(9, 0)], [None, None]);
    }
}
