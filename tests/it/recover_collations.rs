//! `pgark recover` if the collation versions differ from those with which the indexes were built.

use crate::support::hostile::HostileBackup;
use crate::support::{Cluster, Site, Stop, Story};
use serde_json::{Value, json};

#[test]
fn another_c_library_than_the_originals_is_told_in_the_plan() {
    let story = Story::tell();
    let archive = story.site.archive_of(&story.primary);
    let into = story.directory("into");
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(archive.backup("first").join("manifest.json")).unwrap())
            .unwrap();
    let version = manifest["collations"]["libc_version"].as_str().expect("the server's own");
    assert!(version.starts_with("2."), "{version}");

    let stored = HostileBackup::of(&archive, "first");
    let planned = |option: &str| story.primary.recover(&into, &[option, "--dry-run"]).run().expect(0);
    stored.tell(|manifest| manifest["collations"] = json!({ "libc_version": "2.17" }));
    let plan = planned("--latest");
    assert!(plan.stdout.contains("the C library glibc 2.17, but this host has "), "{plan}");
    assert!(plan.stdout.contains("REINDEX DATABASE"), "{plan}");
    let plan = planned("--standby");
    assert!(plan.stdout.contains("a standby cannot rebuild them"), "{plan}");
    // A backup of an older pgark.
    stored.tell(|manifest| {
        manifest.as_object_mut().unwrap().remove("collations");
    });
    let plan = planned("--latest");
    assert!(!plan.stdout.contains("C library"), "{plan}");
}

/// A database and a collation with recorded versions that no library has.
fn primary_with_old_collations(site: &Site) -> Option<Cluster> {
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    if primary.psql("SELECT count(*) FROM pg_collation WHERE collname = 'und-x-icu'") == "0" {
        eprintln!("skipped: this PostgreSQL was built without ICU");
        return None;
    }
    primary.psql("CREATE TABLE t (a text COLLATE \"und-x-icu\" PRIMARY KEY)");
    primary.psql("UPDATE pg_collation SET collversion = '1.0' WHERE collname = 'und-x-icu'");
    if primary.is_from(15) {
        primary.psql("CREATE DATABASE sorted TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'und'");
        primary.psql("UPDATE pg_database SET datcollversion = '1.1' WHERE datname = 'sorted'");
    }
    primary.back_up("first");
    primary.stop(Stop::Fast);
    Some(primary)
}

#[test]
fn a_recovered_server_is_asked_which_collations_have_another_version() {
    let site = Site::with_servers(1);
    let Some(primary) = primary_with_old_collations(&site) else { return };
    let is_from_15 = primary.is_from(15);
    let manifest = std::fs::read(site.archive_of(&primary).backup("first").join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let stored = &manifest["collations"];
    assert!(stored["recorded"].as_array().unwrap().contains(&json!({ "provider": "i", "version": "1.0" })));
    assert_eq!(stored["databases"]["sorted"].as_str(), is_from_15.then_some("1.1"));
    let icu = stored["icu_version"].as_str().unwrap();

    let into = site.directory().join("into");
    let options = ["--target-immediate", "--target-action", "promote", "--wait"];
    let outcome = primary.recover(&into, &options).run().expect(0);
    for (told, expected) in [
        (
            format!(
                "the collation \"und-x-icu\" of database \"postgres\" was recorded with version 1.0, but this host has {icu}"
            ),
            true,
        ),
        (
            format!(
                "the default collation of database \"sorted\" was recorded with version 1.1, but this host has {icu}"
            ),
            is_from_15,
        ),
        ("database \"template1\"".to_owned(), false),
    ] {
        assert_eq!(outcome.stdout.contains(&told), expected, "{told}: {outcome}");
    }
    assert!(outcome.stdout.contains("REINDEX DATABASE"), "{outcome}");

    // Follows the advice.
    primary.psql("REINDEX DATABASE postgres");
    primary.psql("ALTER COLLATION \"und-x-icu\" REFRESH VERSION");
    if is_from_15 {
        primary.psql("ALTER DATABASE sorted REFRESH COLLATION VERSION");
        assert_eq!(primary.psql("SELECT datcollversion FROM pg_database WHERE datname = 'sorted'"), icu);
    }
    assert_eq!(primary.psql("SELECT collversion FROM pg_collation WHERE collname = 'und-x-icu'"), icu);
    primary.stop_recovered(&into);
}

#[test]
fn a_server_whose_collations_are_as_recorded_is_not_remarked_upon() {
    let story = Story::tell();
    let into = story.directory("into");
    let outcome = story.recover(&into, &["--latest", "--wait", "--json"]).expect(0);
    let document: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(document["collation_mismatches"], json!([]), "{outcome}");
    story.primary.stop_recovered(&into);
}
