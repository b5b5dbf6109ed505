//! `pg_control`: of whatever server, torn or forged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::postgres::ControlFile;

/// The fields that the checksum covers, and the checksum behind them, lie in the first 512 bytes in every version.
const SECTOR_BYTES: usize = 512;

fuzz_target!(|data: &[u8]| {
    let _ = ControlFile::parse(data, None);
    // With a checksum that holds wherever one may stand: else hardly anything gets past it.
    for at in (200..SECTOR_BYTES.min(data.len())).step_by(4) {
        let mut sealed = data.to_vec();
        let crc = crc32c::crc32c(&sealed[..at]).to_le_bytes();
        if let Some(place) = sealed.get_mut(at..at + 4) {
            place.copy_from_slice(&crc);
            let _ = ControlFile::parse(&sealed, None);
        }
    }
});
