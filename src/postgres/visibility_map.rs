//! Visibility maps: which pages of a heap hold nothing but rows that everybody sees.
//!
//! A heap's page says so itself as well, and the two belong together: what changes the page clears the map's bit only where the
//! page has its mark. Source: PostgreSQL `access/visibilitymapdefs.h`, `access/heap/visibilitymap.c`.

use super::page::{PAGE_BYTES, PageBytes};

/// Where a map's page begins to hold bits: `MAXALIGN(SizeOfPageHeaderData)`.
const BITS_OFFSET: usize = 24;

/// `HEAPBLOCKS_PER_BYTE`: of two bits a page the first says that all is visible, the second that all is frozen.
const BLOCKS_PER_BYTE: usize = 4;

/// How many pages of the heap a page of its map tells of, `HEAPBLOCKS_PER_PAGE`.
pub const BLOCKS_PER_PAGE: u32 = ((PAGE_BYTES - BITS_OFFSET) * BLOCKS_PER_BYTE) as u32;

/// Whether a page of a map says that all is visible on the heap's page `block`, counted from the first that it tells of.
pub fn is_all_visible(map_page: &PageBytes, block: u32) -> bool {
    let (byte, place) = (block as usize / BLOCKS_PER_BYTE, block as usize % BLOCKS_PER_BYTE);
    map_page.get(BITS_OFFSET + byte).is_some_and(|bits| bits >> (2 * place) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_bits_tell_of_a_page() {
        assert_eq!(BLOCKS_PER_PAGE, 32672);
        let mut page = [0; PAGE_BYTES];
        // Frozen without being visible, which the server does not write; visible; both; the last.
        page[24] = 0b_0011_0110;
        page[PAGE_BYTES - 1] = 0b_0100_0000;
        let visible: Vec<u32> =
            (0..BLOCKS_PER_PAGE + 4).filter(|block| is_all_visible(&page, *block)).collect();
        assert_eq!(visible, [1, 2, BLOCKS_PER_PAGE - 1]);
    }
}
