//! `pgark combine`: turns a chain into a full backup that no longer needs the chain.

use crate::support::{Cluster, Site, Stop, create_private_directory, write_file};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

/// Like a backup, a combination works without delete permission.
#[test]
fn remains_that_cannot_be_swept_are_told_and_left() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    take(&primary, "full", "full");
    take(&primary, "incremental", "one");
    primary.stop(Stop::Fast);
    let left = site.archive_of(&primary).backup("left");
    create_private_directory(&left);
    write_file(&left.join("pack-000001"), "x");
    fs::set_permissions(&left, Permissions::from_mode(0o500)).unwrap();
    let combined = primary.pgark(&["combine", "one", "--label", "combined"]).run().expect(0);
    assert!(
        combined.stderr.contains("could not remove the remains of the abandoned backup left"),
        "{combined}"
    );
    assert!(left.join("pack-000001").exists());
    fs::set_permissions(&left, Permissions::from_mode(0o700)).unwrap();
    let again = primary.pgark(&["combine", "one", "--label", "again"]).run().expect(0);
    assert!(!again.stderr.contains("could not remove"), "{again}");
    assert!(!left.join("pack-000001").exists());
}

const ROWS: &str = "SELECT (SELECT sum(hashtext(t::text)) FROM t), (SELECT count(*) FROM s)";

fn take(cluster: &Cluster, kind: &str, label: &str) {
    cluster.pgark(&["base-backup", "--checkpoint", "fast", "--type", kind, "--label", label]).run().expect(0);
}

#[test]
fn a_combined_backup_needs_nothing_of_its_chain() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    let space = site.directory().join("space");
    create_private_directory(&space);
    primary.archive();
    primary.start();
    primary.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    primary.psql("CREATE TABLE s TABLESPACE space AS SELECT generate_series(1, 1000) AS a");
    primary.psql("CREATE TABLE t AS SELECT g AS a, repeat('x', 200) AS b FROM generate_series(1, 10000) g");
    take(&primary, "full", "full");
    primary.psql("UPDATE t SET b = 'changed' WHERE a % 1000 = 0; INSERT INTO s VALUES (1001)");
    take(&primary, "incremental", "one");
    primary.psql("DELETE FROM t WHERE a > 9000; INSERT INTO s VALUES (1002)");
    take(&primary, "incremental", "two");
    let expected = primary.psql(ROWS);

    let full = primary.pgark(&["combine", "full"]).run().expect(2);
    assert!(full.stderr.contains("backup full is already a full backup"), "{full}");
    let absent = primary.pgark(&["combine", "three"]).run().expect(1);
    assert!(absent.stderr.contains("holds no backup three"), "{absent}");
    let combined = primary.pgark(&["combine", "two", "--label", "combined"]).run().expect(0);
    assert!(combined.stdout.contains("full backup combined is complete"), "{combined}");
    // Of two backups with the same stop point, the next one builds on the full one.
    take(&primary, "incremental", "next");
    let archive = site.archive_of(&primary);
    let manifest = |label: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(archive.backup(label).join("manifest.json")).unwrap()).unwrap()
    };
    assert_eq!(manifest("next")["type"]["incremental"]["parent"], "combined");
    assert_eq!(manifest("combined")["stop"], manifest("two")["stop"]);

    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    for label in ["full", "one", "two"] {
        fs::remove_dir_all(archive.backup(label)).unwrap();
    }
    let mapping = format!("--tablespace-mapping={}=", space.display());
    for label in ["combined", "next"] {
        let into = site.directory().join(label);
        let mapping = format!("{mapping}{}", site.directory().join(format!("{label}-space")).display());
        let options = ["--backup", label, "--target-immediate", &mapping];
        primary.recover(&into, &options).run().expect(0);
        for name in ["recovery.signal", "postgresql.auto.conf"] {
            fs::rename(into.join(name), site.directory().join(name)).unwrap();
        }
        // The tablespace map was adapted; all other files are as listed.
        let verify = primary.postgres_program("pg_verifybackup").args(["-n", "-i", "postgresql.auto.conf"]);
        verify.args(["-i", "tablespace_map"]).arg(&into).run().expect(0);
        for name in ["recovery.signal", "postgresql.auto.conf"] {
            fs::rename(site.directory().join(name), into.join(name)).unwrap();
        }
        primary.start_recovered(&into);
        assert_eq!(primary.psql(ROWS), expected, "{label}");
        primary.stop_recovered(&into);
    }
}
