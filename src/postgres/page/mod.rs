//! Data pages: their header and their checksum.
//!
//! Owns: whether the server can have written a page. Does not own: the response to an invalid page. While the server
//! runs, a page that changed after the backup's start point may be torn, and WAL repairs it.

pub mod visibility_map;

use crate::postgres::value::little_endian::{u16_at, u32_at};
use crate::postgres::value::lsn::Lsn;
use crate::postgres::value::relation::BlockNumber;
use multiversion::multiversion;

/// The size of a data page in bytes. PostgreSQL can be built with another size, but no distribution does that.
///
/// Source: `BLCKSZ`; `pg_control` contains the cluster's actual value.
pub const PAGE_BYTES: usize = 8192;

/// The bytes of one data page.
pub type PageBytes = [u8; PAGE_BYTES];

/// Whether the pages of a cluster have checksums, according to `pg_control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageChecksums {
    /// Checksums are on: `initdb --data-checksums`, the default from version 18 on, or `pg_checksums --enable`.
    On,
    /// Checksums are off; only the header can be checked.
    Off,
}

/// Result of a page check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageVerdict {
    /// The checksum, if any, is correct, and the header is possible.
    Valid,
    /// All zero: allocated, never written.
    New,
    /// The stored checksum does not match the content.
    BadChecksum {
        /// The checksum calculated for this block number.
        expected: u16,
        /// The stored checksum.
        found: u16,
        /// The stored LSN, if any.
        lsn: Option<Lsn>,
    },
    /// The checksum, if any, is correct, but no server writes such a header.
    BadHeader {
        /// The stored LSN, if any.
        lsn: Option<Lsn>,
    },
}

/// The first 24 bytes of a page.
///
/// Shape: LSN (its upper half first, 4 + 4), checksum, flags, start of free space, end of free space, start of special
/// space, page length and layout version (2 each), oldest prunable transaction (4); little-endian.
/// Source: PostgreSQL `storage/bufpage.h`, `PageHeaderData`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// The end of the last WAL record that changed the page; `None` for 0. Sorted index builds leave very small values.
    pub lsn: Option<Lsn>,
    /// The checksum; 0 without checksums.
    pub checksum: u16,
    /// The flag bits.
    pub flags: u16,
    /// Start of the free space.
    pub lower: u16,
    /// End of the free space; 0 on a new page.
    pub upper: u16,
    /// Start of the access method's special space.
    pub special: u16,
}

impl PageHeader {
    const ALL_FLAGS: u16 = 0x0007;

    /// Parses the header at the start of `page` without checking it.
    pub fn of(page: &PageBytes) -> PageHeader {
        // A page is longer than its header, so that no field is missing.
        let u16_at = |offset| u16_at(page, offset).unwrap_or_default();
        let u32_at = |offset| u32_at(page, offset).unwrap_or_default();
        PageHeader {
            lsn: Lsn::new(u64::from(u32_at(0)) << 32 | u64::from(u32_at(4))),
            checksum: u16_at(8),
            flags: u16_at(10),
            lower: u16_at(12),
            upper: u16_at(14),
            special: u16_at(16),
        }
    }

    /// Whether the page is allocated but unused, provided that the rest of it is zero too.
    pub fn is_new(&self) -> bool {
        self.upper == 0
    }

    /// Whether the server would accept the header. Source: `storage/page/bufpage.c`, `PageIsVerified`.
    pub fn is_possible(&self) -> bool {
        self.flags & !PageHeader::ALL_FLAGS == 0
            && self.lower <= self.upper
            && self.upper <= self.special
            && usize::from(self.special) <= PAGE_BYTES
            && self.special.is_multiple_of(8)
    }
}

/// Checks the page with this number in its relation's fork.
pub fn verify(page: &PageBytes, block_number: BlockNumber, checksums: PageChecksums) -> PageVerdict {
    let header = PageHeader::of(page);
    if header.is_new() {
        let zero = page.iter().all(|byte| *byte == 0);
        return if zero { PageVerdict::New } else { PageVerdict::BadHeader { lsn: header.lsn } };
    }
    if checksums == PageChecksums::On {
        let expected = checksum(page, block_number);
        if expected != header.checksum {
            return PageVerdict::BadChecksum { expected, found: header.checksum, lsn: header.lsn };
        }
    }
    if header.is_possible() { PageVerdict::Valid } else { PageVerdict::BadHeader { lsn: header.lsn } }
}

/// The checksum that the server stores in this page at this block number; ignores the stored one.
///
/// The page is 64 rows of 32 words. A variant of FNV-1a hashes each column; the 32 results are combined with the block
/// number and reduced to 1 to 65535. Source: PostgreSQL `storage/checksum_impl.h`.
pub fn checksum(page: &PageBytes, block_number: BlockNumber) -> u16 {
    let folded = column_checksums(page) ^ block_number.as_u32();
    // At most 65535.
    (folded % 65535 + 1) as u16
}

const COLUMNS: usize = 32;
const ROW_BYTES: usize = COLUMNS * 4;

/// Initial hash of each column. Source: `checksum_impl.h`, `checksumBaseOffsets`.
const COLUMN_SEEDS: [u32; COLUMNS] = [
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
];

const FNV_PRIME: u32 = 16_777_619;

/// The combined hashes of the 32 columns. All columns advance together so that the compiler can use vector
/// instructions; the dispatch per page costs nothing compared with the page's two thousand multiplications.
#[multiversion(targets("x86_64+avx2", "x86_64+sse4.1"))]
fn column_checksums(page: &PageBytes) -> u32 {
    let (rows, _) = page.as_chunks::<ROW_BYTES>();
    let mut hashes = COLUMN_SEEDS;
    let mut rows = rows.iter();
    if let Some(first) = rows.next() {
        let mut words = words_of(first);
        // The stored checksum is the lower half of the third word.
        if let Some(word) = words.get_mut(2) {
            *word &= 0xFFFF_0000;
        }
        mix(&mut hashes, &words);
    }
    for row in rows {
        mix(&mut hashes, &words_of(row));
    }
    // Two rows of zeros distribute the bits of the last row.
    mix(&mut hashes, &[0; COLUMNS]);
    mix(&mut hashes, &[0; COLUMNS]);
    hashes.iter().fold(0, |folded, hash| folded ^ hash)
}

#[inline(always)]
fn words_of(row: &[u8; ROW_BYTES]) -> [u32; COLUMNS] {
    let mut words = [0; COLUMNS];
    for (word, bytes) in words.iter_mut().zip(row.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

#[inline(always)]
fn mix(hashes: &mut [u32; COLUMNS], words: &[u32; COLUMNS]) {
    for (hash, word) in hashes.iter_mut().zip(words) {
        let mixed = *hash ^ word;
        *hash = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks 0 to 3 of a table of PostgreSQL 15 and blocks 0 to 2 of its index, from a cluster with checksums.
    const SAMPLE: &[u8] = include_bytes!("../../../tests/fixtures/postgres/15/pages.zst");

    fn sample() -> Vec<(BlockNumber, PageBytes)> {
        let bytes = zstd::decode_all(SAMPLE).unwrap();
        let (pages, rest) = bytes.as_chunks::<PAGE_BYTES>();
        assert!(rest.is_empty());
        [0, 1, 2, 3, 0, 1, 2].map(BlockNumber::new).into_iter().zip(pages.iter().copied()).collect()
    }

    #[test]
    fn what_the_server_wrote_is_valid() {
        let pages = sample();
        assert_eq!(pages.len(), 7);
        for (block, page) in pages {
            assert_eq!(verify(&page, block, PageChecksums::On), PageVerdict::Valid);
            assert_eq!(verify(&page, block, PageChecksums::Off), PageVerdict::Valid);
            let header = PageHeader::of(&page);
            assert!(header.lsn.is_some() && header.lower < header.upper && !header.is_new());
        }
    }

    #[test]
    fn a_page_in_the_wrong_place_is_noticed() {
        let (_, page) = sample()[1];
        let header = PageHeader::of(&page);
        match verify(&page, BlockNumber::new(2), PageChecksums::On) {
            PageVerdict::BadChecksum { expected, found, lsn } => {
                assert_eq!((found, lsn), (header.checksum, header.lsn));
                assert_ne!(expected, found);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let (block, page) = sample()[2];
        for bit in (0..PAGE_BYTES * 8).step_by(11) {
            let mut changed = page;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(verify(&changed, block, PageChecksums::On), PageVerdict::BadChecksum { .. }),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn zeros_are_new_and_nothing_else_is() {
        let (mut page, block) = ([0; PAGE_BYTES], BlockNumber::new(7));
        assert_eq!(verify(&page, block, PageChecksums::On), PageVerdict::New);
        page[PAGE_BYTES - 1] = 1;
        assert_eq!(verify(&page, block, PageChecksums::On), PageVerdict::BadHeader { lsn: None });
        assert_eq!(verify(&page, block, PageChecksums::Off), PageVerdict::BadHeader { lsn: None });
    }

    #[test]
    fn a_header_that_no_server_writes_is_noticed_without_checksums() {
        let (block, page) = sample()[0];
        // Unknown flag; lower above upper; upper above special; special past the page; special not aligned.
        for (offset, value) in [(10, 8_u16), (12, 8193), (14, 8193), (16, 8200), (16, 8190)] {
            let mut changed = page;
            changed[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
            assert!(
                matches!(
                    verify(&changed, block, PageChecksums::Off),
                    PageVerdict::BadHeader { lsn: Some(_) }
                ),
                "{value} at {offset}"
            );
        }
    }
}
