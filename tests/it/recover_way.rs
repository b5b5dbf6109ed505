//! `pgark recover` past events that stop a server: raised settings, clock steps, WAL written with `wal_level =
//! minimal`, and a primary that continues to write.

use crate::support::{Cluster, Site, Stop, hinted_command};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

const ROWS: &str = "SELECT string_agg(a::text, ' ' ORDER BY a) FROM t";

struct Scene {
    site: Site,
    primary: Cluster,
}

impl Scene {
    /// A cluster with a backup, and row 1 after it.
    fn begin() -> Scene {
        let site = Site::with_servers(1);
        let mut primary = site.cluster("primary");
        primary.archive();
        primary.start();
        primary.psql("CREATE TABLE t (a int)");
        primary.back_up("one");
        primary.psql("INSERT INTO t VALUES (1)");
        Scene { site, primary }
    }

    fn restart_with(&mut self, settings: &str) {
        self.primary.stop(Stop::Fast);
        self.primary.append_conf(settings);
        self.primary.start();
    }

    fn archive_all(&self) {
        let last = self.primary.switch_wal();
        self.primary.wait_archived(&last);
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.site.directory().join(name)
    }
}

#[test]
fn settings_that_were_raised_after_the_backup_are_raised_in_the_copy() {
    let mut scene = Scene::begin();
    scene.restart_with("max_connections = 130\nmax_locks_per_transaction = 199\n");
    scene.primary.psql("INSERT INTO t VALUES (2)");
    // Lowered again: the maximum on the path counts.
    scene.restart_with("max_connections = 60\nmax_locks_per_transaction = 170\n");
    scene.primary.psql("INSERT INTO t VALUES (3)");
    scene.archive_all();
    scene.primary.stop(Stop::Fast);
    let into = scene.directory("into");
    let sql = format!("SELECT ({ROWS}) || ' ' || setting FROM pg_settings WHERE name = 'max_connections'");
    assert_eq!(scene.primary.answer_after(&into, &["--latest"], &sql), "1 2 3 130");
    // The advice to raise them by hand and restart would fail if pgark's own values came later in the file.
    let auto = std::fs::read_to_string(into.join("postgresql.auto.conf")).unwrap();
    assert!(auto.contains("max_locks_per_transaction = '199'"), "{auto}");
}

#[test]
fn a_time_ends_where_the_server_ends_after_the_clock_has_stepped() {
    let mut scene = Scene::begin();
    scene.primary.stop(Stop::Fast);
    scene.primary.set_clock(Some("+1h"));
    scene.primary.start();
    scene.primary.psql("INSERT INTO t VALUES (2)");
    scene.primary.stop(Stop::Fast);
    scene.primary.set_clock(None);
    scene.primary.start();
    scene.primary.psql("INSERT INTO t VALUES (3)");
    let after_row_3 = scene.primary.now();
    scene.primary.psql("INSERT INTO t VALUES (4)");
    scene.archive_all();
    scene.primary.stop(Stop::Fast);
    // Row 2 is later than that time, so the server stops before it; the plan takes that into account.
    let options = ["--target-time", &after_row_3];
    assert_eq!(scene.primary.answer_after(&scene.directory("in-time"), &options, ROWS), "1");
}

#[test]
fn wal_of_level_minimal_is_named_and_not_run_into() {
    let mut scene = Scene::begin();
    scene.archive_all();
    scene.restart_with("wal_level = minimal\nmax_wal_senders = 0\narchive_mode = off\n");
    scene.primary.psql("INSERT INTO t VALUES (2)");
    scene.restart_with("wal_level = replica\nmax_wal_senders = 10\narchive_mode = on\n");
    scene.primary.psql("INSERT INTO t VALUES (3)");
    let target = scene.primary.now();
    scene.primary.psql("INSERT INTO t VALUES (4)");
    scene.archive_all();
    let into = scene.directory("into");
    for target in [&["--latest"][..], &["--target-time", &target]] {
        let outcome = scene.primary.recover(&into, target).run();
        assert!(matches!(outcome.code, Some(4)), "{outcome}");
        assert!(!into.exists(), "{outcome}");
    }
    // The way out that the error names, and a later backup.
    let outcome = scene.primary.recover(&into, &["--latest"]).run().expect(4);
    if outcome.stderr.contains("minimal") {
        hinted_command(&outcome).run().expect(0);
    }
    scene.primary.back_up("two");
    scene.archive_all();
    scene.primary.stop(Stop::Fast);
    let behind = scene.directory("behind");
    assert_eq!(scene.primary.answer_after(&behind, &["--latest"], ROWS), "1 2 3 4");
}

#[test]
fn the_end_of_a_growing_archive_is_no_deviation() {
    let site = Site::with_servers(2);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t (a int)");
    primary.back_up("one");
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut segments = 0;
            while !ended.load(Ordering::Relaxed) {
                primary.psql("INSERT INTO t VALUES (1)");
                primary.switch_wal();
                segments += 1;
            }
            segments
        });
        for name in ["a", "b", "c"] {
            let into = site.directory().join(name);
            let outcome = primary.recover(&into, &["--latest", "--wait", "--port", "5444"]).run();
            primary.stop_recovered(&into);
            if outcome.code != Some(0) {
                ended.store(true, Ordering::Relaxed);
                panic!("{outcome}");
            }
        }
        ended.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 3);
    });
}
