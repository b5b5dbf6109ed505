//! Determines changes from the server's WAL summaries, so that unchanged files need not be read.
//!
//! Owns: whether the summaries cover all WAL from the parent's start point to the child's, and what they
//! name. PostgreSQL keeps them since version 17 with `summarize_wal = on`. Source: manual, "WAL Summarization
//! Information Functions"; PostgreSQL `backup/basebackup_incremental.c`.

use crate::backup::files::PlannedRelation;
use crate::backup::server::session::Session;
use crate::backup::server::summary_row::{SummaryRange, SummaryRow};
use crate::error::{ErrorKind, Result};
use crate::interruption::Interruption;
use crate::postgres::{
    BlockNumber, DatabaseDirectory, Lsn, RelFileLocator, RelFileNumber, RelativeBlockNumber, TimelineHistory,
};
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
    relations: HashMap<RelFileLocator, Changes>,
    /// The directories of created databases.
    databases: HashSet<DatabaseDirectory>,
}

/// Changes in the main fork of a relation.
#[derive(Debug, Default)]
struct Changes {
    /// The lowest block that was removed; it and everything beyond was created anew. `None` if it was never truncated.
    limit: Option<BlockNumber>,
    blocks: BlockSet,
}

/// A set of blocks: a bitmap of 64-bit words that stores only nonzero words.
#[derive(Debug, Default)]
struct BlockSet {
    words: std::collections::BTreeMap<u64, u64>,
}

/// The changes of one file.
#[derive(Debug, PartialEq, Eq)]
pub enum FileChanges {
    /// The whole file is new.
    Whole,
    /// The changed pages, numbered within the file; all others are unchanged.
    Pages(BTreeSet<RelativeBlockNumber>),
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
        if row.relation.number == RelFileNumber::WHOLE_DATABASE {
            self.databases.insert(row.relation.directory);
            return;
        }
        let changes = self.relations.entry(row.relation).or_default();
        if row.is_limit {
            changes.limit = Some(changes.limit.map_or(row.block, |limit| limit.min(row.block)));
        } else {
            changes.blocks.insert(row.block);
        }
    }

    /// The shortest length of a main fork's file, in pages; `None` if it was never truncated.
    pub fn truncated_to(&self, relation: PlannedRelation, pages_per_file: u32) -> Option<u32> {
        let first = BlockNumber::first_of_file(relation.segment, pages_per_file);
        self.relations.get(&relation.locator())?.limit.map(|limit| limit.blocks_since(first))
    }

    /// The changes of a file of a main fork that has `pages` pages now and had `parent_pages` in the parent.
    pub fn of(
        &self,
        relation: PlannedRelation,
        pages: u64,
        parent_pages: u64,
        pages_per_file: u32,
    ) -> FileChanges {
        let locator = relation.locator();
        if self.databases.contains(&locator.directory) {
            return FileChanges::Whole;
        }
        let first = BlockNumber::first_of_file(relation.segment, pages_per_file);
        let changes = self.relations.get(&locator);
        let limit = changes.and_then(|changes| changes.limit);
        if limit.is_some_and(|limit| limit <= first) {
            return FileChanges::Whole;
        }
        let changed = changes.into_iter().flat_map(|changes| changes.blocks.within(first, pages));
        // Pages beyond the parent's end, or truncated since: created anew, possibly without a trace in WAL.
        let kept_pages =
            limit.map_or(parent_pages, |limit| parent_pages.min(limit.blocks_since(first).into()));
        let new = (kept_pages..pages).map(RelativeBlockNumber::from_index);
        FileChanges::Pages(changed.chain(new).collect())
    }
}

impl BlockSet {
    fn insert(&mut self, block: BlockNumber) {
        let block = u64::from(block.as_u32());
        *self.words.entry(block / 64).or_default() |= 1 << (block % 64);
    }

    /// The blocks of a file that begins with `first` and has `pages` pages.
    fn within(&self, first: BlockNumber, pages: u64) -> impl Iterator<Item = RelativeBlockNumber> + '_ {
        let from = u64::from(first.as_u32());
        let to = from + pages;
        let words = self.words.range(from / 64..to.div_ceil(64).max(from / 64));
        let blocks = words.flat_map(|(word, bits)| {
            let (word, bits) = (*word, *bits);
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 64 + bit)
        });
        blocks
            .filter(move |block| (from..to).contains(block))
            .map(move |block| RelativeBlockNumber::from_index(block - from))
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
    use crate::postgres::{ForkName, Oid, TimelineId};
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
        let file = |database, number, segment| PlannedRelation {
            tablespace: Oid::PG_DEFAULT,
            database: Some(Oid::new(database)),
            number: RelFileNumber::new(number),
            fork: ForkName::Main,
            segment,
        };
        let row = |number, block, is_limit| SummaryRow {
            relation: file(5, number, 0).locator(),
            block: BlockNumber::new(block),
            is_limit,
        };
        for page in [0, 63, 64, 130, 199, 200, 1000] {
            summaries.add(row(7, page, false));
        }
        summaries.add(row(8, 150, true));
        summaries.add(row(8, 120, true));
        summaries.add(row(8, 121, false));
        summaries.add(SummaryRow { relation: file(6, 0, 0).locator(), ..row(0, 0, true) });
        let of = |database, number, segment, pages, parent_pages| {
            summaries.of(file(database, number, segment), pages, parent_pages, 100)
        };
        let pages = |numbers: &[u32]| {
            FileChanges::Pages(numbers.iter().copied().map(RelativeBlockNumber::new).collect())
        };
        assert_eq!(of(5, 7, 0, 100, 100), pages(&[0, 63, 64]));
        assert_eq!(of(5, 7, 1, 100, 100), pages(&[30, 99]));
        assert_eq!(of(5, 7, 1, 40, 38), pages(&[30, 38, 39]));
        assert_eq!(of(5, 9, 0, 3, 3), pages(&[]));
        assert_eq!(of(5, 8, 0, 100, 100), pages(&[]));
        assert_eq!(of(5, 8, 1, 23, 80), pages(&[20, 21, 22]));
        assert_eq!(of(5, 8, 2, 10, 10), FileChanges::Whole);
        assert_eq!(of(6, 7, 0, 3, 3), FileChanges::Whole);
        let truncated_to = |number, segment| summaries.truncated_to(file(5, number, segment), 100);
        assert_eq!(
            [truncated_to(8, 0), truncated_to(8, 1), truncated_to(8, 2)],
            [Some(120), Some(20), Some(0)]
        );
        assert_eq!([truncated_to(7, 0), truncated_to(9, 0)], [None, None]);
    }
}
