//! The index of a backup, with any description of it in the manifest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::codec::Digest;
use pgark::repository::backup::IndexReader;
use pgark::repository::backup::framed::StoredObject;
use pgark::repository::backup::index::StoredIndex;
use pgark::store::ObjectKey;
use pgark_fuzz::MemoryStore;

fuzz_target!(|data: &[u8]| {
    let [entries, raw_low, raw_high, content @ ..] = data else { return };
    let expected = StoredIndex {
        entries: u64::from(*entries),
        object: StoredObject {
            raw_bytes: u64::from(u16::from_le_bytes([*raw_low, *raw_high])) << 6,
            raw_digest: Digest::from_bytes([0; 32]),
            stored_bytes: content.len() as u64,
            stored_crc32: 0,
        },
    };
    let key = ObjectKey::new("files").expect("a good name");
    let store = MemoryStore::holding([(key.clone(), content.to_vec())]);
    let Ok(Some(mut index)) = IndexReader::open(&store, &key, expected) else { return };
    while let Ok(Some(entry)) = index.next_entry() {
        let path = entry.path().as_bytes();
        assert!(!path.starts_with(b"/") && !path.split(|byte| *byte == b'/').any(|part| part == b".."));
    }
});
