//! Selects the pages that an incremental backup stores.
//!
//! A page that has not changed since the parent's start point is in the parent or one of its ancestors: its
//! LSN, the end of the last WAL record that changed it, precedes that point. Every page for which this is not
//! certain is stored.

pub mod candidate;
pub mod summaries;
pub mod visibility;

use crate::backup::files::{FileList, PlannedRelation};
use crate::error::{Context, Result};
use crate::interruption::Interruption;
use crate::pace::Pace;
use crate::postgres::page::{self, PAGE_BYTES, PageBytes, PageChecksums, PageHeader, PageVerdict};
use crate::postgres::{
    BlockNumber, ForkName, IncrementalHeader, Lsn, Oid, RelativeBlockNumber, ServerVersion, Xid,
};
use crate::repository::Repository;
use crate::repository::backup::manifest::StoredDatabase;
use crate::repository::backup::{IndexEntry, StoredBackup, open_index};
use candidate::Candidate;
use std::cmp::Ordering;
use std::collections::HashSet;
use summaries::{FileChanges, Summaries};
use visibility::ParentMaps;

/// LSNs that are not the position of a change: sorted GiST builds set 1 on their pages, and other operations
/// leave 0.
///
/// Source: PostgreSQL `access/gist.h`, `GistBuildLSN`.
const LSN_NO_CHANGE_MAX: u64 = 1;

/// The changed share of a file, in percent, from which the whole file is stored, as in the server's own
/// incremental backup.
const WHOLE_FROM_PERCENT: u64 = 90;

/// What the parent holds of each listed file.
pub struct Increment {
    /// The parent's start point.
    since: Lsn,
    /// The length of each file in the parent; `None` if the parent lacks it or its copy cannot be used.
    parent_bytes: Vec<Option<u64>>,
    parent_maps: ParentMaps,
    checksums: PageChecksums,
    pages_per_file: u32,
    /// The changes from WAL summaries; `None` to compare page LSNs.
    summaries: Option<Summaries>,
}

impl Increment {
    /// Looks up the listed files in the parent's index, which is read to its end and thereby verified.
    ///
    /// Ignores files of databases that the parent did not hold, or whose row in `pg_database` was written
    /// since: `CREATE DATABASE … STRATEGY FILE_COPY` puts pages with old LSNs at paths that may be known.
    /// Also ignores files in which the parent found damage.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if the index cannot be used; those of the
    /// store.
    pub fn find(
        repository: &Repository,
        parent: &StoredBackup,
        files: &FileList,
        databases: &[StoredDatabase],
        version: ServerVersion,
        interruption: &Interruption<'_>,
    ) -> Result<Increment> {
        let usable = UsableFiles::of(parent, databases);
        let checksums = if parent.server.data_checksums { PageChecksums::On } else { PageChecksums::Off };
        let mut index = open_index(repository, parent)?;
        let mut parent_bytes = vec![None; files.files.len()];
        let mut parent_maps = ParentMaps::new(repository, parent)?;
        let mut numbers = files.sorted().into_iter().peekable();
        while let Some(entry) = index.next_entry()? {
            interruption.check()?;
            let IndexEntry::File(entry) = entry else { continue };
            while let Some(file) = numbers.peek().and_then(|number| files.files.get(*number as usize)) {
                let order = files.path_parts(file).into_iter().flatten().cmp(entry.path.as_bytes());
                if order == Ordering::Greater {
                    break;
                }
                let number = numbers.next().unwrap_or_default() as usize;
                if order == Ordering::Equal {
                    let relation = files.relation(file, version);
                    // Without checksums no map is compared.
                    if let (Some(relation), PageChecksums::On) = (relation, checksums)
                        && !usable.damaged.contains(entry.path.as_bytes())
                    {
                        parent_maps.add(relation, &entry);
                    }
                    if let Some(bytes) = parent_bytes.get_mut(number)
                        && relation.is_some_and(|relation| usable.hold(relation, entry.path.as_bytes()))
                    {
                        *bytes = Some(entry.whole_bytes());
                    }
                    break;
                }
            }
        }
        Ok(Increment {
            since: parent.start.lsn,
            parent_bytes,
            parent_maps,
            checksums,
            pages_per_file: parent.server.pages_per_file,
            summaries: None,
        })
    }

    /// Uses the server's WAL summaries instead, so that no file has to be read to find its changes.
    pub fn with(self, summaries: Summaries) -> Increment {
        Increment { summaries: Some(summaries), ..self }
    }

    /// Whether this file is excluded: see [`leaves_out`].
    pub fn leaves_out(&self, relation: PlannedRelation) -> bool {
        leaves_out(relation, self.checksums)
    }

    /// Whether the parent holds a usable copy of a listed file.
    pub fn holds(&self, number: usize) -> bool {
        self.parent_bytes.get(number).is_some_and(Option::is_some)
    }

    /// The pages of a file to store; `None` to store the whole file.
    ///
    /// Reads into `buffer`: the whole file or, with WAL summaries, nothing. Adds the bytes read to
    /// `read_bytes`.
    ///
    /// # Errors
    /// The operating system's; [`Interruption::check`]'s.
    pub fn changed_pages(
        &self,
        candidate: &Candidate<'_>,
        buffer: &mut [u8],
        read_bytes: &mut u64,
        pace: &Pace,
        interruption: &Interruption<'_>,
    ) -> Result<Option<IncrementalHeader>> {
        let Candidate { number, relation, file, bytes, .. } = *candidate;
        let Some(parent_bytes) = self.parent_bytes.get(number).copied().flatten() else { return Ok(None) };
        let pages = bytes / PAGE_BYTES as u64;
        if pages == 0 || !bytes.is_multiple_of(PAGE_BYTES as u64) || pages > u64::from(self.pages_per_file) {
            return Ok(None);
        }
        let header = |changed: Vec<RelativeBlockNumber>| {
            if changed.len() as u64 * 100 > pages * WHOLE_FROM_PERCENT {
                return Ok(None);
            }
            IncrementalHeader::new(pages as u32, changed, self.pages_per_file).map(Some)
        };
        if let Some(summaries) = &self.summaries {
            let parent_pages = parent_bytes / PAGE_BYTES as u64;
            return match summaries.of(relation, pages, parent_pages, self.pages_per_file) {
                FileChanges::Whole => Ok(None),
                FileChanges::Pages(changed) => header(changed.into_iter().collect()),
            };
        }
        let first = BlockNumber::first_of_file(relation.segment, self.pages_per_file);
        let (mut changed, mut offset) = (Vec::new(), 0);
        while offset < bytes {
            interruption.check()?;
            pace.take(buffer.len() as u64);
            let length = file
                .read_full(buffer, offset)
                .context(|| format!("could not read \"{}\"", candidate.location.display()))?;
            *read_bytes += length as u64;
            let (read, _) = buffer.get(..length).unwrap_or_default().as_chunks::<PAGE_BYTES>();
            for (page, number) in read.iter().zip(offset / PAGE_BYTES as u64..) {
                let block = RelativeBlockNumber::from_index(number);
                if number < pages && self.is_stored(page, number, first.at(block), parent_bytes) {
                    changed.push(block);
                }
            }
            offset += (read.len() * PAGE_BYTES) as u64;
            if read.is_empty() {
                // The file was truncated meanwhile; WAL contains that. Missing pages are stored as zeros, as
                // in a full backup.
                changed.extend((offset / PAGE_BYTES as u64..pages).map(RelativeBlockNumber::from_index));
                break;
            }
        }
        if self.checksums == PageChecksums::On {
            let marked =
                self.parent_maps.marked_since(candidate, pages as u32, first, &changed, self.since)?;
            changed.extend(marked);
            changed.sort_unstable();
        }
        header(changed)
    }

    fn is_stored(&self, page: &PageBytes, number: u64, block: BlockNumber, parent_bytes: u64) -> bool {
        let lsn = PageHeader::of(page).lsn.filter(|lsn| lsn.as_u64() > LSN_NO_CHANGE_MAX);
        (number + 1) * PAGE_BYTES as u64 > parent_bytes
            || lsn.is_none_or(|lsn| lsn >= self.since)
            || page::verify(page, block, self.checksums) != PageVerdict::Valid
    }
}

/// Whether this file is excluded, so that the restored server creates it again.
///
/// Setting a bit in a visibility map also marks the heap's page, and without checksums leaves no LSN there.
/// The unmarked page may then come from an older backup. If the map's bit were set, the next `UPDATE` or
/// `DELETE` would not clear it, and index-only scans would return deleted rows. Without the map, the server
/// behaves as if nothing had been vacuumed yet.
///
/// Source: PostgreSQL `access/heap/visibilitymap.c`, `visibilitymap_set`; `heapam.c`, `log_heap_visible`.
pub fn leaves_out(relation: PlannedRelation, checksums: PageChecksums) -> bool {
    checksums == PageChecksums::Off && relation.fork == ForkName::VisibilityMap
}

/// The files of a parent that an increment may build on, as far as paths tell.
pub struct UsableFiles<'a> {
    /// Databases unchanged since the parent: their rows in `pg_database` were not written since.
    databases: HashSet<Oid>,
    /// Files with damage that the parent found; the server's disk may have returned wrong bytes only at that
    /// time.
    damaged: HashSet<&'a [u8]>,
}

impl<'a> UsableFiles<'a> {
    /// Determines the usable files of a parent from the current databases.
    pub fn of(parent: &'a StoredBackup, databases: &[StoredDatabase]) -> UsableFiles<'a> {
        let same: HashSet<(Oid, Xid)> = parent.databases.iter().map(|row| (row.oid, row.xmin)).collect();
        let known = databases.iter().filter(|row| same.contains(&(row.oid, row.xmin)));
        UsableFiles {
            databases: known.map(|row| row.oid).collect(),
            damaged: parent.damaged_pages.listed.iter().map(|page| page.path.as_bytes()).collect(),
        }
    }

    /// Whether this file is usable.
    ///
    /// Visibility and free space maps change without a trace on the page; init forks are small.
    pub fn hold(&self, relation: PlannedRelation, path: &[u8]) -> bool {
        relation.fork == ForkName::Main
            && relation.database.is_none_or(|database| self.databases.contains(&database))
            && !self.damaged.contains(path)
    }
}
