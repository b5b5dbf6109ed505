//! The configuration file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::config::Config;
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    if let Err(error) = Config::parse(Path::new("/etc/pgark/pgark.toml"), data) {
        assert_eq!(error.kind(), pgark::error::ErrorKind::Usage, "{error}");
    }
});
