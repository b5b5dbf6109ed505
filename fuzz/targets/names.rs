//! Names and numbers that come from the server, the command line or a listing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgark::postgres::recovery::time::parse_target_time;
use pgark::postgres::{Lsn, RestorePointName, SystemIdentifier, WalFileName};
use pgark::repository::backup::Label;
use pgark::repository::layout::kind_of;
use pgark::store::ObjectKey;

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<WalFileName>() {
        assert_eq!(name.to_string(), text, "a name has one spelling");
    }
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse::<Lsn>().expect("our own"), lsn);
    }
    if let Ok(key) = ObjectKey::new(text) {
        assert!(!key.as_str().starts_with('/') && !key.as_str().split('/').any(|part| part == ".."));
        let _ = kind_of(&key);
        if let Ok(below) = ObjectKey::new(format!("main/7/{text}")) {
            let _ = kind_of(&below);
        }
    }
    if let Ok(label) = text.parse::<Label>() {
        assert!(!label.as_str().contains('/'));
    }
    let _ = text.parse::<SystemIdentifier>();
    let _ = RestorePointName::new(text);
    let _ = parse_target_time(text);
});
