//! `manifest.json` of a stored backup, and `format.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::repository::backup::StoredBackup;
use pgark_fuzz::{MemoryStore, repository};

fuzz_target!(|data: &[u8]| {
    let label = "sample".parse().expect("a label");
    let empty = repository(MemoryStore::default());
    let key = empty.layout().stored_backup(&label).expect("a good name");
    let format = empty.layout().format().expect("a good name");
    let repository = repository(MemoryStore::holding([(key, data.to_vec()), (format, data.to_vec())]));
    let _ = repository.exists();
    let Ok(Some(backup)) = StoredBackup::read(&repository, &label) else { return };
    // An accepted manifest must support every query.
    let _ = (backup.start_segment(), backup.segment_size(), backup.limits(), backup.major_version());
});
