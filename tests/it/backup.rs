//! `pgark base-backup`: standard tools can restore it, and an invalid backup is not listed.

use crate::support::{
    Cluster, PATIENCE, Run, Site, Stop, create_private_directory, pgark_program, wait_until,
};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A running primary that archives, with some rows.
fn primary(site: &Site) -> Cluster {
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t AS SELECT g AS a, repeat('x', 100) AS b FROM generate_series(1, 20000) g");
    primary
}

fn base_backup(cluster: &Cluster, label: &str) -> Run {
    cluster.pgark(&["base-backup", "--checkpoint", "fast", "--label", label])
}

fn manifest(place: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(place.join("manifest.json")).unwrap()).unwrap()
}

/// The names of a backup's objects.
fn objects(place: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(place)
        .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

/// Unpacks a backup without pgark; tablespaces into `spaces/<oid>`.
fn unpack(place: &Path, decoder: &str, data: &Path, spaces: &Path) {
    create_private_directory(data);
    for pack in manifest(place)["packs"].as_array().unwrap() {
        let target = match pack["tablespace"].as_u64() {
            None => data.to_owned(),
            Some(oid) => {
                let target = spaces.join(oid.to_string());
                if !target.exists() {
                    create_private_directory(&target);
                }
                target
            }
        };
        let object = place.join(format!("pack-{:06}", pack["number"].as_u64().unwrap()));
        let script = "set -e; $0 <\"$1\" | tar --extract --directory \"$2\"";
        let run = Run::new("/bin/bash").args(["-o", "pipefail", "-c", script]).arg(decoder).arg(&object);
        run.arg(&target).run().expect(0);
    }
    let script = "$0 <\"$1\" >\"$2\"";
    Run::new("/bin/sh")
        .args(["-c", script, decoder])
        .arg(place.join("backup_manifest"))
        .arg(data.join("backup_manifest"))
        .run()
        .expect(0);
}

#[test]
fn a_backup_under_load_restores_with_stock_tools() {
    for (method, decoder) in [("lz4", "lz4 -dc"), ("zstd", "zstd -dc"), ("none", "lz4 -dc")] {
        let site = Site::with_servers(2);
        let mut primary = primary(&site);
        primary.config.set("compression.method", method);
        let space = site.directory().join("space");
        create_private_directory(&space);
        primary.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
        primary.psql("CREATE TABLE s TABLESPACE space AS SELECT generate_series(1, 1000) AS a");
        primary.postgres_program("pgbench").arg("-i").arg("-q").arg(primary.conninfo()).run().expect(0);
        let load =
            primary.postgres_program("pgbench").args(["-c", "2", "-T", "4", "-n"]).arg(primary.conninfo());
        let load = load.spawn();
        base_backup(&primary, "one").run().expect(0);
        load.wait().expect(0);
        let last = primary.switch_wal();
        primary.wait_archived(&last);
        let history = primary.psql("SELECT count(*) FROM pgbench_history");

        let mut restored = site.cluster("restored");
        fs::remove_dir_all(restored.data()).unwrap();
        let spaces = site.directory().join("spaces");
        create_private_directory(&spaces);
        let place = site.archive_of(&primary).backup("one");
        unpack(&place, decoder, &restored.data(), &spaces);
        let oid = primary.psql("SELECT oid FROM pg_tablespace WHERE spcname = 'space'");
        let link = restored.data().join("pg_tblspc").join(&oid);
        Run::new("/bin/ln").arg("-s").arg(spaces.join(&oid)).arg(&link).run().expect(0);
        restored.postgres_program("pg_verifybackup").arg("-n").arg(restored.data()).run().expect(0);

        restored.write("tablespace_map", format!("{oid} {}\n", spaces.join(&oid).display()));
        restored.append_conf(&format!(
            "unix_socket_directories = '{}'\narchive_mode = off\n",
            restored.socket_directory().display()
        ));
        restored.recover_from_archive();
        restored.start();
        restored.wait_promoted();
        assert_eq!(restored.psql("SELECT count(*) FROM pgbench_history"), history, "{method}");
        assert_eq!(restored.psql("SELECT count(*), (SELECT count(*) FROM s) FROM t"), "20000|1000");
        let balances = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)";
        assert_eq!(restored.psql(balances), "t");
        restored.stop(Stop::Fast);
        restored.check_pages(&restored.data());
    }
}

#[test]
fn a_backup_holds_the_files_that_pg_basebackup_copies() {
    let site = Site::with_servers(1);
    let primary = primary(&site);
    primary.psql("CREATE UNLOGGED TABLE u AS SELECT 1");
    if primary.version_num() >= 150_000 {
        primary.psql("CREATE UNLOGGED SEQUENCE us");
    }
    primary.psql("CREATE DATABASE other");
    for directory in ["base/pgsql_tmp", "mine"] {
        create_private_directory(&primary.data().join(directory));
    }
    for path in ["backup_label.old", "base/pgsql_tmp/x", "pg_replslot/x", "mine/file", "standby.signal.bak"] {
        primary.write(path, "x");
    }
    let copy = site.directory().join("copy");
    let run = primary.postgres_program("pg_basebackup").args(["-X", "none", "-c", "fast", "--no-sync", "-d"]);
    run.arg(primary.conninfo()).arg("-D").arg(&copy).run().expect(0);
    base_backup(&primary, "one").run().expect(0);
    let place = site.archive_of(&primary).backup("one");
    let ours = Run::new("lz4").arg("-dc").arg(place.join("backup_manifest")).run().expect(0).stdout;
    let theirs = fs::read_to_string(copy.join("backup_manifest")).unwrap();
    let paths = |text: &str| -> BTreeSet<String> {
        let manifest: serde_json::Value = serde_json::from_str(text).unwrap();
        manifest["Files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| file["Path"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(paths(&ours), paths(&theirs));
}

#[test]
fn archiving_that_does_not_work_is_found_before_the_copy() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.append_conf("archive_mode = on\narchive_command = 'false'\n");
    primary.config.set("backup.wal_deadline", "4s");
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    base_backup(&primary, "one")
        .run()
        .expect(3)
        .says("did not arrive")
        .says("archiver fails at")
        .says("HINT:");
    let place = site.archive_of(&primary).backup("one");
    assert_eq!(objects(&place), [""; 0]);

    primary.config.set("backup.wal_deadline", "300s");
    primary.append_conf("archive_command = 'true'\n");
    primary.psql("SELECT pg_reload_conf()");
    primary.switch_wal(); // which wakes the archiver of 13
    primary.wait_for_row("SELECT last_archived_wal IS NOT NULL FROM pg_stat_archiver", "t");
    primary.psql("INSERT INTO t VALUES (1)");
    base_backup(&primary, "two")
        .run()
        .expect(3)
        .says("archived WAL segment")
        .says("but not into")
        .within(PATIENCE);
}

#[test]
fn a_server_that_cannot_be_recovered_is_refused() {
    let site = Site::with_servers(2);
    let mut primary = site.cluster("primary");
    primary.start();
    base_backup(&primary, "one").run().expect(2).says("does not archive");
    primary.psql("CREATE ROLE low LOGIN");
    primary.stop(Stop::Fast);
    base_backup(&primary, "one").run().expect(3).says("could not connect").says("the server is running");

    let other = primary.copy("other");
    primary.archive();
    primary.start();
    let conninfo = format!("{} user=low", primary.conninfo());
    primary.config.set("connection.conninfo", conninfo.as_str());
    base_backup(&primary, "one").run().expect(2).says("permission denied").says("GRANT EXECUTE");
    let mut other = other;
    let conninfo = primary.conninfo();
    other.config.set("connection.conninfo", conninfo.as_str());
    base_backup(&other, "one").run().expect(4).says("does not run in");
    assert_eq!(objects(&site.archive_of(&primary).backup("one")), [""; 0]);
}

#[test]
fn a_label_names_one_backup() {
    let site = Site::with_servers(1);
    let primary = primary(&site);
    let outcome = base_backup(&primary, "one").arg("--json").run().expect(0);
    let summary: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(
        (summary["label"].as_str(), summary["damaged_pages"]["count"].as_u64()),
        (Some("one"), Some(0))
    );
    base_backup(&primary, "one").run().expect(4).says("already holds a backup one");
    base_backup(&primary, "../one").run().expect(2).says("is not a valid backup label");
    let place = site.archive_of(&primary).backup("one");
    let names = objects(&place);
    assert!(names.iter().any(|name| name == "manifest.json") && !names.iter().any(|name| name == "running"));
}

#[test]
fn an_interrupted_backup_leaves_nothing() {
    let site = Site::with_servers(1);
    let primary = primary(&site);
    let place = site.archive_of(&primary).backup("one");
    let start = |cluster: &Cluster| {
        cluster.psql("UPDATE t SET a = a + 1");
        let backup = cluster.pgark(&["base-backup", "--checkpoint", "spread", "--label", "one"]).spawn();
        wait_until("the mark of the backup", PATIENCE, || objects(&place) == ["running"]);
        // The session of an ended backup shows its last query for a while.
        cluster.wait_for_row(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg%backup%''one''%'",
            "1",
        );
        backup
    };
    let backup = start(&primary);
    backup.signal(Signal::SIGTERM);
    backup.wait().expect(3).says("interrupted");
    assert_eq!(objects(&place), [""; 0]);

    let backup = start(&primary);
    backup.signal(Signal::SIGKILL);
    backup.wait().killed_by(Signal::SIGKILL);
    assert_eq!(objects(&place), ["running"]);
    // A backup of another host counts as alive as long as its heartbeat is recent.
    let running = place.join("running");
    let mut mark: serde_json::Value = serde_json::from_slice(&fs::read(&running).unwrap()).unwrap();
    mark["boot_id"] = "another".into();
    fs::write(&running, mark.to_string()).unwrap();
    base_backup(&primary, "two").run().expect(0);
    assert_eq!(objects(&place), ["running"], "it may still be alive");
    base_backup(&primary, "one").run().expect(4);
    mark["heartbeat"] = "2026-01-01T00:00:00Z".into();
    fs::write(&running, mark.to_string()).unwrap();
    base_backup(&primary, "three").run().expect(0).says("abandoned backup one");
    assert_eq!(objects(&place), [""; 0]);
}

#[test]
fn a_killed_backup_can_be_taken_again_at_once() {
    let site = Site::with_servers(1);
    let primary = primary(&site);
    let place = site.archive_of(&primary).backup("one");
    primary.psql("UPDATE t SET a = a + 1");
    let backup = primary.pgark(&["base-backup", "--checkpoint", "spread", "--label", "one"]).spawn();
    wait_until("the mark of the backup", PATIENCE, || objects(&place) == ["running"]);
    backup.signal(Signal::SIGKILL);
    backup.wait().killed_by(Signal::SIGKILL);
    base_backup(&primary, "one").run().expect(0);
    assert!(objects(&place).iter().any(|object| object == "manifest.json"));
}

/// Containers of a pod share a host name, but do not see each other's processes.
#[test]
fn a_backup_of_another_pid_namespace_is_not_taken_for_dead() {
    let unshare =
        || Run::as_caller("/usr/bin/unshare").args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !Uid::effective().is_root() || unshare().arg("true").run().code != Some(0) {
        eprintln!("skipped: only root can make a PID namespace");
        return;
    }
    let site = Site::with_servers(1);
    let primary = primary(&site);
    let place = site.archive_of(&primary).backup("one");
    primary.psql("UPDATE t SET a = a + 1");
    let living = primary.pgark(&["base-backup", "--checkpoint", "spread", "--label", "one"]).spawn();
    wait_until("the mark of the backup", PATIENCE, || objects(&place) == ["running"]);
    let elsewhere = |label: &str| {
        let run = unshare().args(["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]);
        let run = run.arg(pgark_program("pgark")).arg("--config").arg(&primary.config.path);
        run.args(["base-backup", "--checkpoint", "fast", "--label", label]).run()
    };
    elsewhere("one").expect(4).says("is already running");
    elsewhere("two").expect(0);
    living.wait().expect(0);
    assert!(objects(&place).iter().any(|object| object == "manifest.json"));
}

#[test]
fn a_restart_of_the_server_fails_the_backup() {
    let site = Site::with_servers(1);
    let mut primary = primary(&site);
    primary.psql("UPDATE t SET a = a + 1");
    let backup = primary.pgark(&["base-backup", "--checkpoint", "spread", "--label", "one"]).spawn();
    wait_until("the mark of the backup", PATIENCE, || {
        objects(&site.archive_of(&primary).backup("one")) == ["running"]
    });
    primary.stop(Stop::Immediate);
    primary.start();
    backup.wait().expect(3);
    assert_eq!(objects(&site.archive_of(&primary).backup("one")), [""; 0]);
}

#[test]
fn a_damaged_page_is_told_and_kept() {
    let site = Site::with_servers(1);
    let primary = primary(&site);
    primary.psql("CHECKPOINT");
    let path = primary.psql("SELECT pg_relation_filepath('t')");
    let mut bytes = primary.read(&path);
    bytes[2 * 8192 + 5000] ^= 1;
    // Overwrites the file in place, because the server has it open.
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(primary.data().join(&path)).unwrap();
    file.write_all_at(&bytes[2 * 8192..3 * 8192], 2 * 8192).unwrap();
    base_backup(&primary, "one").run().expect(0).says(&format!("block 2 of \"{path}\" is damaged"));
    let manifest = manifest(&site.archive_of(&primary).backup("one"));
    assert_eq!(manifest["damaged_pages"]["count"], 1);
    assert_eq!(manifest["damaged_pages"]["listed"][0]["block"], 2);
}

/// Regression: it caused an error in every backup, whatever its label.
#[test]
fn a_damaged_mark_of_a_running_backup_blocks_no_other() {
    let site = Site::with_servers(1);
    let primary = primary(&site);
    let place = site.archive_of(&primary).backup("torn");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("running"), "{").unwrap();
    let left =
        Run::as_caller("/bin/chown").args(["-R", "--reference"]).arg(primary.data()).arg(site.repository());
    left.run().expect(0);
    base_backup(&primary, "two").run().expect(0).says("could not determine whether backup torn is running");
    base_backup(&primary, "torn").run().expect(4).says("does not identify the running backup").says("HINT:");
    assert_eq!(objects(&place), ["running"], "it may be alive");
    fs::remove_dir_all(&place).unwrap();
    base_backup(&primary, "torn").run().expect(0);
}

#[test]
fn backups_without_a_label_that_begin_in_one_second_are_called_differently() {
    let site = Site::with_servers(1);
    let primary = primary(&site);
    let start = || primary.pgark(&["--json", "base-backup", "--checkpoint", "fast"]).spawn();
    let backups = [start(), start(), start()];
    let labels: BTreeSet<String> = backups
        .into_iter()
        .map(|backup| serde_json::from_str::<serde_json::Value>(&backup.wait().expect(0).stdout).unwrap())
        .map(|summary| summary["label"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(labels.len(), 3, "{labels:?}");
}

#[test]
fn a_mark_that_cannot_be_removed_is_not_waited_for() {
    let site = Site::with_servers(1);
    let primary = primary(&site);
    base_backup(&primary, "one").run().expect(0);
    let place = site.archive_of(&primary).backup("nightly");
    create_private_directory(&place);
    let long_ago = "2026-01-15T14:30:00Z";
    let mark = serde_json::json!({ "version": 1, "run": "elsewhere.1.1", "host": "elsewhere", "pid": 1,
        "started": long_ago, "heartbeat": long_ago });
    crate::support::write_file(&place.join("running"), mark.to_string());
    // Removes delete permission.
    let allow = |mode: u32| fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
    allow(0o500);
    let refused = base_backup(&primary, "nightly").run().expect(4).says("are in the way").says("--label");
    assert!(!refused.stderr.to_lowercase().contains("wait until it ends"), "{refused}");
    let info = primary.pgark(&["info"]).run().expect(0).stdout;
    assert!(!info.contains("nightly is in progress"), "{info}");
    allow(0o700);
    base_backup(&primary, "nightly").run().expect(0);
}
