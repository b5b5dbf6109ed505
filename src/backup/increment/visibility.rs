//! Finds pages that were marked all-visible while data checksums were temporarily off.
//!
//! Setting a bit in a visibility map also marks the heap page. With checksums, that page gets a new LSN; without them
//! it does not, and `pg_checksums` leaves no trace of the time when they were off. An incremental backup would then
//! take the page, unmarked, from an older backup, together with a map whose bit is set. The next `UPDATE` or `DELETE`
//! would not clear the bit, and index-only scans would return deleted rows.
//!
//! So the map is compared with the parent's: a page whose bit is set now and was not set then was marked since. If
//! checksums were on all the time, the LSN of every such page shows its change. Only changed pages of the map are
//! compared.
//!
//! Source: PostgreSQL `access/heap/visibilitymap.c`, `visibilitymap_set`; `heapam.c`, `log_heap_visible`.

use super::candidate::Candidate;
use crate::backup::files::{PlannedRelation, ServerFile};
use crate::error::{Context, ErrorKind, Result};
use crate::postgres::page::visibility_map::{is_all_visible, map_block_of};
use crate::postgres::page::{PAGE_BYTES, PageBytes, PageHeader};
use crate::postgres::{BlockNumber, ForkName, Lsn, RelFileLocator, RelativeBlockNumber};
use crate::repository::Repository;
use crate::repository::backup::{FileEntry, FileForm, FilePlace, StoredBackup, StoredText, read_file};
use crate::store::{ObjectKey, Store};
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// The visibility maps of a parent, by their relations.
pub struct ParentMaps {
    store: Arc<dyn Store>,
    packs: Vec<(u32, ObjectKey)>,
    maps: HashMap<RelFileLocator, StoredMap>,
}

/// Location, length and checksum of a stored map. Compact, because there may be as many maps as relations.
struct StoredMap {
    bytes: u64,
    crc32c: u32,
    place: FilePlace,
}

/// The pages of a map that cover one file of the heap.
struct MapPart {
    /// The first of them within the map.
    first: BlockNumber,
    /// The pages; fewer if the map ends earlier.
    pages: Vec<PageBytes>,
}

impl ParentMaps {
    /// An empty collection.
    ///
    /// # Errors
    /// Those of [`Layout::backup_pack`](crate::repository::Layout::backup_pack).
    pub fn new(repository: &Repository, parent: &StoredBackup) -> Result<ParentMaps> {
        let key = |number| Ok((number, repository.layout().backup_pack(&parent.label, number)?));
        Ok(ParentMaps {
            store: repository.store().clone(),
            packs: parent.packs.iter().map(|pack| key(pack.number)).collect::<Result<_>>()?,
            maps: HashMap::new(),
        })
    }

    /// Adds a file of the parent if it is a visibility map.
    pub fn add(&mut self, relation: PlannedRelation, entry: &FileEntry) {
        if relation.fork == ForkName::VisibilityMap && relation.segment == 0 && entry.form == FileForm::Whole
        {
            let FileEntry { bytes, crc32c, place, .. } = *entry;
            self.maps.insert(relation.locator(), StoredMap { bytes, crc32c, place });
        }
    }

    /// The stored map of a candidate's relation, from the parent's index.
    fn find(&self, candidate: &Candidate<'_>) -> Option<(&ObjectKey, FileEntry)> {
        let StoredMap { bytes, crc32c, place } = *self.maps.get(&candidate.relation.locator())?;
        let (_, pack) = self.packs.iter().find(|(number, _)| *number == place.pack)?;
        // Used in messages; the remaining fields of the entry are not used.
        let path = StoredText::new(map_location(candidate).as_os_str().as_bytes());
        let form = FileForm::Whole;
        Some((pack, FileEntry { path, bytes, modified_unix_s: 0, mode: 0, crc32c, place, form }))
    }

    /// Returns the pages of a heap file whose bit is set in the current map but not in the parent's. Skips pages that
    /// are `known` to have changed, and pages of the map that have not changed `since` the parent's start point.
    ///
    /// # Errors
    /// Those of the operating system and the store.
    pub fn marked_since(
        &self,
        candidate: &Candidate<'_>,
        pages: u32,
        first_block: BlockNumber,
        known: &[RelativeBlockNumber],
        since: Lsn,
    ) -> Result<Vec<RelativeBlockNumber>> {
        let Some(now) = MapPart::read(candidate, first_block, pages)? else { return Ok(Vec::new()) };
        let mut known = known.iter().peekable();
        let mut marked = Vec::new();
        for page in (0..pages).map(RelativeBlockNumber::new) {
            if known.next_if_eq(&&page).is_none() && now.is_set_since(first_block.at(page), since) {
                marked.push(page);
            }
        }
        if marked.is_empty() {
            return Ok(marked);
        }
        let before = self.of_parent(candidate, &now)?;
        marked.retain(|page| !before.is_set(first_block.at(*page)));
        Ok(marked)
    }

    /// The same pages of the parent's map; empty if the parent has none, or a damaged one.
    fn of_parent(&self, candidate: &Candidate<'_>, now: &MapPart) -> Result<MapPart> {
        let mut bytes = Vec::new();
        let (mut skipped, wanted) = (now.first.as_u32() as usize * PAGE_BYTES, now.pages.len() * PAGE_BYTES);
        if let Some((pack, entry)) = self.find(candidate) {
            let read = read_file(self.store.as_ref(), pack, &entry, &mut |piece| {
                let begin = skipped.min(piece.len());
                skipped -= begin;
                let piece = piece.get(begin..).unwrap_or_default();
                bytes.extend_from_slice(
                    piece.get(..piece.len().min(wanted - bytes.len())).unwrap_or_default(),
                );
                Ok(())
            });
            match read {
                Err(error) if error.kind() == ErrorKind::Damaged => bytes.clear(),
                other => other?,
            }
        }
        Ok(MapPart { first: now.first, pages: bytes.as_chunks::<PAGE_BYTES>().0.to_vec() })
    }
}

impl MapPart {
    /// Reads the part of the map that covers `pages` heap pages from `first_block` on; `None` if there is no map.
    fn read(candidate: &Candidate<'_>, first_block: BlockNumber, pages: u32) -> Result<Option<MapPart>> {
        let location = map_location(candidate);
        let what = || format!("could not read \"{}\"", location.display());
        let Some(file) = ServerFile::open(candidate.file.disk(), &location).context(what)? else {
            return Ok(None);
        };
        let first = map_block_of(first_block);
        let last = map_block_of(first_block.at(RelativeBlockNumber::new(pages.saturating_sub(1))));
        let mut bytes = vec![0; (last.blocks_since(first) as usize + 1) * PAGE_BYTES];
        let length =
            file.read_full(&mut bytes, u64::from(first.as_u32()) * PAGE_BYTES as u64).context(what)?;
        bytes.truncate(length);
        Ok(Some(MapPart { first, pages: bytes.as_chunks::<PAGE_BYTES>().0.to_vec() }))
    }

    fn page(&self, block: BlockNumber) -> Option<&PageBytes> {
        let map_block = Some(map_block_of(block)).filter(|map_block| *map_block >= self.first)?;
        self.pages.get(map_block.blocks_since(self.first) as usize)
    }

    /// Whether the all-visible bit of a block is set.
    fn is_set(&self, block: BlockNumber) -> bool {
        self.page(block).is_some_and(|page| is_all_visible(page, block))
    }

    /// Whether the bit of a block is set, on a page of the map that was written since.
    fn is_set_since(&self, block: BlockNumber, since: Lsn) -> bool {
        let changed = |page: &PageBytes| PageHeader::of(page).lsn.is_none_or(|lsn| lsn >= since);
        self.is_set(block) && self.page(block).is_some_and(changed)
    }
}

fn map_location(candidate: &Candidate<'_>) -> PathBuf {
    candidate.location.with_file_name(format!("{}_vm", candidate.relation.number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::RealDisk;
    use crate::postgres::page::visibility_map::BLOCKS_PER_PAGE;
    use crate::postgres::{Oid, RelFileNumber};
    use std::fs::File;

    #[test]
    fn a_file_of_a_heap_finds_its_part_of_the_map() {
        let scratch = tempfile::tempdir().unwrap();
        let location = scratch.path().join("16384.1");
        let file = ServerFile::of(&RealDisk, File::create(&location).unwrap());
        let relation = PlannedRelation {
            tablespace: Oid::PG_DEFAULT,
            database: Some(Oid::new(5)),
            number: RelFileNumber::new(16384),
            fork: ForkName::Main,
            segment: 1,
        };
        let candidate = Candidate { number: 0, relation, file: &file, location: &location, bytes: 0 };
        let first_block = 131_072;
        assert!(MapPart::read(&candidate, BlockNumber::new(first_block), 131_072).unwrap().is_none());

        // The file begins within the fifth page of the map and ends within the ninth, which does not exist yet.
        let mut map = vec![[0_u8; PAGE_BYTES]; 8];
        let set = |map: &mut Vec<PageBytes>, block: u32, lsn: u8| {
            let page = &mut map[(block / BLOCKS_PER_PAGE) as usize];
            page[4] = lsn;
            page[24 + (block % BLOCKS_PER_PAGE / 4) as usize] |= 1 << (block % 4 * 2);
        };
        for (block, lsn) in [(first_block - 1, 9), (first_block, 9), (first_block + 40_000, 1), (261_375, 5)]
        {
            set(&mut map, block, lsn);
        }
        std::fs::write(scratch.path().join("16384_vm"), map.concat()).unwrap();
        let part = MapPart::read(&candidate, BlockNumber::new(first_block), 131_072).unwrap().unwrap();
        assert_eq!((part.first, part.pages.len()), (BlockNumber::new(4), 4));
        let since = Lsn::new(5).unwrap();
        let blocks = |is: &dyn Fn(BlockNumber) -> bool| {
            (first_block..2 * first_block).filter(|block| is(BlockNumber::new(*block))).collect::<Vec<_>>()
        };
        assert_eq!(blocks(&|block| part.is_set(block)), [first_block, first_block + 40_000, 261_375]);
        assert_eq!(blocks(&|block| part.is_set_since(block, since)), [first_block, 261_375]);
    }
}
