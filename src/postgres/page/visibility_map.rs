//! Visibility maps: the heap pages that contain only rows visible to all transactions.
//!
//! The heap page has a flag too, and the two depend on each other: a change of the page clears the map's bit only if
//! the page has its flag. Source: PostgreSQL `access/visibilitymapdefs.h`, `access/heap/visibilitymap.c`.

use crate::postgres::page::{PAGE_BYTES, PageBytes};

/// Offset of the bits in a page of the map: `MAXALIGN(SizeOfPageHeaderData)`.
const BITS_OFFSET: usize = 24;

/// `HEAPBLOCKS_PER_BYTE`: each page has two bits, the first for all-visible, the second for all-frozen.
const BLOCKS_PER_BYTE: usize = 4;

/// Number of heap pages that a page of the map covers, `HEAPBLOCKS_PER_PAGE`.
pub const BLOCKS_PER_PAGE: u32 = ((PAGE_BYTES - BITS_OFFSET) * BLOCKS_PER_BYTE) as u32;

/// Whether a page of the map marks heap page `block` as all-visible, counted from the first page that it covers.
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
        // Frozen without visible, which no server writes; visible; both; the last one.
        page[24] = 0b_0011_0110;
        page[PAGE_BYTES - 1] = 0b_0100_0000;
        let visible: Vec<u32> =
            (0..BLOCKS_PER_PAGE + 4).filter(|block| is_all_visible(&page, *block)).collect();
        assert_eq!(visible, [1, 2, BLOCKS_PER_PAGE - 1]);
    }
}
