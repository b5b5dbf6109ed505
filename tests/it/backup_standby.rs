//! `pgark base-backup` on a standby: its backup is equivalent to the primary's, and a promotion ends it.

use crate::support::{Archive, Cluster, Outcome, PATIENCE, Running, Site, Stop, used_summaries, wait_until};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// A primary that archives, and a standby that streams from it; both run, and share a table.
struct Pair {
    site: Site,
    primary: Cluster,
    standby: Cluster,
}

impl Pair {
    fn start() -> Pair {
        Pair::start_with(|_| String::new())
    }

    /// Starts both servers with these settings.
    fn start_with(settings: impl Fn(&Cluster) -> String) -> Pair {
        let site = Site::with_servers(2);
        let mut primary = site.cluster("primary");
        primary.append_conf(&settings(&primary));
        let mut standby = primary.copy("standby");
        primary.archive();
        primary.append_conf("wal_keep_size = '64MB'\n");
        primary.start();
        primary.psql("CREATE TABLE t AS SELECT generate_series(1, 20000) AS a");
        let segment = primary.switch_wal();
        primary.wait_archived(&segment);
        standby.archive();
        standby.stand_by();
        standby.append_conf(&format!("primary_conninfo = '{}'\n", primary.conninfo()));
        standby.start();
        standby.wait_for_row("SELECT status FROM pg_stat_wal_receiver", "streaming");
        Pair { site, primary, standby }
    }

    /// Configures backups of the standby's data directory, with the help of its primary.
    fn configure(&mut self) {
        let (primary, standby) = (self.primary.conninfo(), self.standby.conninfo());
        self.standby.config.set("connection.conninfo", primary.as_str());
        self.standby.config.set("connection.standby", standby.as_str());
    }

    /// Waits until the standby has replayed all WAL of the primary, and a checkpoint after it.
    fn catch_up(&self) {
        self.primary.psql("CHECKPOINT");
        let written = self.primary.psql("SELECT pg_current_wal_lsn()");
        self.standby.wait_for_row(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'"), "t");
    }

    /// Begins a backup "one" of the standby, which waits before the copy.
    fn hold_a_backup(&self) -> HeldBackup {
        // It waits for a segment that is hidden until the test releases it.
        self.site.hide_repository();
        let segment = self.primary.switch_wal();
        self.catch_up();
        self.site.show_repository();
        self.primary.wait_archived(&segment);
        let archive = self.site.archive_of(&self.primary);
        let stored = archive.stored(&segment);
        archive.remove(&segment);
        let backup = self.standby.pgark(&["base-backup", "--checkpoint", "fast", "--label", "one"]).spawn();
        wait_until("the backup has begun", PATIENCE, || {
            // The last query before it waits is the one for the time.
            let asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgark base-backup' \
                         AND state = 'idle' AND query LIKE '%clock_timestamp%'";
            self.place("one").join("running").exists() && self.standby.psql(asked) != "0"
        });
        HeldBackup { backup, archive, segment, stored }
    }

    fn place(&self, label: &str) -> PathBuf {
        self.site.archive_of(&self.primary).backup(label)
    }

    fn objects(&self, label: &str) -> usize {
        fs::read_dir(self.place(label)).map_or(0, Iterator::count)
    }
}

/// A backup that waits for a segment.
struct HeldBackup {
    backup: Running,
    archive: Archive,
    segment: String,
    stored: Vec<u8>,
}

impl HeldBackup {
    fn go_on(self) -> Outcome {
        self.archive.replace(&self.segment, &self.stored);
        self.backup.wait()
    }
}

const COUNT: &str = "SELECT count(*), (SELECT count(*) FROM pgbench_history) FROM t";

#[test]
fn a_backup_of_a_standby_under_load_is_recovered() {
    let mut pair = Pair::start();
    pair.configure();
    pair.primary.postgres_program("pgbench").arg("-i").arg("-q").arg(pair.primary.conninfo()).run().expect(0);
    let load = pair.primary.postgres_program("pgbench").args(["-c", "2", "-T", "4", "-n"]);
    let load = load.arg(pair.primary.conninfo()).spawn();
    wait_until("the load to reach the standby", PATIENCE, || {
        pair.standby.try_psql("SELECT count(*) > 0 FROM pgbench_history").stdout.trim() == "t"
    });
    pair.standby.back_up("one");
    load.wait().expect(0);
    let last = pair.primary.switch_wal();
    pair.primary.wait_archived(&last);
    let counted = pair.primary.psql(COUNT);

    let manifest = fs::read(pair.place("one").join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["from_standby"], true);
    assert_eq!(manifest["start"]["snapshot"], serde_json::Value::Null);
    assert!(manifest["backup_label"].as_str().unwrap().contains("BACKUP FROM: standby"));

    pair.standby.stop(Stop::Fast);
    // The copy has the standby's configuration, and therefore its socket.
    let into = pair.site.directory().join("into");
    pair.standby.recover(&into, &["--latest", "--wait"]).run().expect(0);
    assert!(!into.join("standby.signal").exists());
    assert_eq!(pair.standby.psql(COUNT), counted);
    assert_eq!(pair.standby.psql("SELECT pg_is_in_recovery()"), "f");
    let balances =
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)";
    assert_eq!(pair.standby.psql(balances), "t");
    pair.standby.stop_recovered(&into);
    pair.standby.check_pages(&into);
    // The state at the end of the backup, and no later.
    let immediate = pair.site.directory().join("immediate");
    pair.standby.recover(&immediate, &["--target-immediate", "--wait"]).run().expect(0);
    pair.standby.stop_recovered(&immediate);
}

#[test]
fn without_a_word_with_the_primary_the_backup_waits_for_its_wal() {
    let pair = Pair::start();
    pair.primary.psql("INSERT INTO t VALUES (0)");
    pair.standby.wait_for_row("SELECT count(*) FROM t", "20001");
    // The backup's own server is in recovery, so nothing has to be configured.
    let backup = pair.standby.pgark(&["base-backup", "--checkpoint", "fast", "--label", "one"]).spawn();
    let [_, stderr] = backup.output_paths().map(ToOwned::to_owned);
    wait_until("the operator is told what is waited for", PATIENCE, || {
        fs::read_to_string(&stderr).unwrap().contains("SELECT pg_switch_wal()")
    });
    assert!(!pair.place("one").join("manifest.json").exists(), "it exists without its WAL");
    pair.primary.switch_wal();
    let outcome = backup.wait().expect(0);
    assert!(outcome.stdout.contains("taken from a standby"), "{outcome}");
}

#[test]
fn a_promotion_ends_the_backup() {
    let mut pair = Pair::start();
    pair.configure();
    let held = pair.hold_a_backup();
    pair.standby.psql("SELECT pg_promote()");
    pair.standby.wait_promoted();
    held.go_on().expect(3).says("promoted");
    assert_eq!(pair.objects("one"), 0);

    // It is a primary now, and is backed up as one.
    pair.primary.stop(Stop::Immediate);
    pair.standby.back_up("two");
    let manifest = fs::read_to_string(pair.place("two").join("manifest.json")).unwrap();
    assert!(manifest.contains("\"from_standby\": false"));
}

#[test]
fn a_primary_that_is_none_or_leaves_pages_out_is_refused() {
    let mut pair = Pair::start();
    pair.configure();
    let take =
        |pair: &Pair| pair.standby.pgark(&["base-backup", "--checkpoint", "fast", "--label", "one"]).run();
    pair.primary.psql("ALTER SYSTEM SET full_page_writes = off");
    pair.primary.psql("SELECT pg_reload_conf()");
    pair.primary.wait_for_row("SHOW full_page_writes", "off");
    take(&pair).expect(2).says("full_page_writes = off").says("HINT:");
    let standby = pair.standby.conninfo();
    pair.standby.config.set("connection.conninfo", standby.as_str());
    take(&pair).expect(2).says("is also a standby");
    // If the primary is not configured, the standby itself reports it.
    pair.primary.psql("INSERT INTO t VALUES (0)");
    pair.catch_up();
    pair.standby.config.set("connection.conninfo", "");
    take(&pair).expect(3).says("full_page_writes");
    assert_eq!(pair.objects("one"), 0);
}

/// The type and the parent of a backup, and whether it was taken from a standby.
fn kind_of(pair: &Pair, label: &str) -> (String, bool) {
    let manifest = fs::read(pair.place(label).join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let parent = manifest["type"]["incremental"]["parent"].as_str().unwrap_or("none").to_owned();
    (parent, manifest["from_standby"].as_bool().unwrap())
}

#[test]
fn a_chain_goes_on_from_the_primary_to_its_standby_and_back() {
    let mut pair = Pair::start_with(|cluster| {
        let summaries = if cluster.is_from(17) { "summarize_wal = on\n" } else { "" };
        format!("autovacuum = off\n{summaries}")
    });
    pair.configure();
    let state = "SELECT (SELECT sum(hashtext(u::text)) FROM u), (SELECT count(*) FROM t)";
    pair.primary
        .psql("CREATE TABLE u AS SELECT g AS a, repeat('x', 200) AS b FROM generate_series(1, 10000) g");
    let take = |cluster: &Cluster, kind: &str, label: &str| {
        cluster
            .pgark(&["base-backup", "--checkpoint", "fast", "--type", kind, "--label", label])
            .run()
            .expect(0)
    };
    take(&pair.primary, "full", "0-primary");
    // The standby has no later checkpoint, so its backup would begin before the other one ended.
    let early = take(&pair.standby, "incremental", "early");
    assert!(early.stderr.contains("the last checkpoint of the primary); taking a full backup"), "{early}");
    fs::remove_dir_all(pair.place("early")).unwrap();

    let mut states = BTreeMap::new();
    for (label, parent, change) in [
        ("1-standby", "0-primary", "UPDATE u SET b = 'changed' WHERE a % 1000 = 0"),
        ("2-standby", "1-standby", "DELETE FROM u WHERE a > 9000; TRUNCATE t"),
        ("3-primary", "2-standby", "UPDATE u SET b = 'again' WHERE a % 777 = 0; CREATE TABLE v AS TABLE u"),
        ("4-standby", "3-primary", "DELETE FROM u WHERE a < 500; INSERT INTO t SELECT generate_series(1, 9)"),
    ] {
        let from_standby = label.ends_with("standby");
        pair.primary.psql(change);
        pair.primary.psql("VACUUM u");
        pair.catch_up();
        let taken = take(if from_standby { &pair.standby } else { &pair.primary }, "incremental", label);
        let summarized = used_summaries(&taken.stderr, parent);
        assert_eq!(summarized, pair.primary.is_from(17), "{taken}");
        assert_eq!(kind_of(&pair, label), (parent.to_owned(), from_standby), "{label}");
        states.insert(label, pair.primary.psql(state));
    }
    let last = pair.primary.switch_wal();
    pair.primary.wait_archived(&last);
    pair.standby.stop(Stop::Fast);
    pair.primary.stop(Stop::Fast);

    for label in ["3-primary", "4-standby"] {
        // A copy has the configuration of its server, and therefore its socket.
        let server = if label.ends_with("standby") { &pair.standby } else { &pair.primary };
        let into = pair.site.directory().join(label);
        let options = ["--backup", label, "--target-immediate", "--target-action", "promote", "--wait"];
        server.recover(&into, &options).run().expect(0);
        assert_eq!(server.psql(state), states[label], "{label}");
        server.check_relations();
        server.stop_recovered(&into);
        server.check_pages(&into);
    }
}

/// With such a copy, PostgreSQL would declare the backup consistent too early.
#[test]
fn a_pg_control_from_before_the_start_point_is_no_part_of_a_backup() {
    let mut pair = Pair::start();
    pair.configure();
    pair.catch_up();
    pair.standby.psql("CHECKPOINT");
    let old = pair.standby.read("global/pg_control");
    pair.primary.psql("INSERT INTO t SELECT generate_series(1, 1000)");
    let held = pair.hold_a_backup();
    // As if the copy missed the restartpoint at which the backup begins.
    pair.standby.write("global/pg_control", &old);
    held.go_on().expect(3).says("begins only at").says("Take the backup again");
    assert_eq!(pair.objects("one"), 0);
}
