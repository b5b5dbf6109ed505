//! The headers of WAL pages and segments.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::postgres::{LongPageHeader, WalPageHeader};

fuzz_target!(|data: &[u8]| {
    let _ = WalPageHeader::parse(data, None);
    let _ = LongPageHeader::parse(data, None);
});
