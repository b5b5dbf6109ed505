//! `pgark recover --standby`: a replica that follows its primary through streaming and the archive.

use crate::support::{Cluster, PATIENCE, Site, Stop, wait_until};
use std::fs;
use std::path::PathBuf;

/// A running primary with a backup, and a directory for its replica. The replica has the primary's configuration, so
/// the primary moves to another socket directory first.
struct Original {
    site: Site,
    primary: Cluster,
    replica: PathBuf,
}

impl Original {
    fn new() -> Original {
        let site = Site::with_servers(2);
        let mut primary = site.cluster("primary");
        primary.archive();
        primary.append_conf("wal_retrieve_retry_interval = 100ms\nwal_keep_size = 0\n");
        primary.start();
        primary.psql("CREATE TABLE t (a int)");
        primary.back_up("first");
        primary.psql("INSERT INTO t VALUES (1)");
        let segment = primary.switch_wal();
        primary.wait_archived(&segment);
        let replica = site.directory().join("replica");
        Original { site, primary, replica }
    }

    /// Recovers with these options, and with its own port.
    fn make(&self, options: &[&str]) -> serde_json::Value {
        let options = [&["--standby", "--wait", "--port", "5433", "--json"], options].concat();
        let outcome = self.primary.recover(&self.replica, &options).run().expect(0);
        serde_json::from_str(&outcome.stdout).unwrap()
    }

    /// Queries the replica through the socket directory that it shares with its primary.
    fn ask(&self, sql: &str) -> String {
        let conninfo = format!("{} port=5433", self.primary.conninfo());
        let psql = self.primary.postgres_program("psql").args(["-X", "-A", "-t", "-q", "-d"]);
        psql.arg(conninfo).arg("-c").arg(sql).run().stdout.trim_end().to_owned()
    }

    #[track_caller]
    fn wait_for(&self, sql: &str, expected: &str) {
        wait_until(&format!("\"{expected}\" from: {sql}"), PATIENCE, || self.ask(sql) == expected);
    }
}

const ROWS: &str = "SELECT string_agg(a::text, ' ' ORDER BY a) FROM t";

#[test]
fn a_replica_streams_and_outlives_its_primary_by_the_archive() {
    let mut original = Original::new();
    let conninfo = original.primary.conninfo();
    let plan = original.primary.recover(&original.replica, &["--standby", "--dry-run", "--primary-conninfo"]);
    let plan = plan.arg(format!("{conninfo} password=geheim")).run().expect(0);
    assert!(
        plan.stdout.contains("follows      the primary at") && plan.stdout.contains("password=***"),
        "{plan}"
    );
    assert!(!plan.stdout.contains("geheim") && !original.replica.exists(), "{plan}");

    let document = original.make(&["--primary-conninfo", &conninfo]);
    assert_eq!(document["reached"]["state"], "streaming", "{document}");
    assert!(
        original.replica.join("standby.signal").exists()
            && !original.replica.join("recovery.signal").exists()
    );
    // In a segment that is not archived.
    original.primary.psql("INSERT INTO t VALUES (2)");
    original.wait_for(ROWS, "1 2");
    assert_eq!(original.ask("SELECT pg_is_in_recovery(), current_setting('archive_mode')"), "t|on");

    original.primary.psql("INSERT INTO t VALUES (3)");
    original.primary.stop(Stop::Fast);
    original.wait_for("SELECT count(*) FROM pg_stat_wal_receiver", "0");
    original.wait_for(ROWS, "1 2 3");
    original.primary.stop_recovered(&original.replica);
}

#[test]
fn a_replica_that_was_away_finds_in_the_archive_what_its_primary_has_no_more() {
    let original = Original::new();
    let conninfo = original.primary.conninfo();
    original.make(&["--primary-conninfo", &conninfo]);
    original.wait_for(ROWS, "1");
    original.primary.stop_recovered(&original.replica);
    let first = original.primary.switch_wal();
    for row in 2..6 {
        original.primary.psql(&format!("INSERT INTO t VALUES ({row})"));
        let segment = original.primary.switch_wal();
        original.primary.wait_archived(&segment);
        original.primary.psql("CHECKPOINT");
    }
    wait_until("the primary has recycled the segment", PATIENCE, || {
        original.primary.psql("CHECKPOINT");
        !original.primary.has(&format!("pg_wal/{first}"))
    });
    let options =
        format!("-p 5433 -c log_min_messages=debug1 -k {}", original.primary.socket_directory().display());
    let start = original.primary.postgres_program("pg_ctl").arg("-D").arg(&original.replica);
    start
        .arg("-o")
        .arg(options)
        .arg("-l")
        .arg(original.replica.with_extension("log"))
        .args(["-w", "start"])
        .run()
        .expect(0);
    original.wait_for(ROWS, "1 2 3 4 5");
    original.wait_for("SELECT status FROM pg_stat_wal_receiver", "streaming");
    original.primary.stop_recovered(&original.replica);
}

#[test]
fn a_delayed_replica_follows_the_archive_and_can_be_promoted() {
    let original = Original::new();
    let document = original.make(&["--apply-delay", "1h"]);
    assert_eq!(document["reached"]["state"], "following the archive", "{document}");
    assert_eq!(document["plan"]["standby"]["apply_delay"], "1h");
    let auto = fs::read_to_string(original.replica.join("postgresql.auto.conf")).unwrap();
    for line in
        ["recovery_min_apply_delay = '1h'", "primary_conninfo = ''", "recovery_target_timeline = 'latest'"]
    {
        assert!(auto.contains(line), "{line} in {auto}");
    }
    // Committed after the backup and archived: only the delay defers it.
    assert_eq!(original.ask("SELECT count(*) FROM t"), "0");
    assert_eq!(original.ask("SELECT pg_is_in_recovery()"), "t");
    original.ask("ALTER SYSTEM RESET recovery_min_apply_delay");
    original.ask("SELECT pg_reload_conf()");
    original.wait_for(ROWS, "1");
    original.ask("SELECT pg_promote()");
    original.wait_for("SELECT pg_is_in_recovery()", "f");
    original.primary.stop_recovered(&original.replica);
}

#[test]
fn what_makes_no_standby_is_refused() {
    let original = Original::new();
    for (options, says) in [
        (&["--standby", "--target-lsn", "0/3000028"][..], "cannot be used with"),
        (&["--standby", "--target-action", "promote"], "cannot be used with"),
        (&["--primary-conninfo", "host=x"], "--standby"),
        (&["--standby", "--apply-delay", "5"], "is not a delay"),
        (&["--standby", "--primary-conninfo", "postgresql://x:geheim@y/"], "key=value"),
    ] {
        let outcome = original.primary.recover(&original.replica, options).run().expect(2).says(says);
        assert!(!outcome.stderr.contains("geheim"), "{outcome}");
    }
    assert!(!original.replica.exists());
    drop(original.site);
}
