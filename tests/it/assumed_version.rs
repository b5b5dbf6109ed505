//! Servers of an unknown version: rejected, unless the operator sets the version to assume.

use crate::support::hostile::HostileBackup;
use crate::support::{Cluster, FakeWal, Site, Story};
use serde_json::json;

/// A segment number after those that initdb creates.
const SEGMENT: u64 = 0x40;
/// Version numbers that no version uses.
const MAGIC: u16 = 0xD1F0;
const CONTROL_VERSION: u32 = 9900;
const CATALOG_VERSION: u32 = 209_901_011;

/// A stopped cluster whose `pg_control` has an unknown version, in the format of its actual one.
fn unknown_cluster(site: &Site) -> Cluster {
    let cluster = site.cluster("primary");
    let mut control = cluster.read("global/pg_control");
    // Source: PostgreSQL `catalog/pg_control.h`, `ControlFileData`.
    let end = match cluster.major() {
        ..=17 => 288,
        18 => 292,
        _ => 308,
    };
    control[8..12].copy_from_slice(&CONTROL_VERSION.to_le_bytes());
    control[12..16].copy_from_slice(&CATALOG_VERSION.to_le_bytes());
    let sum = crc32c::crc32c(&control[..end]);
    control[end..end + 4].copy_from_slice(&sum.to_le_bytes());
    cluster.write("global/pg_control", control);
    cluster
}

/// Puts a segment of an unknown version into `pg_wal`; returns its name and content.
fn put_unknown_segment(cluster: &Cluster) -> (String, Vec<u8>) {
    let wal = FakeWal { magic: MAGIC, ..cluster.fake_wal() };
    let (name, bytes) = (wal.name(SEGMENT), wal.bytes(SEGMENT, 1));
    cluster.put_wal(&name, &bytes);
    (name, bytes)
}

#[test]
fn wal_of_an_unknown_version_is_archived_and_restored_under_an_assumption_only() {
    let site = Site::without_server();
    let mut cluster = unknown_cluster(&site);
    let (name, bytes) = put_unknown_segment(&cluster);
    let path = format!("pg_wal/{name}");
    let refused = cluster.push(&path).expect(2);
    refused.says("pg_control has version 9900, which pgark does not know").says("assume_version");
    assert!(site.archive_of(&cluster).names().is_empty());
    cluster.get(&name, "pg_wal/RECOVERYXLOG").expect(126).says("assume_version");

    cluster.config.set("assume_version", cluster.major());
    cluster.push(&path).expect(0);
    assert_eq!(site.archive_of(&cluster).raw(&name), bytes);
    cluster.agent().kill(); // another one reads what is stored
    cluster.get(&name, "pg_wal/RECOVERYXLOG").expect(0);
    assert_eq!(cluster.read("pg_wal/RECOVERYXLOG"), bytes);
}

#[test]
fn an_unknown_page_in_a_known_cluster_is_refused() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let (name, _) = put_unknown_segment(&cluster);
    let refused = cluster.push(&format!("pg_wal/{name}")).expect(4);
    refused.says("WAL page has the unknown magic D1F0").says("assume_version");
    assert!(site.archive_of(&cluster).names().is_empty());
}

#[test]
fn a_wrong_assumption_is_refused_by_the_checksum() {
    let site = Site::without_server();
    let mut cluster = unknown_cluster(&site);
    let (name, _) = put_unknown_segment(&cluster);
    cluster.config.set("assume_version", if cluster.major() >= 18 { 17_u32 } else { 18 });
    let refused = cluster.push(&format!("pg_wal/{name}")).expect(4);
    refused.says("pg_control has checksum").says("assume_version");
    assert!(site.archive_of(&cluster).names().is_empty());
}

#[test]
fn an_assumption_on_the_command_line_holds_for_the_call() {
    let site = Site::without_server();
    let cluster = unknown_cluster(&site);
    let own = cluster.major().to_string();
    let assuming = ["--assume-version", own.as_str()];
    for command in ["status", "base-backup"] {
        cluster.pgark(&[command]).run().expect(2).says("which pgark does not know");
    }
    cluster.pgark(&["status"]).args(assuming).run().expect(0);
    // Fails only when it connects to the server, which is not running.
    cluster.pgark(&["base-backup"]).args(assuming).run().expect(3).says("connect");
    let checked = cluster.pgark(&["check"]).args(assuming).run();
    assert!(checked.stdout.contains(&format!("{CATALOG_VERSION}, which pgark does not know")), "{checked}");
    let settings = cluster.pgark(&["config"]).args(assuming).run().expect(0).stdout;
    let line = settings.lines().find(|line| line.starts_with("assume_version")).unwrap();
    assert!(line.contains(&own) && line.contains("command line"), "{line}");
    cluster.pgark(&["status", "--assume-version", "12"]).run().expect(2).says("13, 14, 15, 16, 17, 18, 19");
}

#[test]
fn a_backup_of_an_unknown_version_is_recovered_under_the_same_assumption_only() {
    let story = Story::tell();
    let own = story.primary.major();
    HostileBackup::of(&story.site.archive_of(&story.primary), "first").tell(|manifest| {
        manifest["server"]["version_num"] = json!(990_000);
        manifest["server"]["catalog_version"] = json!(CATALOG_VERSION);
        manifest["server"]["assumed_version"] = json!(own);
    });
    let info = story.primary.pgark(&["info", "--json"]).run().expect(0).stdout;
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["systems"][0]["backups"][0]["postgresql"], json!(99));

    let into = story.directory("into");
    let (right, wrong) = (own.to_string(), if own == 18 { "17" } else { "18" });
    let target = ["--target-name", "ten rows"];
    for assumption in [&[][..], &["--assume-version", wrong]] {
        let refused = story.primary.recover(&into, &target).args(assumption).run().expect(2);
        refused.says("PostgreSQL 99 (catalog version 209901011)").says(&format!("--assume-version {right}"));
        assert!(!into.exists());
    }
    let options = [&target[..], &["--assume-version", &right, "--wait"]].concat();
    story.recover(&into, &options).expect(0).says("pgark does not know this version");
    assert_eq!(story.primary.psql("SELECT count(*) FROM t"), "10");
    story.primary.stop_recovered(&into);
    let written = std::fs::read_to_string(story.directory("into.pgark.toml")).unwrap();
    assert!(written.contains(&format!("assume_version = {right}\n")), "{written}");
}
