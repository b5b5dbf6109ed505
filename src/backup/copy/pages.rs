//! Checks page checksums while files are copied.
//!
//! A page read while the server writes it looks torn. Such a page changed after the start point, so WAL
//! restores all of it. A damaged page that has not changed since is damaged in the cluster itself: recovery
//! would not repair it, and the operator has to know.

use crate::backup::files::ServerFile;
use crate::error::{Context, Result};
use crate::postgres::page::{self, PAGE_BYTES, PageChecksums, PageVerdict};
use crate::postgres::{BlockNumber, Lsn, RelativeBlockNumber};
use crate::repository::backup::StoredText;
use crate::repository::backup::manifest::{DamagedPage, DamagedPages};
use std::thread;
use std::time::Duration;

/// How often a page that looks damaged is read; the server's write takes microseconds.
const READS_MAX: u32 = 5;
/// The pause between two such reads.
const PAUSE: Duration = Duration::from_millis(2);

/// Upper limit for pages that claim to have changed after the start point; a higher number indicates another
/// problem.
const CHANGED_MAX: usize = 1000;

/// The rules for page checks.
#[derive(Clone, Copy, Debug)]
pub struct PageRules {
    /// The start point of the backup.
    pub start: Lsn,
    /// Upper limit for the number of pages in one file of a relation.
    pub pages_per_file: u32,
}

/// Results of the page checks.
#[derive(Debug, Default)]
pub struct PageFindings {
    damaged: DamagedPages,
    /// Pages with a wrong checksum that claim to have changed after the start point, with their LSNs. The
    /// claim can only be verified against the stop point.
    changed: Vec<(DamagedPage, Lsn)>,
}

/// A piece of a relation file, as read.
pub struct Piece<'a> {
    /// The file.
    pub file: &'a ServerFile<'a>,
    /// Its path relative to the data directory.
    pub path: &'a [u8],
    /// The segment number within its relation's fork.
    pub segment: u32,
    /// Offset of the piece in the file, in bytes: a multiple of the page size.
    pub offset: u64,
}

impl PageRules {
    /// Checks every whole page of `bytes`; replaces a torn page with the content that a second read returns.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn check(&self, piece: &Piece<'_>, bytes: &mut [u8], findings: &mut PageFindings) -> Result<()> {
        let (pages, _) = bytes.as_chunks_mut::<PAGE_BYTES>();
        let first = BlockNumber::first_of_file(piece.segment, self.pages_per_file);
        for (page, number) in pages.iter_mut().zip(0_u64..) {
            let block = first.at(RelativeBlockNumber::from_index(piece.offset / PAGE_BYTES as u64 + number));
            let mut verdict = page::verify(page, block, PageChecksums::On);
            let mut reads = 1;
            while let Some((problem, lsn)) = problem_of(verdict) {
                if reads == READS_MAX {
                    findings.add(piece.path, block, problem, lsn, self.start);
                    break;
                }
                thread::sleep(PAUSE);
                let mut again = [0; PAGE_BYTES];
                let offset = piece.offset + number * PAGE_BYTES as u64;
                let what = || format!("could not reread \"{}\"", String::from_utf8_lossy(piece.path));
                if piece.file.read_full(&mut again, offset).context(what)? < again.len() {
                    // Truncated meanwhile; WAL contains the truncation.
                    break;
                }
                *page = again;
                verdict = page::verify(page, block, PageChecksums::On);
                reads += 1;
            }
        }
        Ok(())
    }
}

impl PageFindings {
    /// Adds the results of another thread.
    pub fn merge(&mut self, other: PageFindings) {
        self.damaged.count += other.damaged.count - other.damaged.listed.len() as u64;
        other.damaged.listed.into_iter().for_each(|page| self.damaged.add(page));
        self.changed.extend(other.changed);
    }

    /// Returns the damaged pages that no WAL up to `stop` replaces.
    pub fn judge(mut self, stop: Lsn) -> DamagedPages {
        for (page, lsn) in self.changed {
            // No page can have changed after the end of the backup, so the LSN itself is damaged.
            if lsn > stop {
                self.damaged.add(page);
            }
        }
        self.damaged.listed.sort_by(|a, b| (&a.path, a.block).cmp(&(&b.path, b.block)));
        self.damaged
    }

    fn add(&mut self, path: &[u8], block: BlockNumber, problem: String, lsn: Option<Lsn>, start: Lsn) {
        let page = DamagedPage { path: StoredText::new(path), block, problem };
        match lsn.filter(|lsn| *lsn >= start) {
            Some(lsn) if self.changed.len() < CHANGED_MAX => self.changed.push((page, lsn)),
            _ => self.damaged.add(page),
        }
    }
}

fn problem_of(verdict: PageVerdict) -> Option<(String, Option<Lsn>)> {
    match verdict {
        PageVerdict::Valid | PageVerdict::New => None,
        PageVerdict::BadChecksum { expected, found, lsn } => {
            Some((format!("checksum is {expected:04X}, but the page contains {found:04X}"), lsn))
        }
        PageVerdict::BadHeader { lsn } => Some(("page header is invalid".to_owned(), lsn)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::RealDisk;
    use std::io::Write;

    fn page(lsn: u64, block: u32) -> [u8; PAGE_BYTES] {
        let mut page = [0; PAGE_BYTES];
        page[..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
        page[12..14].copy_from_slice(&24_u16.to_le_bytes());
        page[14..16].copy_from_slice(&8192_u16.to_le_bytes());
        page[16..18].copy_from_slice(&8192_u16.to_le_bytes());
        let checksum = page::checksum(&page, BlockNumber::new(block));
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    #[test]
    fn damage_is_what_wal_does_not_replace() {
        let rules = PageRules { start: Lsn::new(1000).unwrap(), pages_per_file: 10 };
        let damaged = |lsn, block| {
            let mut page = page(lsn, block);
            page[5000] ^= 1;
            page
        };
        let pages = [page(500, 20), damaged(500, 21), damaged(1500, 22), damaged(9000, 23), [0; PAGE_BYTES]];
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&pages.concat()).unwrap();
        let piece =
            Piece { file: &ServerFile::of(&RealDisk, file), path: b"base/5/1.2", segment: 2, offset: 0 };
        let mut findings = PageFindings::default();
        let mut bytes = pages.concat();
        bytes.extend_from_slice(b"a part of a page");
        rules.check(&piece, &mut bytes, &mut findings).unwrap();
        let mut all = PageFindings::default();
        all.merge(findings);
        let judged = all.judge(Lsn::new(2000).unwrap());
        assert_eq!(judged.count, 2);
        assert_eq!(judged.listed.iter().map(|page| page.block.as_u32()).collect::<Vec<_>>(), [21, 23]);
    }

    #[test]
    fn a_torn_page_is_read_again() {
        let rules = PageRules { start: Lsn::new(1000).unwrap(), pages_per_file: 10 };
        let whole = page(500, 0);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&whole).unwrap();
        let mut torn = whole.to_vec();
        torn[4096..].fill(7);
        let mut findings = PageFindings::default();
        let piece =
            Piece { file: &ServerFile::of(&RealDisk, file), path: b"base/5/1", segment: 0, offset: 0 };
        rules.check(&piece, &mut torn, &mut findings).unwrap();
        assert_eq!(torn, whole);
        assert_eq!(findings.judge(Lsn::new(2000).unwrap()), DamagedPages::default());
    }
}
