//! All operations in buckets with fewer permissions, or with versioning and object lock.

use crate::support::{Bucket, Cluster, FaultProxy, Site, Stop, s3_server};
use std::time::Duration;

const ARCHIVE_POLICY: &str = include_str!("../../pg-config-snippets/s3-archive-policy.json");
const RECOVER_POLICY: &str = include_str!("../../pg-config-snippets/s3-recover-policy.json");

/// The complete content of the table.
const ANSWER: &str = "SELECT count(*) || ' ' || sum(a) FROM t";

/// Archives a running server, takes a backup in between, and stops it; returns its content.
fn archive_and_back_up(primary: &mut Cluster) -> String {
    primary.config.set("s3.stall_timeout", "8s");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) a");
    primary.back_up("one");
    primary.psql("INSERT INTO t VALUES (5000)");
    let answer = primary.psql(ANSWER);
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    answer
}

#[test]
fn the_policies_that_are_recommended_are_enough() {
    let site = Site::with_servers(2);
    let Some(server) = s3_server() else { return };
    let (Some(writer), Some(reader)) = (&server.writer, &server.reader) else {
        eprintln!("skipped: the S3 server has no users besides the owner");
        return;
    };
    let bucket = Bucket::alone(server, false);
    bucket.allow(&[(writer, ARCHIVE_POLICY), (reader, RECOVER_POLICY)]);
    let proxy = FaultProxy::start(&server.endpoint);
    let mut primary = site.cluster("primary");
    bucket.serve(&mut primary, &proxy.endpoint());
    bucket.come_as(&primary, writer);
    // Remains of a backup that died long ago, which must not be removed.
    let left = format!("{}/main/{}/backup/dead/pack-000001", bucket.prefix, primary.system_identifier());
    bucket.put(&left, b"x");
    let answer = archive_and_back_up(&mut primary);
    assert!(proxy.count("DELETE", "") > 0 && bucket.keys().contains(&left), "nothing was to be deleted");
    let checked = primary.pgark(&["check"]).run().stdout;
    assert!(
        checked.contains("ok       rights: objects can be listed, stored and read, but not deleted"),
        "{checked}"
    );
    let info = primary.pgark(&["info"]).run().expect(0).stdout;
    assert!(
        info.contains("one ") && !info.contains("CANNOT BE USED") && !info.contains("is in progress"),
        "{info}"
    );

    bucket.come_as(&primary, reader);
    proxy.forget();
    let copy = site.directory().join("copy");
    assert_eq!(primary.answer_after(&copy, &[], ANSWER), answer);
    let wal = primary.fake_wal();
    primary.put_wal(&wal.name(0x99), wal.bytes(0x99, 1));
    primary.agent().kill();
    primary.push(&format!("pg_wal/{}", wal.name(0x99))).expect(3).says("access denied").says("s3:PutObject");
}

#[test]
fn a_bucket_that_keeps_everything_serves_all_journeys() {
    let site = Site::with_servers(2);
    let Some(server) = s3_server().filter(|server| server.is_ceph("object lock")) else { return };
    let bucket = Bucket::locked(server);
    let mut primary = site.cluster("primary");
    bucket.serve(&mut primary, &server.endpoint);
    primary.config.set("s3.object_lock_mode", "GOVERNANCE");
    primary.config.set("s3.object_lock_retention", "1d");
    let answer = archive_and_back_up(&mut primary);
    let checked = primary.pgark(&["check"]).run().stdout;
    for line in
        ["versioning: enabled: deleted", "object lock: stored objects are locked for 1d in mode GOVERNANCE"]
    {
        assert!(checked.contains(line), "{line:?} is not in\n{checked}");
    }
    let of_backup: Vec<String> =
        bucket.keys().into_iter().filter(|key| key.contains("/backup/one/")).collect();
    assert!(of_backup.iter().any(|key| key.ends_with("/manifest.json")), "{of_backup:?}");
    assert!(!of_backup.iter().any(|key| key.ends_with("/running")), "{of_backup:?}");
    for key in &of_backup {
        assert!(!bucket.delete_every_version(key), "the service has deleted {key}");
    }
    let copy = site.directory().join("copy");
    assert_eq!(primary.answer_after(&copy, &[], ANSWER), answer);
}

#[test]
fn old_versions_do_not_come_back() {
    let site = Site::without_server();
    let Some(server) = s3_server().filter(|server| server.is_ceph("versioning")) else { return };
    let bucket = Bucket::alone(server, false);
    bucket.keep_versions();
    let mut cluster = site.cluster("primary");
    bucket.serve(&mut cluster, &server.endpoint);
    cluster.config.set("get.deadline", "10s");
    let wal = cluster.fake_wal();
    let name = wal.name(0x40);
    cluster.archive_file(&name, wal.bytes(0x40, 1));
    cluster.get(&name, "pg_wal/RECOVERYXLOG").expect(0);
    // After its deletion it is absent, and can be stored again with different content.
    bucket.delete(&bucket.wal_key(&cluster, &name));
    cluster.get(&name, "pg_wal/RECOVERYXLOG").within(Duration::from_secs(5)).expect(1);
    cluster.agent().kill();
    cluster.archive_file(&name, wal.bytes(0x40, 2));
    cluster.get(&name, "pg_wal/RECOVERYXLOG").expect(0);
    assert!(cluster.read("pg_wal/RECOVERYXLOG") == wal.bytes(0x40, 2), "an older version came back");
}
