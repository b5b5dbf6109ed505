//! `INCREMENTAL.<name>`: the changes in the relation file `<name>` since an earlier backup.
//!
//! Owns: the format and the name of such files, as in PostgreSQL 17 to 19. `pg_combinebackup` can read pgark's files,
//! and pgark the server's. Does not own: the selection of the pages.
//!
//! Source: PostgreSQL `backup/basebackup_incremental.c` and `.h`, `bin/pg_combinebackup/reconstruct.c`.

use crate::error::{Error, Result};
use crate::postgres::page::PAGE_BYTES;
use crate::postgres::value::relation::RelativeBlockNumber;
use std::io::{self, Read};

/// Prefix of the name of an incremental file.
const PREFIX: &[u8] = b"INCREMENTAL.";

/// The first four bytes of the file.
const MAGIC: u32 = 0xD3AE_1F0D;

/// Size of the magic, the number of pages and the truncation length, four bytes each.
const FIXED_BYTES: usize = 12;

/// Size of a file without changed pages, in bytes.
pub const UNCHANGED_BYTES: u64 = FIXED_BYTES as u64;

/// The header before the pages.
///
/// Shape, little-endian: magic, number of pages that follow, truncation length in pages, the pages' numbers within the
/// file in ascending order (4 bytes each); if there are pages, zeros up to a multiple of the page size; then the pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncrementalHeader {
    truncation_pages: u32,
    pages: Vec<RelativeBlockNumber>,
}

impl IncrementalHeader {
    /// Creates the header of a file with these pages. Of the earlier backup's file, only the first `truncation_pages`
    /// pages are used; those not listed in `pages` are unchanged.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if the pages are not in ascending order, or exceed a
    /// file of `pages_per_file` pages.
    pub fn new(
        truncation_pages: u32,
        pages: Vec<RelativeBlockNumber>,
        pages_per_file: u32,
    ) -> Result<IncrementalHeader> {
        let rising = pages.iter().zip(pages.iter().skip(1)).all(|(page, next)| page < next);
        if !rising {
            return Err(Error::damaged("the pages of an incremental file are not in order"));
        }
        if truncation_pages > pages_per_file
            || pages.last().is_some_and(|last| last.as_u32() >= pages_per_file)
        {
            return Err(Error::damaged("an incremental file has more pages than a relation file can have"));
        }
        Ok(IncrementalHeader { truncation_pages, pages })
    }

    /// The numbers of the pages that follow, in ascending order.
    pub fn pages(&self) -> &[RelativeBlockNumber] {
        &self.pages
    }

    /// Number of pages of the earlier backup's file that may be used.
    pub fn truncation_pages(&self) -> u32 {
        self.truncation_pages
    }

    /// Number of pages of the restored file: covers the truncation length and all pages that follow.
    pub fn restored_pages(&self) -> u32 {
        self.pages.last().map_or(0, |last| last.count_through()).max(self.truncation_pages)
    }

    /// Size of the incremental file with header and pages, in bytes.
    pub fn file_bytes(&self) -> u64 {
        file_bytes(self.pages.len())
    }

    /// The bytes of the header, including padding.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(header_bytes(self.pages.len()) as usize);
        let count = self.pages.len() as u32;
        let pages = self.pages.iter().map(|page| page.as_u32());
        for number in [MAGIC, count, self.truncation_pages].into_iter().chain(pages) {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.resize(header_bytes(self.pages.len()) as usize, 0);
        bytes
    }

    /// Reads a header up to the first page.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if it is not a valid header; those of `input`.
    pub fn read(input: &mut dyn Read, pages_per_file: u32) -> Result<IncrementalHeader> {
        let mut fixed = [0; FIXED_BYTES];
        input.read_exact(&mut fixed).map_err(unreadable)?;
        let (numbers, _) = fixed.as_chunks::<4>();
        let number = |at: usize| numbers.get(at).copied().map(u32::from_le_bytes).unwrap_or_default();
        let (magic, count, truncation_pages) = (number(0), number(1), number(2));
        if magic != MAGIC {
            return Err(Error::damaged(format!("an incremental file begins with {magic:08X}")));
        }
        if count > pages_per_file {
            return Err(Error::damaged(format!("an incremental file has {count} pages")));
        }
        // Reads in pieces instead of allocating at once, because a manifest with wrong file sizes permits any count.
        let rest_bytes = header_bytes(count as usize) - FIXED_BYTES as u64;
        let mut rest = Vec::new();
        input.take(rest_bytes).read_to_end(&mut rest).map_err(unreadable)?;
        if rest.len() as u64 != rest_bytes {
            return Err(unreadable(io::ErrorKind::UnexpectedEof.into()));
        }
        let (numbers, _) = rest.as_chunks::<4>();
        let numbers = numbers.iter().take(count as usize).copied().map(u32::from_le_bytes);
        let pages = numbers.map(RelativeBlockNumber::new).collect();
        IncrementalHeader::new(truncation_pages, pages, pages_per_file)
    }
}

/// Size of a header before `pages` pages, in bytes.
fn header_bytes(pages: usize) -> u64 {
    let bytes = FIXED_BYTES as u64 + 4 * pages as u64;
    if pages == 0 { bytes } else { bytes.next_multiple_of(PAGE_BYTES as u64) }
}

/// Size of a file with `pages` pages, in bytes.
pub fn file_bytes(pages: usize) -> u64 {
    header_bytes(pages) + pages as u64 * PAGE_BYTES as u64
}

/// The path of the incremental file for the file at `path`.
pub fn incremental_path(path: &[u8]) -> Vec<u8> {
    let (directory, name) = path.split_at_checked(name_at(path)).unwrap_or((b"", path));
    [directory, PREFIX, name].concat()
}

/// The path of the file that the incremental file at `path` describes; `None` if it is not an incremental file's name.
pub fn whole_path(path: &[u8]) -> Option<Vec<u8>> {
    let (directory, name) = path.split_at_checked(name_at(path))?;
    name.strip_prefix(PREFIX).filter(|name| !name.is_empty()).map(|name| [directory, name].concat())
}

fn name_at(path: &[u8]) -> usize {
    path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1)
}

fn unreadable(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::damaged("an incremental file is truncated within its header"),
        _ => Error::damaged("could not read the header of an incremental file").caused_by(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const PAGES_PER_FILE: u32 = 131_072;

    fn blocks(numbers: &[u32]) -> Vec<RelativeBlockNumber> {
        numbers.iter().copied().map(RelativeBlockNumber::new).collect()
    }

    /// Files that `pg_basebackup --incremental` wrote for a table of 89 pages, of which pages 1 and 44 had changed.
    const SAMPLES: [&[u8]; 2] = [
        include_bytes!("../../../tests/fixtures/postgres/17/incremental.zst"),
        include_bytes!("../../../tests/fixtures/postgres/18/incremental.zst"),
    ];

    #[test]
    fn what_the_server_wrote_is_read_and_written_alike() {
        for sample in SAMPLES {
            let bytes = zstd::decode_all(sample).unwrap();
            let mut input = bytes.as_slice();
            let header = IncrementalHeader::read(&mut input, PAGES_PER_FILE).unwrap();
            assert_eq!((header.pages(), header.truncation_pages()), (blocks(&[1, 44]).as_slice(), 89));
            assert_eq!(header.restored_pages(), 89);
            assert_eq!(input.len(), 2 * PAGE_BYTES);
            assert_eq!(header.file_bytes(), bytes.len() as u64);
            assert_eq!(bytes[..PAGE_BYTES], header.to_bytes());
        }
        let unchanged = IncrementalHeader::new(1, Vec::new(), PAGES_PER_FILE).unwrap();
        assert_eq!(unchanged.to_bytes(), [0x0D, 0x1F, 0xAE, 0xD3, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(unchanged.file_bytes(), UNCHANGED_BYTES);
    }

    #[test]
    fn a_header_fills_whole_pages() {
        for (count, pages) in [(1, 1), (2045, 1), (2046, 2), (4093, 2), (4094, 3)] {
            let header = IncrementalHeader::new(
                5000,
                (0..count).map(RelativeBlockNumber::new).collect(),
                PAGES_PER_FILE,
            )
            .unwrap();
            assert_eq!(header.to_bytes().len(), pages * PAGE_BYTES, "{count}");
            let read = IncrementalHeader::read(&mut header.to_bytes().as_slice(), PAGES_PER_FILE).unwrap();
            assert_eq!(read, header);
        }
    }

    #[test]
    fn a_file_may_have_grown_behind_its_truncation() {
        let header = IncrementalHeader::new(3, blocks(&[1, 7]), PAGES_PER_FILE).unwrap();
        assert_eq!(header.restored_pages(), 8);
    }

    #[test]
    fn pages_that_are_announced_take_no_memory_before_they_come() {
        let mut announced = Vec::new();
        for number in [MAGIC, u32::MAX, 1] {
            announced.extend_from_slice(&number.to_le_bytes());
        }
        let error = IncrementalHeader::read(&mut announced.as_slice(), u32::MAX).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }

    #[test]
    fn what_no_server_writes_is_damage() {
        let bytes = |numbers: &[u32]| -> Vec<u8> {
            let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES), 0);
            bytes
        };
        for numbers in [
            &[1, 0, 0][..],
            &[MAGIC, 1, 1, 10],
            &[MAGIC, 2, 1, 3, 3],
            &[MAGIC, 2, 1, 3, 2],
            &[MAGIC, 11, 1],
            &[MAGIC, 0, 11],
            &[MAGIC, u32::MAX, 1],
        ] {
            let error = IncrementalHeader::read(&mut bytes(numbers).as_slice(), 10).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{numbers:?}");
        }
        for length in [0, 3, 11, 12, 16, PAGE_BYTES - 1] {
            let bytes = &bytes(&[MAGIC, 1, 1, 3])[..length];
            assert!(IncrementalHeader::read(&mut &*bytes, 10).is_err(), "{length}");
        }
    }

    #[test]
    fn names_lead_there_and_back() {
        for (whole, incremental) in
            [(&b"base/5/1259.1"[..], &b"base/5/INCREMENTAL.1259.1"[..]), (b"1259", b"INCREMENTAL.1259")]
        {
            assert_eq!(incremental_path(whole), incremental);
            assert_eq!(whole_path(incremental).unwrap(), whole);
        }
        for path in [&b"base/5/1259"[..], b"base/5/INCREMENTAL.", b"INCREMENTAL.5/1259", b""] {
            assert_eq!(whole_path(path), None);
        }
    }
}
