//! A stored WAL file of any kind, as decoded for a server.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::postgres::{SegmentSize, WalFileName};
use pgark::repository::wal;
use pgark_fuzz::{MemoryStore, repository};

const NAMES: [&str; 4] = [
    "000000010000000000000003",
    "000000010000000000000005.partial",
    "000000010000000000000003.00000028.backup",
    "00000002.history",
];

fuzz_target!(|data: &[u8]| {
    let Some((which, content)) = data.split_first() else { return };
    let name: WalFileName = NAMES[usize::from(*which) % NAMES.len()].parse().expect("a WAL file's name");
    let empty = repository(MemoryStore::default());
    let key = empty.layout().wal_file(name).expect("a good name");
    let repository = repository(MemoryStore::holding([(key, content.to_vec())]));
    let size = SegmentSize::new(1 << 20).expect("1 MiB");
    let mut fetched = Vec::new();
    if let Ok(Some(found)) = wal::fetch(&repository, name, Some(size), &mut fetched) {
        assert_eq!(found.sum.length_bytes, fetched.len() as u64);
    }
    let _ = wal::sum(&repository, name);
    if let WalFileName::Segment(segment) = name {
        let _ = wal::readable_header(&repository, segment);
    }
});
