//! The mark of a running backup.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::repository::backup::Running;
use pgark_fuzz::{MemoryStore, repository};

fuzz_target!(|data: &[u8]| {
    let label = "sample".parse().expect("a label");
    let empty = repository(MemoryStore::default());
    let key = empty.layout().backup_running(&label).expect("a good name");
    let _ = Running::read(&repository(MemoryStore::holding([(key, data.to_vec())])), &label);
});
