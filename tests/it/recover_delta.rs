//! `pgark recover --delta`: keeps correct files, restores all others, and removes files that do not belong.

use crate::support::{
    Cluster, PATIENCE, Site, Stop, create_private_directory, expect_not_startable, wait_until,
};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

const ROWS: &str = "SELECT count(*), sum(a) FROM t";

/// A stopped primary with a table, a full and an incremental backup, and later changes.
fn story(site: &Site) -> Cluster {
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.append_conf("autovacuum = off\n");
    primary.start();
    primary.psql("CREATE TABLE t AS SELECT g AS a, repeat('x', 200) AS b FROM generate_series(1, 10000) g");
    primary.psql("CREATE TABLE still AS SELECT * FROM t");
    primary.psql("CREATE TABLE gone AS SELECT * FROM t");
    primary.back_up("full");
    primary.psql("UPDATE t SET b = 'changed' WHERE a % 1000 = 0");
    let incremental = ["base-backup", "--checkpoint", "fast", "--type", "incremental", "--label", "one"];
    primary.pgark(&incremental).run().expect(0);
    primary
}

/// Changes after the backups, which must not survive.
fn go_on(primary: &mut Cluster) {
    primary.psql("UPDATE t SET a = -a WHERE a % 500 = 0");
    primary.psql("DROP TABLE gone; CREATE TABLE later AS SELECT * FROM t");
    primary.psql("CREATE DATABASE later");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    create_private_directory(&primary.data().join("extra"));
    primary.write("extra/file", "x");
    primary.write("base/1/999999", "x");
    primary.write("standby.signal", "");
}

fn answer(primary: &Cluster, label: &str, options: &[&str], sql: &str) -> String {
    let bin = primary.pg_bin().display().to_string();
    let mut all = vec!["--delta", "--backup", label, "--target-immediate", "--target-action", "promote"];
    all.extend(["--pg-bin", bin.as_str()]);
    all.extend(options);
    primary.answer_after(&primary.data(), &all, sql)
}

#[test]
fn a_cluster_goes_back_to_any_of_its_backups_in_place() {
    let site = Site::with_servers(1);
    let mut primary = story(&site);
    let file = primary.data().join(primary.psql("SELECT pg_relation_filepath('still')"));
    go_on(&mut primary);
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let before = inode(&file);
    let plan = primary.recover(&primary.data(), &["--delta", "--dry-run", "--backup", "full", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan.run().expect(0).stdout).unwrap();
    let (kept, fetched) = (&plan["delta"]["kept_bytes"], &plan["delta"]["fetched_bytes"]);
    assert!(kept.as_u64().unwrap() > fetched.as_u64().unwrap(), "{plan}");
    assert!(plan["delta"]["removed_files"].as_u64().unwrap() > 10, "{plan}");
    for label in ["full", "one", "full"] {
        assert_eq!(answer(&primary, label, &[], ROWS), "10000|50005000", "{label}");
        assert_eq!(inode(&file), before, "what is right stays");
        for path in ["extra", "base/1/999999", "standby.signal", "pgark-recovery-incomplete"] {
            assert!(!primary.has(path), "{path}");
        }
        primary.check_pages(&primary.data());
    }
}

#[test]
fn what_delta_makes_is_what_a_fresh_restore_makes() {
    let site = Site::with_servers(1);
    let mut primary = story(&site);
    go_on(&mut primary);
    // Damage of every kind.
    let still = primary.data().join("base/1/PG_VERSION");
    fs::remove_file(&still).unwrap();
    symlink("/etc/passwd", &still).unwrap();
    primary.write("PG_VERSION", "a longer line than there was\n");
    fs::remove_dir_all(primary.data().join("pg_xact")).unwrap();
    // Written by another user.
    fs::write(primary.data().join("pg_xact"), "a file").unwrap();
    for label in ["one", "full"] {
        let fresh = site.directory().join(label);
        primary.recover(&fresh, &["--backup", label, "--target-immediate"]).run().expect(0);
        let delta = ["--delta", "--backup", label, "--target-immediate"];
        primary.recover(&primary.data(), &delta).run().expect(0);
        let ours = ["postgresql.auto.conf"];
        let listing = |root: &Path| -> Vec<(PathBuf, Vec<u8>)> {
            let mut files: Vec<_> = crate::support::files_below(root)
                .into_iter()
                .map(|path| (path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap()))
                .filter(|(path, _)| !ours.contains(&path.to_str().unwrap()))
                .collect();
            files.sort();
            files
        };
        let (fresh, delta) = (listing(&fresh), listing(&primary.data()));
        let names =
            |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
        assert_eq!(names(&fresh), names(&delta), "{label}");
        for ((path, fresh), (_, delta)) in fresh.iter().zip(&delta) {
            assert!(fresh == delta, "{} of {label}", path.display());
        }
    }
}

#[test]
fn a_tablespace_and_pg_wal_on_other_disks_stay_there() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    let (space, wal) = (site.directory().join("space"), site.directory().join("wal"));
    create_private_directory(&space);
    primary.archive();
    primary.start();
    primary.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    primary.psql("CREATE TABLE t TABLESPACE space AS SELECT generate_series(1, 100) AS a");
    primary.back_up("full");
    primary.psql("INSERT INTO t SELECT generate_series(101, 200)");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    fs::rename(primary.data().join("pg_wal"), &wal).unwrap();
    symlink(&wal, primary.data().join("pg_wal")).unwrap();
    fs::create_dir(space.join("lost+found")).unwrap();
    assert_eq!(answer(&primary, "full", &[], ROWS), "100|5050");
    assert!(space.join("lost+found").exists());
    assert_eq!(fs::read_link(primary.data().join("pg_wal")).unwrap(), wal);
    assert_eq!(primary.recover(&primary.data(), &["--delta"]).run().expect(0).code, Some(0));
}

#[test]
fn delta_refuses_what_is_not_the_clusters_own() {
    let site = Site::with_servers(1);
    let mut primary = story(&site);
    let delta = |primary: &Cluster, into: &Path| primary.recover(into, &["--delta", "--dry-run"]).run();
    let running = delta(&primary, &primary.data()).expect(4);
    assert!(running.stderr.contains("a server is running"), "{running}");
    primary.stop(Stop::Fast);
    let other = site.cluster_of("other", crate::support::Template::with_segments_of(16));
    let foreign = delta(&primary, &other.data()).expect(4);
    assert!(foreign.stderr.contains("but the backup has"), "{foreign}");
    let files = site.directory().join("files");
    create_private_directory(&files);
    fs::write(files.join("precious"), "x").unwrap();
    crate::support::give(&files.join("precious"));
    let something = delta(&primary, &files).expect(4);
    assert!(something.stderr.contains("is not empty"), "{something}");
    let without = primary.recover(&primary.data(), &["--dry-run"]).run().expect(4);
    assert!(without.stderr.contains("holds a data directory"), "{without}");
    let absent = delta(&primary, &site.directory().join("absent")).expect(0);
    assert!(!absent.stdout.contains("keep "), "{absent}");
}

#[test]
fn an_interrupted_delta_converges_and_starts_no_server_meanwhile() {
    let site = Site::with_servers(1);
    let mut primary = story(&site);
    go_on(&mut primary);
    let data = primary.data();
    let mut operation = 1;
    loop {
        let run = primary.recover(&data, &["--delta", "--backup", "one", "--target-immediate"]);
        let outcome = run.env("PGARK_DIE_BEFORE", operation.to_string()).run();
        if outcome.code == Some(0) {
            break;
        }
        assert_eq!(outcome.code, None, "{outcome}");
        if !data.join("global/pg_control").exists() {
            expect_not_startable(&data);
            let without = primary.recover(&data, &["--dry-run"]).run().expect(4);
            assert!(without.stderr.contains("unfinished recovery with --delta"), "{without}");
        }
        // Its lock file remains, and another process may get its process ID.
        let pid = data.join("postmaster.pid");
        if let Ok(content) = fs::read_to_string(&pid)
            && content.lines().count() == 2
        {
            fs::write(&pid, format!("{}\n{}\n", std::process::id(), data.display())).unwrap();
        }
        operation += operation / 3 + 1;
    }
    assert!(operation > 5, "only {operation} operations");
    assert_eq!(answer(&primary, "one", &[], ROWS), "10000|50005000");
}

/// PostgreSQL's own lock file keeps servers out, group permissions are preserved, and a lost pg_control is no obstacle.
#[test]
fn delta_keeps_servers_out_and_permissions_as_they_were() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    fs::set_permissions(primary.data(), fs::Permissions::from_mode(0o750)).unwrap();
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    primary.back_up("one");
    primary.psql("DELETE FROM t");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    let fresh = site.directory().join("fresh");
    primary.recover(&fresh, &["--latest"]).run().expect(0);
    assert_eq!(mode(&fresh), 0o750);

    // Its pg_control is lost: pg_wal identifies the cluster.
    fs::remove_file(primary.data().join("global/pg_control")).unwrap();
    let options = ["--delta", "--target-immediate", "--target-action", "promote"];
    let running = primary.recover(&primary.data(), &options).env("PGARK_SLOW_MS", "3").spawn();
    let pid = primary.data().join("postmaster.pid");
    let process = format!("{}\n", running.process().0);
    wait_until("the interlock", PATIENCE, || {
        fs::read_to_string(&pid).is_ok_and(|content| content.starts_with(&process))
    });
    running.wait().expect(0);
    assert!(!pid.exists());
    assert_eq!(mode(&primary.data()), 0o750);
    primary.start();
    primary.wait_promoted();
    assert_eq!(primary.psql("SELECT count(*) FROM t"), "1000");
}
