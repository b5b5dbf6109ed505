//! Visibility maps: the heap pages that contain only rows visible to all transactions.
//!
//! The heap page has a flag too, and the two depend on each other: a change of the page clears the map's bit only if
//! the page has its flag. Source: PostgreSQL `access/visibilitymapdefs.h`, `access/heap/visibilitymap.c`.

use crate::postgres::page::{PAGE_BYTES, PageBytes};
use crate::postgres::value::relation::BlockNumber;

/// Offset of the bits in a page of the map: `MAXALIGN(SizeOfPageHeaderData)`.
const BITS_OFFSET: usize = 24;

/// `HEAPBLOCKS_PER_BYTE`: each page has two bits, the first for all-visible, the second for all-frozen.
const BLOCKS_PER_BYTE: usize = 4;

/// Number of heap pages that a page of the map covers, `HEAPBLOCKS_PER_PAGE`.
pub const BLOCKS_PER_PAGE: u32 = ((PAGE_BYTES - BITS_OFFSET) * BLOCKS_PER_BYTE) as u32;

/// The page of the map that covers a heap page.
pub fn map_block_of(heap_block: BlockNumber) -> BlockNumber {
    BlockNumber::new(heap_block.as_u32() / BLOCKS_PER_PAGE)
}

/// Whether the page of the map that covers a heap page marks it as all-visible.
pub fn is_all_visible(map_page: &PageBytes, heap_block: BlockNumber) -> bool {
    let block = (heap_block.as_u32() % BLOCKS_PER_PAGE) as usize;
    let (byte, place) = (block / BLOCKS_PER_BYTE, block % BLOCKS_PER_BYTE);
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
            (0..BLOCKS_PER_PAGE).filter(|block| is_all_visible(&page, BlockNumber::new(*block))).collect();
        assert_eq!(visible, [1, 2, BLOCKS_PER_PAGE - 1]);
        assert!(
            is_all_visible(&page, BlockNumber::new(5 * BLOCKS_PER_PAGE + 2)),
            "counted from the page's first"
        );
        assert_eq!(map_block_of(BlockNumber::new(5 * BLOCKS_PER_PAGE + 2)), BlockNumber::new(5));
    }
}
