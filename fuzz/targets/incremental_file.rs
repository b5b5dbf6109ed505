//! PostgreSQL's incremental files, and their names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::postgres::backup::incremental::{IncrementalHeader, incremental_path, whole_path};

fuzz_target!(|data: &[u8]| {
    // A manifest contains the number of pages per file: the usual one, or any that an attacker writes.
    for pages_per_file in [131_072, u32::MAX] {
        let mut input = data;
        let Ok(header) = IncrementalHeader::read(&mut input, pages_per_file) else { continue };
        let read_bytes = data.len() - input.len();
        assert_eq!(header.to_bytes().len(), read_bytes);
        assert!(header.restored_pages() <= pages_per_file);
        let again = IncrementalHeader::read(&mut header.to_bytes().as_slice(), pages_per_file).expect("our own");
        assert_eq!(again, header);
    }
    if let Some(whole) = whole_path(data) {
        assert_eq!(incremental_path(&whole), data);
    }
});
