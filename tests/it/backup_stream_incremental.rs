//! `pgark base-backup --method stream --type incremental`: the changes sent by the server are equivalent to those that
//! pgark finds.

use crate::backup_stream::stream;
use crate::incremental::{after_recovery, manifest, parent_of, primary_with, take, unpack};
use crate::support::{
    Cluster, Outcome, Run, Site, Stop, Template, create_private_directory, files_below, used_summaries,
    wants_everything,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Enough memory for the server to extend files in large steps.
const SUMMARIES: &str = "summarize_wal = on\nshared_buffers = '128MB'\n";

/// Whether the server can send such backups; prints a message if not.
fn is_able(site: &Site) -> bool {
    let able = site.cluster("version").is_from(17);
    if !able {
        eprintln!("skipped: servers send incremental backups from PostgreSQL 17 on");
    }
    able
}

fn stream_changes(cluster: &Cluster, kind: &str, label: &str) -> Outcome {
    stream(cluster, label).args(["--type", kind]).run()
}

/// Parses an LSN, whatever its number of digits.
fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap();
    (u64::from_str_radix(high, 16).unwrap() << 32) | u64::from_str_radix(low, 16).unwrap()
}

/// Truncates pages with rows of the earlier backup, and then extends the table without using the new pages, like a bulk
/// load.
fn cut_off_and_make_room(primary: &Cluster, table: &str) {
    primary.psql(&format!("DELETE FROM {table} WHERE a > 100"));
    primary.psql(&format!("VACUUM {table}"));
    let pages = |what: &str| primary.psql(&format!("SELECT {what} FROM {table}")).parse::<u64>().unwrap();
    assert!(pages(&format!("DISTINCT pg_relation_size('{table}') / 8192")) < 10);
    let rows = "SELECT g, repeat('y', 200) FROM generate_series(20001, 24000) g";
    let file = primary.data().with_file_name("rows");
    primary.psql(&format!("COPY ({rows}) TO '{}'", file.display()));
    primary.psql(&format!("COPY {table} FROM '{}'", file.display()));
    let unused = format!("pg_relation_size('{table}') / 8192 - (max(ctid)::text::point)[0]::bigint - 1");
    assert!(pages(&unused) > 10);
}

#[test]
fn chains_of_streamed_and_local_backups_are_recovered() {
    let site = Site::with_servers(1);
    if !is_able(&site) {
        return;
    }
    let mut primary = primary_with(&site, SUMMARIES);
    let space = site.directory().join("space");
    create_private_directory(&space);
    primary.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    primary.psql("CREATE TABLE s TABLESPACE space AS SELECT * FROM t");
    primary.psql("CREATE TABLE truncated AS SELECT * FROM t; CREATE TABLE dropped AS SELECT * FROM t");
    primary.psql("CREATE TABLE visible AS SELECT * FROM t; CREATE INDEX ON visible (a)");
    primary.psql("VACUUM visible, truncated");
    let sum =
        |table: &str| format!("SELECT '{table}' || count(*) || ',' || sum(hashtext(x::text)) FROM {table} x");
    let state = format!(
        "SET enable_seqscan = off; SET enable_bitmapscan = off; \
         SELECT string_agg(line, '/' ORDER BY line) FROM ({} UNION ALL {} UNION ALL {} \
         UNION ALL SELECT 'v' || count(*) FROM visible WHERE a > 0) AS s(line)",
        sum("t"),
        sum("s"),
        sum("truncated")
    );
    let mut states = BTreeMap::new();
    let mut note = |primary: &Cluster, label: &'static str| {
        states.insert(label, primary.psql(&state));
    };
    stream_changes(&primary, "full", "0-stream").expect(0);
    primary.psql("UPDATE t SET b = 'changed' WHERE a % 1000 = 0; UPDATE s SET b = 'changed' WHERE a = 7");
    primary.psql("DELETE FROM visible WHERE a % 100 = 0; DROP TABLE dropped");
    cut_off_and_make_room(&primary, "truncated");
    stream_changes(&primary, "incremental", "1-stream").expect(0).says("changes since backup 0-stream");
    primary.psql("UPDATE t SET b = 'again' WHERE a % 777 = 0; DELETE FROM truncated WHERE a < 50");
    take(&primary, "incremental", "2-local").expect(0);
    primary.psql("DELETE FROM s WHERE a < 100; CREATE TABLE fresh AS SELECT * FROM t");
    stream_changes(&primary, "incremental", "3-stream").expect(0);
    note(&primary, "3-stream");
    primary.psql("INSERT INTO t SELECT a + 50000, b FROM fresh LIMIT 500");
    stream_changes(&primary, "differential", "4-stream").expect(0);
    note(&primary, "4-stream");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);

    let parents =
        ["1-stream", "2-local", "3-stream", "4-stream"].map(|label| parent_of(&site, &primary, label));
    assert_eq!(parents, ["0-stream", "1-stream", "2-local", "0-stream"]);
    let changed = manifest(&site, &primary, "1-stream");
    let full = manifest(&site, &primary, "0-stream");
    let bytes = |manifest: &serde_json::Value| manifest["totals"]["file_bytes"].as_u64().unwrap();
    assert!(bytes(&changed) * 2 < bytes(&full), "{}", bytes(&changed));
    let label = changed["backup_label"].as_str().unwrap();
    let from = label.lines().find_map(|line| line.strip_prefix("INCREMENTAL FROM LSN: ")).unwrap();
    assert_eq!(lsn(from), lsn(full["start"]["lsn"].as_str().unwrap()), "{label}");
    // Visibility maps are stored whole, as in every incremental backup.
    let list = site.archive_of(&primary).backup("1-stream").join("files");
    let listed = Run::new("lz4").arg("-dc").arg(list).run().expect(0).stdout;
    let incremental: Vec<&str> =
        listed.lines().filter(|line| line.contains("\"kind\":\"incremental\"")).collect();
    assert!(incremental.len() > 50, "{}", incremental.len());
    assert!(!incremental.iter().any(|line| line.contains("_vm\"") || line.contains("_fsm\"")));
    // The other recovery covers a chain of all kinds.
    states.retain(|label, _| *label == "3-stream" || wants_everything());
    for (label, expected) in states {
        let into = site.directory().join(label);
        let moved = site.directory().join(format!("space-{label}"));
        let mapping = format!("--tablespace-mapping={}={}", space.display(), moved.display());
        assert_eq!(after_mapped_recovery(&primary, label, &into, &mapping, &state), expected, "{label}");
    }
}

/// As [`after_recovery`], with the tablespace moved.
fn after_mapped_recovery(cluster: &Cluster, label: &str, into: &Path, mapping: &str, sql: &str) -> String {
    let options = [
        "--backup",
        label,
        "--target-immediate",
        "--target-action",
        "promote",
        "--wait",
        mapping,
        "--pg-bin",
    ];
    cluster.recover(into, &options).arg(cluster.pg_bin()).run().expect(0);
    let answer = cluster.psql(sql);
    cluster.check_relations();
    cluster.stop_recovered(into);
    answer
}

#[test]
fn pg_combinebackup_reads_a_chain_that_was_streamed() {
    let site = Site::with_servers(1);
    if !is_able(&site) {
        return;
    }
    let mut primary = primary_with(&site, SUMMARIES);
    stream_changes(&primary, "full", "full").expect(0);
    primary.psql("UPDATE t SET b = 'changed' WHERE a % 1000 = 0; CREATE TABLE fresh AS SELECT * FROM t");
    stream_changes(&primary, "incremental", "one").expect(0);
    cut_off_and_make_room(&primary, "fresh");
    stream_changes(&primary, "incremental", "two").expect(0);
    primary.stop(Stop::Fast);
    let directory = |name: &str| site.directory().join(name);
    for label in ["full", "one", "two"] {
        unpack(&site, &primary, label, &directory(label));
        primary.postgres_program("pg_verifybackup").arg("-n").arg(directory(label)).run().expect(0);
    }
    let combine = primary.postgres_program("pg_combinebackup").args(["full", "one", "two"].map(directory));
    combine.args(["--no-sync", "-o"]).arg(directory("combined")).run().expect(0);
    primary.pgark(&["combine", "two", "--label", "whole"]).run().expect(0);
    primary.recover(&directory("restored"), &["--backup", "whole", "--target-immediate"]).run().expect(0);
    // pgark adds these files for the recovery; they are not part of the backup.
    let added = ["backup_manifest", "recovery.signal", "postgresql.auto.conf"].map(PathBuf::from);
    let paths = |name: &str| -> BTreeSet<PathBuf> {
        let root = directory(name);
        let files = files_below(&root).into_iter();
        files
            .map(|path| path.strip_prefix(&root).unwrap().to_owned())
            .filter(|path| !added.contains(path))
            .collect()
    };
    assert_eq!(paths("combined"), paths("restored"));
    for path in paths("combined") {
        let bytes = |name: &str| fs::read(directory(name).join(&path)).unwrap();
        assert!(bytes("combined") == bytes("restored"), "{}", path.display());
    }
}

#[test]
fn what_the_server_cannot_send_is_sent_whole() {
    let site = Site::with_servers(1);
    let mut primary = primary_with(&site, "");
    stream_changes(&primary, "full", "full").expect(0);
    let expect_full = |primary: &Cluster, label: &str, why: &str| {
        let taken = stream_changes(primary, "incremental", label).expect(0);
        assert!(taken.stderr.contains(why) && taken.stderr.contains("taking a full backup"), "{taken}");
        assert_eq!(parent_of(&site, primary, label), "");
    };
    if !primary.is_from(17) {
        expect_full(&primary, "old", "does not send incremental backups; 17 and later do");
        return;
    }
    expect_full(&primary, "off", "while summarize_wal is off");
    // The WAL of this change was never summarized, and is gone.
    primary.psql("UPDATE t SET b = 'unseen' WHERE a = 7");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.psql("CHECKPOINT");
    primary.psql("ALTER SYSTEM SET summarize_wal = on");
    primary.psql("SELECT pg_reload_conf()");
    primary.wait_for_row("SHOW summarize_wal", "on");
    expect_full(&primary, "gap", "WAL summaries are required on timeline 1");
    primary.psql("UPDATE t SET b = 'seen' WHERE a = 8");
    stream_changes(&primary, "incremental", "changes").expect(0);
    assert_eq!(parent_of(&site, &primary, "changes"), "gap");
    primary.stop(Stop::Fast);
    let into = site.directory().join("into");
    let sql = "SELECT string_agg(b, ',' ORDER BY a) FROM t WHERE a IN (7, 8)";
    assert_eq!(after_recovery(&primary, "changes", &into, sql), "unseen,seen");
}

#[test]
fn a_standby_sends_what_changed_to_one_who_may_only_replicate() {
    let site = Site::with_servers(2);
    if !is_able(&site) {
        return;
    }
    let mut primary = site.cluster("primary");
    let mut standby = primary.copy("standby");
    primary.archive();
    primary.append_conf(SUMMARIES);
    primary.start();
    primary
        .psql("CREATE ROLE rep LOGIN REPLICATION; CREATE TABLE t AS SELECT generate_series(1, 10000) AS a");
    let segment = primary.switch_wal();
    primary.wait_archived(&segment);
    standby.archive();
    standby.stand_by();
    standby.append_conf(SUMMARIES);
    standby.append_conf(&format!("primary_conninfo = '{}'\n", primary.conninfo()));
    standby.start();
    standby.wait_for_row("SELECT count(*) FROM t", "10000");
    let (there, here) = (primary.conninfo(), standby.conninfo().replace("user=postgres", "user=rep"));
    standby.config.set("connection.conninfo", there.as_str());
    standby.config.set("connection.standby", here.as_str());
    stream_changes(&standby, "full", "one").expect(0);
    primary.psql("INSERT INTO t VALUES (10001)");
    // The standby's backup begins here, after the end of the previous one.
    primary.psql("CHECKPOINT");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    let lsn = primary.psql("SELECT pg_current_wal_lsn()");
    standby.wait_for_row(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"), "t");
    stream_changes(&standby, "incremental", "two").expect(0);
    assert_eq!(parent_of(&site, &standby, "two"), "one");
    standby.stop(Stop::Fast);
    let into = site.directory().join("into");
    let answer = standby.answer_after(&into, &["--backup", "two", "--latest"], "SELECT count(*) FROM t");
    assert_eq!(answer, "10001");
}

/// Otherwise the server would send the visibility map; see
/// `incremental::rows_deleted_after_a_recovery_stay_deleted_without_checksums`.
#[test]
fn rows_deleted_after_a_recovery_of_streamed_backups_stay_deleted_without_checksums() {
    let site = Site::with_servers(1);
    if !is_able(&site) {
        return;
    }
    let mut primary = site.cluster_of("primary", Template { checksums: false, ..Template::default() });
    primary.archive();
    primary.append_conf(&format!("autovacuum = off\n{SUMMARIES}"));
    primary.start();
    primary.psql("CREATE TABLE t (a int); CREATE INDEX ON t (a)");
    primary.psql("INSERT INTO t SELECT generate_series(1, 10000)");
    stream_changes(&primary, "full", "full").expect(0);
    primary.psql("VACUUM t");
    let one = stream_changes(&primary, "incremental", "one").expect(0);
    assert!(one.stdout.contains("holds no visibility maps: run VACUUM"), "{one}");
    primary.psql("UPDATE t SET a = a + 10000 WHERE a > 9990");
    stream_changes(&primary, "incremental", "two").expect(0);
    assert_eq!(["one", "two"].map(|label| parent_of(&site, &primary, label)), ["full", "one"]);
    primary.stop(Stop::Fast);
    for label in ["one", "two"] {
        let into = site.directory().join(label);
        let options =
            ["--backup", label, "--target-immediate", "--target-action", "promote", "--wait", "--pg-bin"];
        primary.recover(&into, &options).arg(primary.pg_bin()).run().expect(0);
        primary.psql("DELETE FROM t WHERE a % 2 = 0");
        let by_index =
            "SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM t WHERE a > 0";
        assert_eq!(primary.psql(by_index), "5000", "{label}");
        primary.check_relations();
        primary.stop_recovered(&into);
    }
}

#[test]
fn what_changed_across_a_promotion_is_not_asked_of_the_server() {
    let site = Site::with_servers(1);
    if !is_able(&site) {
        return;
    }
    let mut primary = primary_with(&site, SUMMARIES);
    primary.psql("CREATE TABLE truncated AS SELECT * FROM t");
    stream_changes(&primary, "full", "0-full").expect(0);
    primary.psql("UPDATE t SET b = 'before' WHERE a = 1");
    cut_off_and_make_room(&primary, "truncated");
    primary.stop(Stop::Fast);
    primary.stand_by();
    primary.start();
    primary.psql("SELECT pg_promote()");
    primary.wait_promoted();
    primary.psql("UPDATE t SET b = 'after' WHERE a = 2; INSERT INTO truncated SELECT a + 30000, b FROM t");
    let state = "SELECT string_agg(line, '/' ORDER BY line) FROM (\
         SELECT 't' || count(*) || ',' || sum(hashtext(t::text)) FROM t \
         UNION ALL SELECT 'u' || count(*) || ',' || sum(hashtext(t::text)) FROM truncated t) AS s(line)";
    let mut states = Vec::new();
    // pgark's own search for the same changes is right: it reads the summaries of each timeline.
    let local = take(&primary, "incremental", "1-local").expect(0);
    assert!(used_summaries(&local.stderr, "0-full"), "{local}");
    states.push(("1-local", primary.psql(state)));
    let streamed = stream_changes(&primary, "differential", "2-streamed").expect(0);
    assert!(streamed.stderr.contains("begins on timeline 1"), "{streamed}");
    assert!(streamed.stderr.contains("taking a full backup"), "{streamed}");
    states.push(("2-streamed", primary.psql(state)));
    primary.psql("DELETE FROM truncated WHERE a < 50; UPDATE t SET b = 'later' WHERE a = 3");
    stream_changes(&primary, "incremental", "3-streamed").expect(0);
    states.push(("3-streamed", primary.psql(state)));
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    let parents = ["1-local", "2-streamed", "3-streamed"].map(|label| parent_of(&site, &primary, label));
    assert_eq!(parents, ["0-full", "", "2-streamed"]);
    for (label, expected) in states {
        let into = site.directory().join(label);
        assert_eq!(after_recovery(&primary, label, &into, state), expected, "{label}");
    }
}
