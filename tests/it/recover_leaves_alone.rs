//! `pgark recover` beside a running original, and killed at its end: the original is not touched, and nothing complete
//! is cleared.

use crate::support::{Cluster, PATIENCE, Run, Site, Stop, create_private_directory};
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;

const MARKER: &str = "pgark-recovery-incomplete";

/// A running primary that archives, with a table in the tablespace `space`, whose directory has that name.
fn primary(site: &Site) -> Cluster {
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    create_tablespace(site, &primary, "space");
    primary
}

fn create_tablespace(site: &Site, primary: &Cluster, name: &str) {
    let space = site.directory().join(name);
    create_private_directory(&space);
    primary.psql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", space.display()));
    primary.psql(&format!("CREATE TABLE t_{name} TABLESPACE {name} AS SELECT generate_series(1, 10) AS a"));
}

fn base_backup(cluster: &Cluster) -> Run {
    cluster.pgark(&["base-backup", "--checkpoint", "fast"])
}

fn archive_all(primary: &Cluster) {
    let last = primary.switch_wal();
    primary.wait_archived(&last);
}

fn stop(primary: &Cluster, data: &Path) {
    primary.postgres_program("pg_ctl").arg("-D").arg(data).args(["-m", "fast", "-w", "stop"]).run().expect(0);
}

fn recover(primary: &Cluster, into: &Path) -> Run {
    primary.pgark(&["recover"]).arg("--target-directory").arg(into)
}

#[test]
fn a_tablespace_that_is_newer_than_the_backup_is_not_written_into() {
    let site = Site::with_servers(2);
    let primary = primary(&site);
    let mapping = format!("{0}/space={0}/moved", site.directory().display());
    base_backup(&primary).run().expect(0);
    let before = primary.psql("SELECT pg_create_restore_point('before')");
    create_tablespace(&site, &primary, "later");
    archive_all(&primary);
    let into = site.directory().join("copy");
    let recover = |options: &[&str]| {
        recover(&primary, &into).args(["--tablespace-mapping", &mapping]).args(options).run()
    };
    recover(&[]).expect(4).says("created after backup").says("--accept-unproven");
    assert!(!into.exists());
    recover(&["--target-lsn", &before, "--exclusive", "--dry-run", "--accept-unproven"]).expect(0);
    base_backup(&primary).args(["--label", "newer"]).run().expect(0);
    let moved = format!("{0}/later={0}/moved-later", site.directory().display());
    recover(&["--tablespace-mapping", &moved]).expect(0);
}

#[test]
fn a_tablespace_that_was_dropped_while_the_backup_began_is_not_linked() {
    let site = Site::with_servers(1);
    let mut primary = primary(&site);
    archive_all(&primary);
    primary.psql("DROP TABLE t_space");
    archive_all(&primary);
    let go = site.directory().join("go");
    let command = primary.psql("SHOW archive_command").replace('\'', "''");
    primary.append_conf(&format!(
        "archive_command = 'while ! test -e \"{}\"; do sleep 0.05; done; {command}'\n",
        go.display()
    ));
    primary.stop(Stop::Fast);
    // It would store ready files without a request.
    primary.pgark(&["agent", "stop"]).run().expect(0);
    primary.start();
    let backup = base_backup(&primary).spawn();
    primary.wait_for_row(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgark base-backup' AND state = 'idle' \
         AND (query LIKE '%pg_walfile_name%' OR query LIKE '%pg_stat_archiver%')",
        "1",
    );
    primary.psql("DROP TABLESPACE space");
    fs::write(&go, b"").unwrap();
    backup.wait().expect(0);
    let into = site.directory().join("copy");
    recover(&primary, &into).args(["--target-immediate"]).run().expect(0);
    let map = fs::read_to_string(into.join("tablespace_map")).unwrap_or_default();
    assert_eq!(map, "", "it leads to the original's directory");
}

#[test]
fn killed_at_the_end_no_tablespace_in_use_can_be_taken_for_remains() {
    let site = Site::with_servers(1);
    let mut primary = primary(&site);
    base_backup(&primary).run().expect(0);
    primary.stop(Stop::Fast);
    let (into, space) = (site.directory().join("copy"), site.directory().join("moved"));
    let mapping = format!("{}/space={}", site.directory().display(), space.display());
    let run = || recover(&primary, &into).args(["--tablespace-mapping", &mapping]);
    // Determines the number of durable steps by bisection.
    let (mut survives_not, mut survives) = (1, 4096);
    let dies_before = |step: u32| {
        let _ = fs::remove_dir_all(&into);
        let _ = fs::remove_dir_all(&space);
        let outcome = run().env("PGARK_DIE_BEFORE", step.to_string()).run();
        into.join(MARKER).exists().then(|| outcome.killed_by(Signal::SIGKILL)).is_some()
    };
    while survives - survives_not > 1 {
        let middle = (survives + survives_not) / 2;
        if dies_before(middle) { survives_not = middle } else { survives = middle }
    }
    for step in survives.saturating_sub(9)..survives {
        assert!(dies_before(step), "step {step}");
        let startable = into.join("global/pg_control").exists();
        assert!(!(startable && space.join(MARKER).exists()), "step {step}");
        run().run().expect(0).within(PATIENCE);
        assert!(!into.join(MARKER).exists() && !space.join(MARKER).exists());
    }
}

#[test]
fn a_marker_that_stayed_is_not_part_of_a_backup() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    primary.write(MARKER, "x");
    base_backup(&primary).run().expect(0);
    recover(&primary, &site.directory().join("copy")).run().expect(0);
}

#[test]
fn a_server_that_stops_at_its_target_is_told_from_one_that_failed() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.append_conf("logging_collector = on\nlog_filename = 'server.log'\n");
    primary.start();
    // An error in the original's own log, which is part of the backup.
    let nowhere = format!("{} dbname=nowhere", primary.conninfo());
    primary.postgres_program("psql").arg("-d").arg(nowhere).run().expect(2);
    base_backup(&primary).run().expect(0);
    primary.psql("SELECT pg_create_restore_point('here')");
    archive_all(&primary);
    primary.stop(Stop::Fast);
    let options = ["--target-action", "shutdown", "--wait", "--accept-unproven", "--target-name"];
    let into = |name: &str| site.directory().join(name);
    recover(&primary, &into("reached")).args(options).arg("here").run().expect(0);
    let log = fs::read_to_string(site.directory().join("reached/log/server.log")).unwrap();
    assert!(log.contains("FATAL:"), "{log}");

    primary.append_conf("log_destination = 'csvlog'\n");
    primary.start();
    base_backup(&primary).run().expect(0);
    archive_all(&primary);
    primary.stop(Stop::Fast);
    recover(&primary, &into("failed"))
        .args(options)
        .arg("never")
        .run()
        .expect(4)
        .says("exited without reaching");
}

#[test]
fn the_trigger_file_of_the_original_does_not_promote_a_copy() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    // Version 15 and earlier.
    let known =
        primary.postgres_program("postgres").args(["-C", "promote_trigger_file", "-D"]).arg(primary.data());
    if known.run().code != Some(0) {
        return;
    }
    let trigger = site.directory().join("promote");
    primary.archive();
    primary.append_conf(&format!("promote_trigger_file = '{}'\n", trigger.display()));
    primary.start();
    base_backup(&primary).run().expect(0);
    primary.psql("SELECT pg_create_restore_point('here')");
    archive_all(&primary);
    primary.stop(Stop::Fast);
    fs::write(&trigger, b"").unwrap();
    let into = site.directory().join("copy");
    recover(&primary, &into).args(["--target-name", "here", "--wait"]).run().expect(0);
    assert_eq!(primary.psql("SELECT pg_is_in_recovery()"), "t", "it pauses at the target");
    assert!(trigger.exists());
    stop(&primary, &into);
}

#[test]
fn a_copy_does_not_take_over_the_subscriptions_of_its_original() {
    let site = Site::with_servers(2);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.append_conf("wal_level = logical\nwal_retrieve_retry_interval = 100\n");
    primary.start();
    primary.psql("CREATE DATABASE subscriber");
    primary.psql("CREATE TABLE t (a int); CREATE PUBLICATION p FOR TABLE t");
    primary.psql("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
    let subscriber = format!("{} dbname=subscriber", primary.conninfo());
    let subscribe = |sql: &str| {
        primary.postgres_program("psql").args(["-d", &subscriber, "-c", sql]).run().expect(0);
    };
    subscribe("CREATE TABLE t (a int)");
    subscribe(&format!(
        "CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p WITH (create_slot = false, copy_data = false)",
        primary.conninfo()
    ));
    primary.wait_for_row("SELECT active FROM pg_replication_slots", "t");
    base_backup(&primary).run().expect(0);
    archive_all(&primary);
    let into = site.directory().join("copy");
    recover(&primary, &into).args(["--wait", "--port", "5499"]).run().expect(0);
    // Stops the original's own worker, so that another one could use its slot.
    subscribe("ALTER SUBSCRIPTION s DISABLE");
    primary.wait_for_row("SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL", "0");
    for _ in 0..20 {
        assert_eq!(primary.psql("SELECT active, pg_sleep(0.1) FROM pg_replication_slots"), "f|");
    }
    stop(&primary, &into);
}

#[test]
fn a_damaged_manifest_keeps_nobody_from_the_other_backups() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    base_backup(&primary).args(["--label", "good"]).run().expect(0);
    base_backup(&primary).args(["--label", "torn"]).run().expect(0);
    primary.stop(Stop::Fast);
    // The location of a history file in the repository: `wal`.
    let wal = site.archive_of(&primary).path("00000002.history");
    let manifest = wal.parent().unwrap().with_file_name("backup").join("torn/manifest.json");
    fs::write(&manifest, b"{").unwrap();
    let into = site.directory().join("copy");
    recover(&primary, &into).args(["--backup", "torn"]).run().expect(4).says("torn");
    let plan = recover(&primary, &into).arg("--dry-run").run().expect(0);
    assert!(plan.stdout.contains("backup torn is not considered"), "{plan}");
    recover(&primary, &into).run().expect(0);
}
