//! `pg_control` of any server, torn or forged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::postgres::ControlFile;

/// In every version, the fields that the checksum covers and the checksum itself are in the first 512 bytes.
const SECTOR_BYTES: usize = 512;

fuzz_target!(|data: &[u8]| {
    let _ = ControlFile::parse(data, None);
    // Sets a correct checksum at every possible offset; otherwise hardly any input would pass the check.
    for at in (200..SECTOR_BYTES.min(data.len())).step_by(4) {
        let mut sealed = data.to_vec();
        let crc = crc32c::crc32c(&sealed[..at]).to_le_bytes();
        if let Some(place) = sealed.get_mut(at..at + 4) {
            place.copy_from_slice(&crc);
            let _ = ControlFile::parse(&sealed, None);
        }
    }
});
