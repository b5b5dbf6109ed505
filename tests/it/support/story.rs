//! The starting point of recoveries: a primary with a backup, and later changes.

use super::cluster::{Cluster, Stop};
use super::programs::{pgark_program, postgres_program, search_path};
use super::run::{Outcome, Run};
use super::site::Site;
use std::path::{Path, PathBuf};

/// A stopped primary with a backup, and the changes made after it.
pub struct Story {
    pub site: Site,
    pub primary: Cluster,
    /// A time after the tenth row and before the eleventh.
    pub time: String,
    /// The transaction of the eleventh row.
    pub xid: String,
    /// The end of the WAL with the eleventh row.
    pub lsn: String,
}

impl Story {
    pub fn tell() -> Story {
        let site = Site::with_servers(1);
        let mut primary = site.cluster("primary");
        primary.archive();
        primary.start();
        primary.psql("CREATE TABLE t (a int)");
        primary.back_up("first");
        primary.psql("INSERT INTO t SELECT generate_series(1, 10)");
        primary.psql("SELECT pg_create_restore_point('ten rows')");
        let time = primary.now();
        let xid = primary.psql("INSERT INTO t VALUES (11) RETURNING pg_current_xact_id()");
        let lsn = primary.psql("SELECT pg_current_wal_insert_lsn()");
        primary.psql("DROP TABLE t");
        let last = primary.switch_wal();
        primary.wait_archived(&last);
        primary.stop(Stop::Fast);
        Story { site, primary, time, xid, lsn }
    }

    pub fn directory(&self, name: &str) -> PathBuf {
        self.site.directory().join(name)
    }

    pub fn recover(&self, into: &Path, options: &[&str]) -> Outcome {
        self.primary.recover(into, options).run()
    }

    /// Recovers, runs the server, and counts the rows; the server uses the socket of the stopped primary.
    #[track_caller]
    pub fn rows_after(&self, name: &str, options: &[&str]) -> String {
        let into = self.directory(name);
        self.primary.answer_after(&into, options, "SET lock_timeout = 1000; SELECT count(*) FROM t")
    }
}

/// Backups and recoveries of a cluster. A recovered server uses the socket of its stopped original.
impl Cluster {
    /// Takes a backup of the running server.
    #[track_caller]
    pub fn back_up(&self, label: &str) {
        self.pgark(&["base-backup", "--checkpoint", "fast", "--label", label]).run().expect(0);
    }

    /// A target time after all previous commits and before all later ones.
    pub fn now(&self) -> String {
        self.psql("SELECT clock_timestamp() AT TIME ZONE 'UTC' || '+00' FROM pg_sleep(0.1)")
    }

    /// `pgark recover` into a directory.
    pub fn recover(&self, into: &Path, options: &[&str]) -> Run {
        self.pgark(&["recover"]).arg("--target-directory").arg(into).args(options)
    }

    /// Recovers, runs the server, executes a query, and stops it.
    #[track_caller]
    pub fn answer_after(&self, into: &Path, options: &[&str], sql: &str) -> String {
        let options: Vec<&str> = options.iter().copied().chain(["--wait"]).collect();
        self.recover(into, &options).run().expect(0);
        let answer = self.psql(sql);
        self.stop_recovered(into);
        answer
    }

    /// Asserts that the heaps and indexes of all databases are intact.
    #[track_caller]
    pub fn check_relations(&self) {
        if self.version_num() < 140_000 {
            self.check_indexes();
            return;
        }
        let amcheck = self.postgres_program("pg_amcheck").arg("--host").arg(self.socket_directory());
        let amcheck =
            amcheck.args(["--username", "postgres", "--all", "--install-missing", "--heapallindexed"]);
        amcheck.run().expect(0);
    }

    /// Does the same with amcheck of version 13, which has no program: asserts that the B-trees are intact and
    /// complete.
    #[track_caller]
    fn check_indexes(&self) {
        let databases = self.psql("SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1");
        for database in databases.lines() {
            let sql = "CREATE EXTENSION IF NOT EXISTS amcheck; SELECT count(bt_index_check(c.oid, true)) > 100 FROM pg_class c \
                       JOIN pg_am a ON a.oid = c.relam WHERE amname = 'btree' AND relkind = 'i' AND relpersistence <> 't'";
            assert_eq!(self.psql_in(database, sql), "t", "{database}");
        }
    }

    /// Starts a server from a recovered directory, and waits until it accepts connections.
    #[track_caller]
    pub fn start_recovered(&self, data: &Path) {
        let log = data.with_extension("log");
        let start = self.postgres_program("pg_ctl").arg("-D").arg(data).arg("-l").arg(log);
        start.args(["-w", "start"]).run().expect(0);
    }

    /// Stops a server started by pgark or `pg_ctl`.
    #[track_caller]
    pub fn stop_recovered(&self, data: &Path) {
        let stop = self.postgres_program("pg_ctl").arg("-D").arg(data).args(["-m", "fast", "-w", "stop"]);
        stop.run().expect(0);
    }

    /// Moves the data directory away, as an operator does before recovering in place.
    pub fn move_data_away(&self, name: &str) {
        std::fs::rename(self.data(), self.data().with_file_name(name)).unwrap();
    }
}

/// Whether a backup reported that it used WAL summaries to find the changes since `parent`.
pub fn used_summaries(stderr: &str, parent: &str) -> bool {
    let end = format!(" to find changes since backup {parent}");
    let mut used = stderr.lines().filter_map(|line| line.strip_prefix("using ")?.strip_suffix(&end));
    used.any(|used| match used.split_once(" WAL ") {
        Some((count, "summary")) => count == "1",
        Some((count, "summaries")) => count.parse::<u64>().is_ok_and(|count| count > 1),
        _ => false,
    })
}

/// Asserts that PostgreSQL refuses to start from a directory.
#[track_caller]
pub fn expect_not_startable(data: &Path) {
    // Files of an earlier server, and the lock file of a killed recovery in place.
    let noted = data.join("postmaster.opts").exists();
    let interlock = std::fs::read(data.join("postmaster.pid")).ok();
    let outcome = Run::new(postgres_program("postgres")).arg("-D").arg(data).run();
    assert_ne!(outcome.code, Some(0), "a server ran with\n{outcome}");
    let left = std::fs::read(data.join("postmaster.pid")).ok();
    assert!(left.is_none() || left == interlock, "{outcome}");
    assert_eq!(data.join("postmaster.opts").exists(), noted, "{outcome}");
}

/// The command in a hint, run by a shell with `pgark` in its PATH.
#[track_caller]
pub fn hinted_command(outcome: &Outcome) -> Run {
    let hint = outcome.stderr.split_once("HINT: ").map(|(_, hint)| hint).unwrap_or_default();
    let command = hint.split_once(": pgark ").map(|(_, command)| format!("pgark {}", command.trim_end()));
    let command = command.unwrap_or_else(|| panic!("no command is hinted at by\n{outcome}"));
    let programs = pgark_program("pgark").parent().unwrap().display().to_string();
    Run::new("/bin/sh").arg("-c").arg(command).env("PATH", format!("{programs}:{}", search_path()))
}
