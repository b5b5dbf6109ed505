//! Arbitrary WAL pages: torn, stale, of another version.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::postgres::{Lsn, SegmentSize, WalPageHeader, WalReader};
use std::ops::ControlFlow;

fuzz_target!(|data: &[u8]| {
    // Starts at the address in the first page, so that the page is read.
    let Ok(header) = WalPageHeader::parse(data, None) else { return };
    let address = header.address.as_u64();
    let Some(address) = Lsn::new(address - address % 8192) else { return };
    for size in [1 << 20, 16 << 20] {
        let size = SegmentSize::new(size).expect("a power of two");
        let mut reader = WalReader::from_page(address, size);
        let pages = data.get(..data.len() - data.len() % 8192).unwrap_or_default();
        let _ = reader.read(address, pages, &mut |record| {
            let _ = record.time();
            ControlFlow::Continue(())
        });
    }
});
