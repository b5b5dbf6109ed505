//! Under load, everything is killed at random: agent, archiver, backups, recoveries, and the primary crashes. At the
//! end, nothing acknowledged is missing, and a recovery to any point in time yields exactly the transactions committed
//! until then.
//!
//! `PGARK_TEST_SEED` repeats a run; `PGARK_SOAK_S` sets its duration in seconds.

use crate::support::checker::{Acknowledged, Tree, expect_sound};
use crate::support::{
    Cluster, PATIENCE, Process, Random, Run, Running, Site, Stop, Tally, postgres_program, wait_until,
};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Duration of the short form, as in CI.
const SHORT: Duration = Duration::from_secs(12);

/// Number of recoveries at the end, to random points in time.
const RECOVERIES: usize = 3;

/// A single client writes the counted rows, so that their order is that of their commits.
const LEDGER: &str = "INSERT INTO ledger (note) VALUES (repeat('x', 200));\n";

/// The other clients generate WAL.
const NOISE: &str =
    "\\set key random(1, 2000)\nUPDATE noise SET n = n + 1, pad = md5(random()::text) WHERE key = :key;\n";

/// A primary under load, and the files reported as archived.
struct Scene {
    site: Site,
    primary: Cluster,
    load: Vec<Running>,
    random: Random,
    tally: Tally,
    backups: Vec<String>,
}

fn soak_time() -> Duration {
    std::env::var("PGARK_SOAK_S").ok().and_then(|text| text.parse().ok()).map_or(SHORT, Duration::from_secs)
}

impl Scene {
    fn set() -> Scene {
        let site = Site::with_servers(2);
        let mut primary = site.cluster("primary");
        let acknowledged = site.directory().join("acknowledged");
        let push = crate::support::pgark_program("archive-push");
        // The shell, not pgark, records acknowledgments, with the digest of the file at that time.
        primary.append_conf(&format!(
            "archive_mode = on\narchive_command = '{} --config {} %p && sha256sum %p >> {}'\n\
             track_commit_timestamp = on\nsynchronous_commit = on\nfsync = on\nmax_wal_size = '32MB'\n\
             checkpoint_timeout = '30s'\nmax_connections = 20\n",
            push.display(),
            primary.config.path.display(),
            acknowledged.display()
        ));
        primary.start();
        primary.psql(
            "CREATE TABLE ledger (number bigserial PRIMARY KEY, note text); CREATE TABLE noise (key int PRIMARY KEY, n int, pad text); \
             INSERT INTO noise SELECT key, 0, '' FROM generate_series(1, 2000) key",
        );
        let random = Random::seeded("killing");
        let mut scene = Scene {
            site,
            primary,
            load: Vec::new(),
            random,
            tally: Tally::of("killing"),
            backups: Vec::new(),
        };
        scene.write_scripts();
        scene.back_up();
        scene.start_load();
        scene
    }

    fn write_scripts(&self) {
        for (name, script) in [("ledger.sql", LEDGER), ("noise.sql", NOISE)] {
            crate::support::write_file(&self.site.directory().join(name), script);
        }
    }

    fn start_load(&mut self) {
        let pgbench = |script: &str, clients: &str| {
            let run = Run::new(postgres_program("pgbench")).args(["-n", "-T", "86400", "-c", clients, "-f"]);
            run.arg(self.site.directory().join(script)).arg(self.primary.conninfo()).spawn()
        };
        self.load = vec![pgbench("ledger.sql", "1"), pgbench("noise.sql", "2")];
    }

    /// A backup that must succeed, whatever remains of earlier ones.
    fn back_up(&mut self) {
        let label = format!("whole-{}", self.backups.len() + 1);
        let backup = self.primary.pgark(&["base-backup", "--checkpoint", "fast", "--label", &label]);
        backup.deadline(PATIENCE * 4).run().expect(0);
        self.backups.push(label);
    }

    /// Kills the running processes of a kind.
    fn kill(&mut self, what: &str) {
        for process in Process::all_of(self.site.directory()) {
            let command = process.command_line();
            // Not the shell between PostgreSQL and pgark, and not the server itself.
            let program = command.split(' ').next().unwrap_or_default();
            if program.ends_with(what) || (what == "agent" && command.contains(" agent ")) {
                process.signal(Signal::SIGKILL);
                self.tally.kills += 1;
            }
        }
    }

    /// Starts a program and kills it soon, unless it completes first.
    fn begin_and_kill(&mut self, run: Run) {
        let mut running = run.spawn();
        let moment = Duration::from_millis(self.random.below(900) as u64);
        let begun = Instant::now();
        wait_until("the moment to kill it", PATIENCE, || {
            begun.elapsed() >= moment || running.try_status().is_some()
        });
        if running.try_status().is_none() {
            running.signal(Signal::SIGKILL);
            self.tally.kills += 1;
        }
    }

    fn act(&mut self) {
        match self.random.below(20) {
            0..=3 => self.kill("agent"),
            4..=6 => self.kill("archive-push"),
            7 | 8 => drop(self.primary.try_psql("SELECT pg_switch_wal()")),
            9 => drop(self.primary.try_psql("CHECKPOINT")),
            10 | 11 => {
                let label = format!("dies-{}", self.tally.kills);
                let run = self.primary.pgark(&["base-backup", "--checkpoint", "fast", "--label", &label]);
                self.begin_and_kill(run);
            }
            12 | 13 => {
                // Always into the same directory, so that each run begins with the remains of the previous one.
                let target = self.site.directory().join("dies");
                if target.join("global/pg_control").exists() {
                    std::fs::remove_dir_all(&target).unwrap();
                }
                let run = self.primary.recover(&target, &["--latest"]);
                self.begin_and_kill(run);
            }
            14..=16 => {
                let names = self.site.archive_of(&self.primary).names();
                let segments: Vec<String> = names.into_iter().filter(|name| name.len() == 24).collect();
                if !segments.is_empty() {
                    let name = self.random.choose(&segments).clone();
                    let run =
                        self.primary.program("archive-get").args([name.as_str(), "pg_wal/RECOVERYXLOG"]);
                    self.begin_and_kill(run);
                    let _ = std::fs::remove_file(self.primary.data().join("pg_wal/RECOVERYXLOG"));
                }
            }
            17 => self.back_up(),
            18 => {
                self.load.clear();
                self.primary.stop(Stop::Immediate);
                self.primary.start();
                self.tally.kills += 1;
                self.start_load();
            }
            _ => {
                let moment = Duration::from_millis(self.random.below(400) as u64);
                let begun = Instant::now();
                wait_until("a pause", PATIENCE, || begun.elapsed() >= moment);
            }
        }
    }

    /// The acknowledgments recorded by the shell, independent of pgark.
    fn acknowledged(&self) -> Acknowledged {
        let mut acknowledged = Acknowledged::default();
        let noted = std::fs::read_to_string(self.site.directory().join("acknowledged")).unwrap();
        for line in noted.lines() {
            let (digest, path) = line.split_once("  ").expect("a line of sha256sum");
            let mut bytes = [0; 32];
            for (number, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&digest[2 * number..2 * number + 2], 16).unwrap();
            }
            let name = path.rsplit('/').next().unwrap().to_owned();
            if let Some(other) = acknowledged.files.insert(name.clone(), bytes) {
                assert!(other == bytes, "{name} was acknowledged with two contents");
            }
        }
        acknowledged.backups.extend(self.backups.iter().cloned());
        acknowledged
    }
}

/// A row: number, transaction, and commit time.
#[derive(Debug)]
struct Row {
    number: String,
    xid: String,
    committed: String,
}

fn rows(primary: &Cluster) -> Vec<Row> {
    let text = primary.psql(
        "SELECT number, xmin, pg_xact_commit_timestamp(xmin) AT TIME ZONE 'UTC' || '+00' FROM ledger ORDER BY number",
    );
    let row = |line: &str| {
        let fields: Vec<&str> = line.split('|').collect();
        Row { number: fields[0].to_owned(), xid: fields[1].to_owned(), committed: fields[2].to_owned() }
    };
    text.lines().map(row).collect()
}

/// The rows up to an index: their number, and the last one.
fn until(rows: &[Row], index: usize) -> String {
    format!("{}|{}", index + 1, rows[index].number)
}

#[test]
fn nothing_is_lost_when_everything_is_killed_at_random() {
    let mut scene = Scene::set();
    let end = Instant::now() + soak_time();
    while Instant::now() < end {
        scene.act();
    }
    scene.load.clear();
    scene.back_up();
    // Makes a target after the last backup possible.
    scene.primary.psql("INSERT INTO ledger (note) VALUES ('last')");
    let last = scene.primary.switch_wal();
    scene.primary.wait_archived(&last);
    let rows = rows(&scene.primary);
    scene.primary.stop(Stop::Fast);
    assert!(rows.len() > 20, "{} rows", rows.len());

    let acknowledged = scene.acknowledged();
    assert!(acknowledged.files.contains_key(&last));
    expect_sound(&Tree::read(&scene.site.repository()), &acknowledged, "at the end");
    scene.tally.acknowledged = acknowledged.files.len() + acknowledged.backups.len();
    recover_to_some_moments(&mut scene, &rows);
}

fn recover_to_some_moments(scene: &mut Scene, rows: &[Row]) {
    let first = first_reachable(scene, rows);
    for number in 0..RECOVERIES {
        let index = first + scene.random.below(rows.len() - first);
        let row = &rows[index];
        let target = match number % 2 {
            0 => ["--target-xid", &row.xid],
            _ => ["--target-time", &row.committed],
        };
        let expected = until(rows, index);
        let into = scene.site.directory().join(format!("target-{number}"));
        let found = answer(&scene.primary, &into, &target);
        assert_eq!(found, expected, "{target:?}, of {} rows", rows.len());
        std::fs::remove_dir_all(&into).unwrap();
        scene.tally.recoveries += 1;
    }
    let into: PathBuf = scene.site.directory().join("latest");
    assert_eq!(answer(&scene.primary, &into, &["--latest"]), until(rows, rows.len() - 1));
    scene.tally.recoveries += 1;
}

fn answer(primary: &Cluster, into: &Path, target: &[&str]) -> String {
    primary.answer_after(into, target, "SELECT count(*), max(number) FROM ledger")
}

/// The first row after the end of the first backup.
fn first_reachable(scene: &Scene, rows: &[Row]) -> usize {
    let manifest = scene.site.archive_of(&scene.primary).backup(&scene.backups[0]).join("manifest.json");
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    let stop = manifest["stop"]["time"].as_str().unwrap().replace('T', " ");
    rows.iter()
        .position(|row| row.committed.as_str() > stop.trim_end_matches('Z'))
        .expect("rows after the backup")
        + 1
}
