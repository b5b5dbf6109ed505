//! A pack, read at any position that an index contains.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::repository::backup::{FileEntry, FileForm, FilePlace, StoredText, read_file};
use pgark::store::ObjectKey;
use pgark_fuzz::MemoryStore;

/// Two positions of eight bytes each precede the pack.
const PLACE_BYTES: usize = 16;

fuzz_target!(|data: &[u8]| {
    let Some((numbers, pack)) = data.split_at_checked(PLACE_BYTES) else { return };
    let number = |at: usize| u64::from_le_bytes(numbers[at..at + 8].try_into().expect("eight bytes"));
    let entry = FileEntry {
        path: StoredText::new(*b"base/5/1259"),
        form: FileForm::Whole,
        bytes: number(0) >> 32,
        modified_unix_s: 0,
        mode: 0o600,
        crc32c: 0,
        place: FilePlace {
            pack: 1,
            frame_offset: number(8) >> 48,
            skip_bytes: number(0) as u32,
            stored_bytes: number(8),
        },
    };
    let key = ObjectKey::new("pack-000001").expect("a good name");
    let store = MemoryStore::holding([(key.clone(), pack.to_vec())]);
    let mut written = 0_u64;
    let _ = read_file(&store, &key, &entry, &mut |bytes| {
        written += bytes.len() as u64;
        Ok(())
    });
    assert!(written <= entry.bytes, "more was handed out than the file has");
});
