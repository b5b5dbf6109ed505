//! `pgark base-backup --type incremental` and `differential`: changes are stored, and the restored cluster is complete.

use crate::backup_stream::stream;
use crate::support::{
    Cluster, Outcome, Run, Site, Stop, Template, create_private_directory, files_below, used_summaries,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A running primary that archives, with a table of some hundred pages.
fn primary(site: &Site) -> Cluster {
    primary_with(site, "")
}

pub fn primary_with(site: &Site, settings: &str) -> Cluster {
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.append_conf(&format!("autovacuum = off\n{settings}"));
    primary.start();
    primary.psql("CREATE TABLE t AS SELECT g AS a, repeat('x', 200) AS b FROM generate_series(1, 10000) g");
    primary.psql("CREATE INDEX ON t (a)");
    primary
}

pub fn take(cluster: &Cluster, kind: &str, label: &str) -> Outcome {
    cluster.pgark(&["base-backup", "--checkpoint", "fast", "--type", kind, "--label", label]).run()
}

pub fn manifest(site: &Site, cluster: &Cluster, label: &str) -> serde_json::Value {
    let place = site.archive_of(cluster).backup(label);
    serde_json::from_slice(&fs::read(place.join("manifest.json")).unwrap()).unwrap()
}

/// The label of a backup's parent; empty for a full one.
pub fn parent_of(site: &Site, cluster: &Cluster, label: &str) -> String {
    let manifest = manifest(site, cluster, label);
    manifest["type"]["incremental"]["parent"].as_str().unwrap_or_default().to_owned()
}

/// The result of a query after a recovery to the end of this backup.
#[track_caller]
pub fn after_recovery(cluster: &Cluster, label: &str, into: &Path, sql: &str) -> String {
    let options =
        ["--backup", label, "--target-immediate", "--target-action", "promote", "--wait", "--pg-bin"];
    let bin = cluster.pg_bin();
    cluster.recover(into, &options).arg(bin).run().expect(0);
    let answer = cluster.psql(sql);
    cluster.check_relations();
    cluster.stop_recovered(into);
    cluster.check_pages(into);
    answer
}

#[test]
fn every_backup_of_a_chain_restores_to_its_moment() {
    let site = Site::with_servers(1);
    let mut primary = primary(&site);
    primary.psql("CREATE TABLE truncated AS SELECT * FROM t; CREATE TABLE dropped AS SELECT * FROM t");
    primary.psql("CREATE TABLE rewritten AS SELECT * FROM t");
    let state = "SELECT string_agg(line, '/' ORDER BY line) FROM (SELECT count(*) || ',' || sum(hashtext(t::text)) FROM t \
         UNION ALL SELECT count(*) || ',' || sum(hashtext(t::text)) FROM truncated t \
         UNION ALL SELECT count(*) || ',' || sum(hashtext(t::text)) FROM rewritten t) AS s(line)";
    let mut states = BTreeMap::new();
    let mut backup = |primary: &Cluster, kind: &str, label: &'static str| {
        take(primary, kind, label).expect(0);
        states.insert(label, primary.psql(state));
    };
    backup(&primary, "full", "0-full");
    primary.psql("UPDATE t SET b = 'changed' WHERE a % 1000 = 0");
    primary.psql("DELETE FROM truncated WHERE a > 5000");
    primary.psql("VACUUM truncated");
    backup(&primary, "incremental", "1-incremental");
    primary.psql("INSERT INTO truncated SELECT a + 20000, b FROM t LIMIT 3000; DROP TABLE dropped");
    primary.psql("VACUUM FULL rewritten");
    backup(&primary, "incremental", "2-incremental");
    primary.psql("UPDATE t SET b = 'again' WHERE a % 777 = 0; CREATE TABLE fresh AS SELECT 1 AS a");
    backup(&primary, "differential", "3-differential");
    primary.psql("DELETE FROM t WHERE a < 100");
    primary.psql("VACUUM t");
    backup(&primary, "incremental", "4-incremental");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);

    let parents = ["1-incremental", "2-incremental", "3-differential", "4-incremental"]
        .map(|label| parent_of(&site, &primary, label));
    assert_eq!(parents, ["0-full", "1-incremental", "0-full", "3-differential"]);
    let bytes = |label: &str| manifest(&site, &primary, label)["totals"]["file_bytes"].as_u64().unwrap();
    assert!(bytes("1-incremental") * 2 < bytes("0-full"), "{}", bytes("1-incremental"));
    for (label, expected) in states {
        let into = site.directory().join(label);
        assert_eq!(after_recovery(&primary, label, &into, state), expected, "{label}");
    }
}

#[test]
fn a_restored_chain_is_what_its_backups_hold() {
    let site = Site::with_servers(1);
    let mut primary = primary(&site);
    take(&primary, "full", "full").expect(0);
    primary.psql("UPDATE t SET b = 'changed' WHERE a % 1000 = 0");
    take(&primary, "incremental", "one").expect(0);
    primary.psql("DELETE FROM t WHERE a > 9000");
    primary.psql("VACUUM t");
    take(&primary, "incremental", "two").expect(0);
    primary.stop(Stop::Fast);
    let into = site.directory().join("restored");
    let plan = primary.recover(&into, &["--target-immediate", "--dry-run"]).run().expect(0);
    assert!(plan.stdout.contains("chain        full → one → two"), "{plan}");
    primary.recover(&into, &["--target-immediate"]).run().expect(0);
    let label = fs::read_to_string(into.join("backup_label")).unwrap();
    assert!(!label.contains("INCREMENTAL"), "{label}");
    assert!(!files_below(&into).iter().any(|path| path.display().to_string().contains("INCREMENTAL.")));
    // pgark adds these files for the recovery; they are not part of the backup.
    for name in ["recovery.signal", "postgresql.auto.conf"] {
        fs::remove_file(into.join(name)).unwrap();
    }
    let verify = primary.postgres_program("pg_verifybackup").args(["-n", "-i", "postgresql.auto.conf"]);
    verify.arg(&into).run().expect(0);
}

/// Unpacks the packs of a backup without pgark.
pub fn unpack(site: &Site, cluster: &Cluster, label: &str, to: &Path) {
    create_private_directory(to);
    let place = site.archive_of(cluster).backup(label);
    for pack in manifest(site, cluster, label)["packs"].as_array().unwrap() {
        let object = place.join(format!("pack-{:06}", pack["number"].as_u64().unwrap()));
        let script = "set -e; lz4 -dc <\"$0\" | tar --extract --directory \"$1\"";
        Run::new("/bin/bash").args(["-o", "pipefail", "-c", script]).arg(&object).arg(to).run().expect(0);
    }
    let script = "lz4 -dc <\"$0\" >\"$1\"";
    let list = to.join("backup_manifest");
    Run::new("/bin/sh").args(["-c", script]).arg(place.join("backup_manifest")).arg(list).run().expect(0);
}

#[test]
fn pg_combinebackup_makes_the_same_data_directory() {
    let site = Site::with_servers(1);
    let mut primary = primary(&site);
    if !primary.is_from(17) {
        eprintln!("skipped: pg_combinebackup comes with PostgreSQL 17");
        return;
    }
    take(&primary, "full", "full").expect(0);
    primary.psql("UPDATE t SET b = 'changed' WHERE a % 1000 = 0; CREATE TABLE fresh AS SELECT * FROM t");
    take(&primary, "incremental", "one").expect(0);
    primary.psql("DELETE FROM t WHERE a > 9000; UPDATE fresh SET b = 'y' WHERE a = 17");
    primary.psql("VACUUM t");
    take(&primary, "incremental", "two").expect(0);
    primary.stop(Stop::Fast);
    let directory = |name: &str| site.directory().join(name);
    for label in ["full", "one", "two"] {
        unpack(&site, &primary, label, &directory(label));
        primary.postgres_program("pg_verifybackup").arg("-n").arg(directory(label)).run().expect(0);
    }
    let combine = primary.postgres_program("pg_combinebackup").args(["full", "one", "two"].map(directory));
    combine.args(["--no-sync", "-o"]).arg(directory("combined")).run().expect(0);
    primary.recover(&directory("restored"), &["--target-immediate"]).run().expect(0);
    let content = |name: &str| -> BTreeMap<String, Vec<u8>> {
        let root = directory(name);
        let relative = |path: &Path| path.strip_prefix(&root).unwrap().display().to_string();
        let ours = ["backup_manifest", "recovery.signal", "postgresql.auto.conf"];
        let files = files_below(&root).into_iter().filter(|path| !ours.contains(&relative(path).as_str()));
        files.map(|path| (relative(&path), fs::read(&path).unwrap())).collect()
    };
    let (combined, restored) = (content("combined"), content("restored"));
    let names = |content: &BTreeMap<String, Vec<u8>>| content.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&combined), names(&restored));
    for (path, bytes) in combined {
        assert!(bytes == restored[&path], "{path}");
    }
}

/// The new database's pages have the paths of the old one's, and LSNs older than the parent: only the row in
/// `pg_database` reveals that they are different.
#[test]
fn a_database_that_was_made_anew_under_a_known_number_comes_back() {
    let site = Site::with_servers(1);
    if !site.cluster("version").is_from(15) {
        eprintln!("skipped: a database's number can be chosen from PostgreSQL 15 on");
        return;
    }
    let mut primary = primary(&site);
    for name in ["one", "other"] {
        primary.psql(&format!("CREATE DATABASE {name}"));
        primary.psql_in(name, &format!("CREATE TABLE {name} AS SELECT generate_series(1, 5000) AS a"));
    }
    let create =
        |template: &str| format!("CREATE DATABASE d TEMPLATE {template} STRATEGY file_copy OID 50000");
    primary.psql(&create("one"));
    take(&primary, "full", "full").expect(0);
    primary.psql("DROP DATABASE d");
    primary.psql(&create("other"));
    take(&primary, "incremental", "incremental").expect(0);
    assert_eq!(parent_of(&site, &primary, "incremental"), "full");
    let state =
        "SELECT relname, (SELECT count(*) FROM other) FROM pg_class WHERE relname IN ('one', 'other')";
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    let into = site.directory().join("restored");
    primary.recover(&into, &["--target-immediate", "--target-action", "promote"]).run().expect(0);
    primary.start_recovered(&into);
    primary.wait_promoted();
    assert_eq!(primary.psql_in("d", state), "other|5000");
    primary.check_relations();
    primary.stop_recovered(&into);
}

#[test]
fn wal_summaries_and_pages_tell_the_same() {
    let site = Site::with_servers(1);
    if !site.cluster("version").is_from(17) {
        eprintln!("skipped: WAL summaries come with PostgreSQL 17");
        return;
    }
    let mut primary = primary_with(&site, "summarize_wal = on\n");
    for table in ["truncated", "dropped", "vacuumed", "still"] {
        primary.psql(&format!("CREATE TABLE {table} AS SELECT * FROM t"));
    }
    take(&primary, "full", "full").expect(0);
    primary.psql("UPDATE t SET b = 'changed' WHERE a % 1000 = 0");
    primary.psql("DELETE FROM truncated WHERE a > 5000");
    primary.psql("VACUUM truncated");
    primary.psql("INSERT INTO truncated SELECT a + 20000, b FROM t LIMIT 3000; DROP TABLE dropped");
    primary.psql("VACUUM FULL vacuumed");
    primary.psql("CREATE DATABASE copied STRATEGY file_copy");
    let state = "SELECT string_agg(line, '/' ORDER BY line) FROM (\
         SELECT 't' || count(*) || ',' || sum(hashtext(t::text)) FROM t \
         UNION ALL SELECT 'u' || count(*) || ',' || sum(hashtext(t::text)) FROM truncated t \
         UNION ALL SELECT 'v' || count(*) || ',' || sum(hashtext(t::text)) FROM vacuumed t \
         UNION ALL SELECT 's' || count(*) || ',' || sum(hashtext(t::text)) FROM still t) AS s(line)";
    let expected = primary.psql(state);
    let read_bytes = |kind: &str, label: &str| {
        let run = ["base-backup", "--checkpoint", "fast", "--type", kind, "--label", label, "--json"];
        let taken = primary.pgark(&run).run().expect(0);
        let summary: serde_json::Value = serde_json::from_str(&taken.stdout).unwrap();
        (summary["read_bytes"].as_u64().unwrap(), taken.stderr)
    };
    let (by_summaries, said) = read_bytes("differential", "summaries");
    assert!(used_summaries(&said, "full"), "{said}");
    primary.psql("ALTER SYSTEM SET summarize_wal = off");
    primary.psql("SELECT pg_reload_conf()");
    primary.wait_for_row("SHOW summarize_wal", "off");
    let (by_pages, said) = read_bytes("differential", "pages");
    assert!(
        said.contains("reading all files to find changes since backup full: summarize_wal is off"),
        "{said}"
    );
    assert!(by_summaries * 2 < by_pages, "{by_summaries} and {by_pages}");
    // Changes not summarized meanwhile are never summarized once their WAL is gone.
    primary.psql("UPDATE t SET b = 'unseen' WHERE a = 7");
    primary.psql("ALTER SYSTEM SET wal_summary_keep_time = '1min'");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    for label in ["summaries", "pages"] {
        let into = site.directory().join(label);
        assert_eq!(after_recovery(&primary, label, &into, state), expected, "{label}");
    }
    for summary in files_below(&primary.data().join("pg_wal/summaries")) {
        fs::remove_file(summary).unwrap();
    }
    primary.start();
    primary.psql("ALTER SYSTEM SET summarize_wal = on");
    primary.psql("SELECT pg_reload_conf()");
    primary.wait_for_row("SHOW summarize_wal", "on");
    let taken = take(&primary, "differential", "gap").expect(0);
    assert!(taken.stderr.contains("there is no WAL summary of"), "{taken}");
    primary.stop(Stop::Fast);
    let into = site.directory().join("gap");
    let answer = after_recovery(&primary, "gap", &into, "SELECT b FROM t WHERE a = 7");
    assert_eq!(answer, "unseen");
}

/// The privilege to take backups does not include reading summaries.
#[test]
fn who_may_not_read_wal_summaries_gets_a_right_backup_and_is_told() {
    let site = Site::with_servers(1);
    if !site.cluster("version").is_from(17) {
        eprintln!("skipped: WAL summaries come with PostgreSQL 17");
        return;
    }
    let mut primary = primary_with(&site, "summarize_wal = on\n");
    primary.psql("REVOKE EXECUTE ON FUNCTION pg_wal_summary_contents(bigint, pg_lsn, pg_lsn) FROM PUBLIC");
    primary.psql(
        "CREATE ROLE backup LOGIN REPLICATION; GRANT pg_read_all_settings, pg_monitor TO backup; \
         GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean), pg_switch_wal() TO backup",
    );
    let conninfo = primary.conninfo().replace("user=postgres", "user=backup");
    primary.config.set("connection.conninfo", conninfo.as_str());
    take(&primary, "full", "full").expect(0);
    primary.psql("UPDATE t SET b = 'changed' WHERE a % 1000 = 0");
    let taken = take(&primary, "incremental", "one").expect(0);
    assert!(taken.stderr.contains("reading all files to find changes"), "{taken}");
    assert!(taken.stderr.contains("pg_wal_summary_contents"), "{taken}");
    assert_eq!(parent_of(&site, &primary, "one"), "full");
    let streamed = stream(&primary, "streamed").args(["--type", "incremental"]).run().expect(0);
    assert!(
        streamed.stderr.contains("lacks the privilege to call pg_wal_summary_contents; taking a full backup"),
        "{streamed}"
    );
    assert_eq!(parent_of(&site, &primary, "streamed"), "");
    primary.stop(Stop::Fast);
    primary.config.set("connection.conninfo", primary.conninfo().as_str());
    let into = site.directory().join("into");
    let sql = "SELECT count(*) FROM t WHERE b = 'changed'";
    assert_eq!(after_recovery(&primary, "one", &into, sql), "10");
}

/// Without checksums, VACUUM marks heap pages as all-visible without changing their LSNs.
#[test]
fn rows_deleted_after_a_recovery_stay_deleted_without_checksums() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster_of("primary", Template { checksums: false, ..Template::default() });
    primary.archive();
    primary.append_conf("autovacuum = off\n");
    primary.start();
    primary.psql("CREATE TABLE t (a int); CREATE INDEX ON t (a)");
    primary.psql("INSERT INTO t SELECT generate_series(1, 10000)");
    take(&primary, "full", "full").expect(0);
    primary.psql("VACUUM t");
    let told = "holds no visibility maps: run VACUUM";
    assert!(take(&primary, "incremental", "one").expect(0).stdout.contains(told));
    let json = ["base-backup", "--checkpoint", "fast", "--type", "incremental", "--label", "two", "--json"];
    let summary = primary.pgark(&json).run().expect(0);
    let summary: serde_json::Value = serde_json::from_str(&summary.stdout).unwrap();
    assert!(summary["notes"][0].as_str().unwrap().contains(told), "{summary}");
    let plan = primary.recover(&site.directory().join("plan"), &["--dry-run", "--target-immediate"]).run();
    assert!(plan.expect(0).stdout.contains("hold no visibility maps: run VACUUM"));
    let combined = primary.pgark(&["combine", "two", "--label", "combined"]).run().expect(0);
    assert!(combined.stdout.contains(told), "{combined}");
    take(&primary, "differential", "three").expect(0);
    assert_eq!(parent_of(&site, &primary, "three"), "combined");
    primary.stop(Stop::Fast);
    for label in ["one", "two", "three"] {
        let into = site.directory().join(label);
        let options =
            ["--backup", label, "--target-immediate", "--target-action", "promote", "--wait", "--pg-bin"];
        primary.recover(&into, &options).arg(primary.pg_bin()).run().expect(0);
        primary.psql("DELETE FROM t WHERE a % 2 = 0");
        let by_index = primary.psql(
            "SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM t WHERE a > 0",
        );
        assert_eq!(by_index.trim(), "5000", "{label}");
        primary.stop_recovered(&into);
    }
}

/// Nothing records the change for the next backup: pages changed meanwhile have no new LSN.
#[test]
fn rows_deleted_after_a_recovery_stay_deleted_where_checksums_were_off_for_a_while() {
    for settings in ["", "summarize_wal = on\n"] {
        let site = Site::with_servers(1);
        let mut primary = site.cluster("primary");
        if !settings.is_empty() && !primary.is_from(17) {
            eprintln!("skipped: WAL summaries come with PostgreSQL 17");
            return;
        }
        primary.archive();
        primary.append_conf(&format!("autovacuum = off\n{settings}"));
        primary.start();
        for table in ["t", "changed", "crashed"] {
            primary.psql(&format!("CREATE TABLE {table} (a int); CREATE INDEX ON {table} (a)"));
            primary.psql(&format!("INSERT INTO {table} SELECT generate_series(1, 10000)"));
        }
        take(&primary, "full", "full").expect(0);
        let switch_checksums = |primary: &mut Cluster, how: &str| {
            primary.stop(Stop::Fast);
            primary.postgres_program("pg_checksums").args([how, "-D"]).arg(primary.data()).run().expect(0);
            primary.start();
        };
        switch_checksums(&mut primary, "--disable");
        primary.psql("VACUUM t");
        primary.psql("UPDATE changed SET a = -a WHERE a % 1000 = 0; INSERT INTO changed VALUES (10001)");
        primary.psql("VACUUM changed, crashed");
        primary.kill9();
        primary.start();
        switch_checksums(&mut primary, "--enable");
        for (label, before) in [("one", "DELETE FROM changed WHERE a = 1"), ("two", "VACUUM t, changed")] {
            primary.psql(before);
            take(&primary, "incremental", label).expect(0);
        }
        assert_eq!(parent_of(&site, &primary, "one"), "full");
        let expected = primary.psql("SELECT count(*), sum(a) FROM changed");
        primary.stop(Stop::Fast);
        for label in ["one", "two"] {
            let into = site.directory().join(label);
            let options =
                ["--backup", label, "--target-immediate", "--target-action", "promote", "--wait", "--pg-bin"];
            primary.recover(&into, &options).arg(primary.pg_bin()).run().expect(0);
            assert_eq!(primary.psql("SELECT count(*), sum(a) FROM changed"), expected, "{label}");
            for table in ["t", "changed", "crashed"] {
                primary.psql(&format!("DELETE FROM {table} WHERE a % 2 = 0"));
                // An index-only scan, which skips the heap where the map permits it.
                let by_index = format!(
                    "SET enable_seqscan = off; SET enable_bitmapscan = off; \
                     SELECT count(*) FROM {table} WHERE a > -20000"
                );
                let by_heap = format!("SET enable_indexscan = off; SELECT count(*) FROM {table}");
                assert_eq!(primary.psql(&by_index), primary.psql(&by_heap), "{label} {table}");
            }
            primary.check_relations();
            primary.stop_recovered(&into);
            primary.check_pages(&into);
        }
    }
}

/// A disk may temporarily return wrong bytes.
#[test]
fn a_page_that_was_damaged_only_in_the_parent_comes_back_right() {
    let site = Site::with_servers(1);
    let mut primary = primary(&site);
    let file = primary.data().join(primary.psql("SELECT pg_relation_filepath('t')"));
    primary.psql("CHECKPOINT");
    let right = fs::read(&file).unwrap();
    let mut damaged = right.clone();
    damaged[2 * 8192 + 5000] ^= 1;
    fs::write(&file, damaged).unwrap();
    take(&primary, "full", "full").expect(0).says("block 2 of");
    fs::write(&file, right).unwrap();
    let taken = take(&primary, "incremental", "one").expect(0);
    assert!(!taken.stderr.contains("damaged"), "{taken}");
    primary.stop(Stop::Fast);
    let into = site.directory().join("into");
    assert_eq!(after_recovery(&primary, "one", &into, "SELECT count(*) FROM t"), "10000");
}

#[test]
fn a_full_backup_is_taken_where_none_can_be_built_on() {
    let site = Site::with_servers(1);
    let mut primary = primary(&site);
    primary.config.set("backup.chain_max", 1);
    let expect_full = |primary: &Cluster, kind: &str, label: &str, why: &str| {
        let taken = take(primary, kind, label).expect(0);
        assert!(taken.stderr.contains(why) && taken.stderr.contains("taking a full backup"), "{taken}");
        assert_eq!(parent_of(&site, primary, label), "");
    };
    expect_full(&primary, "incremental", "first", "the repository has no suitable one");
    take(&primary, "incremental", "second").expect(0);
    assert_eq!(parent_of(&site, &primary, "second"), "first");
    expect_full(&primary, "incremental", "third", "backup.chain_max is 1");
    take(&primary, "differential", "fourth").expect(0);
    assert_eq!(parent_of(&site, &primary, "fourth"), "third");
    for label in ["first", "third"] {
        let pack = site.archive_of(&primary).backup(label).join("pack-000001");
        let content = fs::read(&pack).unwrap();
        fs::write(&pack, &content[1..]).unwrap();
    }
    expect_full(&primary, "differential", "fifth", "pack-000001\" differs from what was stored");
    primary.stop(Stop::Fast);
    primary.postgres_program("pg_checksums").args(["--disable", "-D"]).arg(primary.data()).run().expect(0);
    primary.start();
    expect_full(&primary, "incremental", "sixth", "data checksums were enabled or disabled");
    take(&primary, "incremental", "seventh").expect(0);
    assert_eq!(parent_of(&site, &primary, "seventh"), "sixth");
}

#[test]
fn a_backup_whose_parent_is_gone_is_not_recovered_from() {
    let site = Site::with_servers(1);
    let mut primary = primary(&site);
    take(&primary, "full", "old").expect(0);
    take(&primary, "full", "full").expect(0);
    take(&primary, "incremental", "orphan").expect(0);
    primary.stop(Stop::Fast);
    fs::remove_dir_all(site.archive_of(&primary).backup("full")).unwrap();
    let into = site.directory().join("restored");
    let plan = primary.recover(&into, &["--dry-run"]).run().expect(0);
    assert!(plan.stdout.contains("from backup  old"), "{plan}");
    assert!(plan.stdout.contains("backup orphan builds on backup full, which is missing"), "{plan}");
    let wanted = primary.recover(&into, &["--dry-run", "--backup", "orphan"]).run().expect(4);
    assert!(wanted.stderr.contains("backup orphan builds on backup full, which is missing"), "{wanted}");
}

#[test]
fn damage_in_any_backup_of_a_chain_is_noticed() {
    let site = Site::with_servers(1);
    let mut primary = primary(&site);
    take(&primary, "full", "full").expect(0);
    primary.psql("UPDATE t SET b = 'changed' WHERE a % 1000 = 0");
    take(&primary, "incremental", "one").expect(0);
    primary.stop(Stop::Fast);
    for label in ["full", "one"] {
        let pack = site.archive_of(&primary).backup(label).join("pack-000001");
        let content = fs::read(&pack).unwrap();
        let mut damaged = content.clone();
        // Damages many places, because not all of a pack is read: the list already describes unchanged files.
        damaged.iter_mut().step_by(1000).for_each(|byte| *byte ^= 0x10);
        fs::write(&pack, &damaged).unwrap();
        let into = site.directory().join("restored");
        let recovery = primary.recover(&into, &["--target-immediate"]).run().expect(4);
        assert!(recovery.stderr.contains("could not"), "{recovery}");
        assert!(!into.join("global/pg_control").exists());
        fs::write(&pack, &content).unwrap();
    }
    primary.recover(&site.directory().join("restored"), &["--target-immediate"]).run().expect(0);
}
