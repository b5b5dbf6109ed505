//! Backup labels, backup history files, tablespace maps.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::postgres::MajorVersion;
use pgark::postgres::backup::label::{BackupHistory, BackupLabel, without_incremental_from};
use pgark::postgres::backup::tablespace_map::{parse_tablespace_map, render_tablespace_map};

fuzz_target!(|data: &[u8]| {
    let _ = BackupLabel::parse(data);
    let _ = BackupHistory::parse(data);
    let _ = BackupLabel::parse(&without_incremental_from(data));
    for version in MajorVersion::ALL {
        let Ok(locations) = parse_tablespace_map(data, version) else { continue };
        // A parsed map can be rendered, and parses to the same value.
        if let Ok(map) = render_tablespace_map(&locations, version) {
            assert_eq!(parse_tablespace_map(&map, version).expect("our own"), locations);
        }
    }
});
