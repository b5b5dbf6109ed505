//! Tests of the checkers: pgark gets a defect (`src/failpoint.rs`), and the suites must detect it. A suite that does
//! not proves nothing elsewhere.

use crate::power_loss::{back_up_and_cut, delta_and_cut, push_and_cut};
use crate::support::checker::{Acknowledged, Tree, complaints};
use crate::support::{Cluster, Site};

/// A segment number after those that initdb creates.
const SEGMENT: u64 = 0x40;

/// Starts the agent with a defect through the first push, as PostgreSQL would.
fn push(cluster: &Cluster, name: &str, mutant: &str) -> crate::support::Outcome {
    cluster.program("archive-push").arg(format!("pg_wal/{name}")).env("PGARK_MUTANT", mutant).run()
}

#[test]
fn a_skipped_fsync_is_noticed() {
    let complaint = push_and_cut(Some("skip-fsync")).expect("a power cut shows it");
    assert!(complaint.contains("wal/") || complaint.contains("format.json"), "{complaint}");
}

#[test]
fn a_skipped_fsync_of_a_recovery_is_noticed() {
    let complaint = delta_and_cut(Some("skip-fsync")).expect("a power cut shows it");
    assert!(complaint.contains("a server starts from what is neither"), "{complaint}");
}

#[test]
fn an_early_acknowledgement_is_noticed() {
    let complaint = push_and_cut(Some("early-acknowledgement")).expect("a power cut shows it");
    assert!(complaint.contains("was acknowledged and is not stored"), "{complaint}");
}

#[test]
fn a_manifest_before_its_last_pack_is_noticed() {
    let complaint = back_up_and_cut(Some("early-manifest")).expect("a power cut shows it");
    assert!(complaint.contains("pack-") && complaint.contains("is missing"), "{complaint}");
}

#[test]
fn an_overwrite_is_noticed() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let name = wal.name(SEGMENT);
    let first = wal.bytes(SEGMENT, 1);
    cluster.put_wal(&name, &first);
    push(&cluster, &name, "overwrite").expect(0);
    let acknowledged = Acknowledged::with_file(&name, &first);
    assert_eq!(complaints(&Tree::read(&site.repository()), &acknowledged), Vec::<String>::new());
    cluster.put_wal(&name, wal.bytes(SEGMENT, 2));
    let second = push(&cluster, &name, "overwrite");
    let complaints = complaints(&Tree::read(&site.repository()), &acknowledged);
    assert!(second.code == Some(0), "the defect is not there:\n{second}");
    assert!(complaints.iter().any(|complaint| complaint.contains("with other bytes")), "{complaints:?}");
}

/// The same check without the defect is in `full_disk/faults.rs`.
#[test]
fn a_swallowed_read_error_is_noticed() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let name = wal.name(SEGMENT);
    cluster.archive_file(&name, wal.bytes(SEGMENT, 1));
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    let get = cluster.program("archive-get").args([name.as_str(), "pg_wal/RECOVERYXLOG"]);
    let outcome = get.env("PGARK_FAIL_AT", "open/wal:EIO").env("PGARK_MUTANT", "swallow-read-error").run();
    // PostgreSQL would take it as the end of the archive, and promote.
    let noticed = crate::full_disk::complaint_about_unreadable(&outcome);
    assert!(noticed.is_some(), "{outcome}");
}
