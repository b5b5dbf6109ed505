//! Incremental files of relations.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::postgres::IncrementalHeader;
use pgark::postgres::incremental::{incremental_path, whole_path};

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    if let Ok(header) = IncrementalHeader::read(&mut rest, 4096) {
        // What was read can be written, and says the same.
        let bytes = header.to_bytes();
        assert_eq!(data.len() - rest.len(), bytes.len());
        assert_eq!(IncrementalHeader::read(&mut bytes.as_slice(), 4096).expect("our own"), header);
        assert!(header.restored_pages() <= 4096);
    }
    if let Some(whole) = whole_path(data) {
        assert_eq!(incremental_path(&whole), data);
    }
});
