//! PostgreSQL's backup manifest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::postgres::BackupManifestReader;

fuzz_target!(|data: &[u8]| {
    let Ok(mut manifest) = BackupManifestReader::new(data) else { return };
    while let Ok(Some(_)) = manifest.next_file() {}
    let _ = manifest.finish();
});
