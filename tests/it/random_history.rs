//! A random history of a cluster, with or without checksums, with full, incremental, differential, streamed and
//! combined backups. Each backup, and random points in time, are recovered into a new directory or over another
//! cluster, and compared with a logical dump of that time.
//!
//! Prints the seed; `PGARK_TEST_SEED=<number>` repeats a run. Seeds that found a defect are kept in [`FOUND`].

use crate::backup_stream::stream;
use crate::support::{Cluster, Site, Stop, Template, create_private_directory, wants_everything};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seeds of histories that once were recovered incorrectly.
const FOUND: &[u64] = &[];

/// Steps of a history in CI, and with `scripts/test --all`.
const STEPS: usize = 30;
const STEPS_OF_ALL: usize = 120;
/// Number of histories with `scripts/test --all`.
const HISTORIES_OF_ALL: u64 = 5;

const TABLES: [&str; 4] = ["t0", "t1", "t2", "t3"];

/// Marsaglia's xorshift: sufficient here, and the same on every platform.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn one_of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// A cluster, and the record of its past.
struct History {
    site: Site,
    primary: Cluster,
    random: Random,
    /// The steps so far, to analyze a failure.
    story: String,
    /// Databases beside `postgres`, and tablespaces, by name; numbers are not reused.
    databases: Vec<String>,
    tablespaces: Vec<String>,
    made: u32,
    /// The dump for each backup, and for each point in time.
    backups: BTreeMap<String, String>,
    moments: Vec<(String, String)>,
}

impl History {
    fn begin(seed: u64) -> History {
        let mut random = Random::new(seed);
        let site = Site::with_servers(1);
        let checksums = random.below(3) > 0;
        let mut primary = site.cluster_of("primary", Template { checksums, ..Template::default() });
        primary.archive();
        let mut settings = "autovacuum_naptime = 1s\n".to_owned();
        if !checksums && random.below(2) == 0 {
            settings.push_str("wal_log_hints = on\n");
        }
        if primary.is_from(17) && random.below(2) == 0 {
            settings.push_str("summarize_wal = on\n");
        }
        primary.append_conf(&settings);
        primary.start();
        let mut history = History {
            site,
            primary,
            random,
            story: format!("seed {seed}\nchecksums {checksums}\n{settings}"),
            databases: Vec::new(),
            tablespaces: Vec::new(),
            made: 0,
            backups: BTreeMap::new(),
            moments: Vec::new(),
        };
        for table in TABLES {
            history.sql(&create(table));
        }
        let pgbench = history.primary.postgres_program("pgbench").args(["-i", "-q"]);
        pgbench.arg(history.primary.conninfo()).run().expect(0);
        history.back_up();
        history
    }

    fn sql(&mut self, sql: &str) {
        self.sql_in("postgres", sql);
    }

    /// Runs SQL, one statement per call; ignores statements that the server currently rejects.
    fn sql_in(&mut self, database: &str, sql: &str) {
        let conninfo = self.primary.conninfo().replace("dbname=postgres", &format!("dbname={database}"));
        let psql = self.primary.postgres_program("psql").args(["-X", "-q", "-d"]).arg(conninfo);
        let outcome = psql.arg("-c").arg(sql).run();
        let refused = if outcome.code == Some(0) { "" } else { " (refused)" };
        let _ = writeln!(self.story, "{database}: {sql}{refused}");
    }

    fn name(&mut self, prefix: &str) -> String {
        self.made += 1;
        format!("{prefix}{}", self.made)
    }

    fn step(&mut self) {
        let table = self.random.one_of(&TABLES);
        let from = self.random.below(4000);
        let rows = 1 + self.random.below(600);
        match self.random.below(24) {
            0..=3 => self.sql(&format!(
                "INSERT INTO {table} SELECT g, repeat(md5(g::text), 4) FROM generate_series({from}, {from} + {rows}) g"
            )),
            4..=6 => self.sql(&format!("UPDATE {table} SET b = 'u' || a WHERE a BETWEEN {from} AND {from} + {rows}")),
            7 => self.sql(&format!("DELETE FROM {table} WHERE a > {from}")),
            8 => self.sql(&format!("VACUUM {table}")),
            9 => self.sql(&format!("VACUUM FULL {table}")),
            10 => self.sql(&format!("TRUNCATE {table}")),
            11 => {
                self.sql(&format!("DROP TABLE {table}"));
                self.sql(&create(table));
            }
            12 => self.sql(&format!("CLUSTER {table} USING {table}_a")),
            13 => self.sql("CHECKPOINT"),
            14 => self.create_database(),
            15 => self.drop_database(),
            16 => self.use_tablespace(table),
            17 => self.crash(),
            18 => {
                let pgbench = self.primary.postgres_program("pgbench").args(["-n", "-c", "2", "-t", "50"]);
                pgbench.arg(self.primary.conninfo()).run().expect(0);
                self.story.push_str("pgbench\n");
            }
            19 => self.sql(&format!("REINDEX TABLE {table}")),
            20 => self.back_up(),
            21 => self.combine(),
            22 => self.switch_checksums(),
            _ => self.remember(),
        }
    }

    fn create_database(&mut self) {
        let name = self.name("d");
        let strategy = match (self.primary.is_from(15), self.random.below(2)) {
            (false, _) => "",
            (true, 0) => " STRATEGY wal_log",
            (true, _) => " STRATEGY file_copy",
        };
        // The template may contain old pages.
        let template = self.databases.last().cloned().unwrap_or_else(|| "template1".to_owned());
        self.sql(&format!("CREATE DATABASE {name} TEMPLATE {template}{strategy}"));
        self.sql_in(&name, &create("t0").replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"));
        self.sql_in(&name, "INSERT INTO t0 SELECT g, 'x' FROM generate_series(1, 500) g");
        self.databases.push(name);
    }

    fn drop_database(&mut self) {
        if self.databases.is_empty() {
            return;
        }
        let index = self.random.below(self.databases.len() as u64) as usize;
        let name = self.databases.remove(index);
        self.sql(&format!("DROP DATABASE {name}"));
    }

    /// Creates a tablespace, moves a table into one, or moves a table out and drops the tablespace.
    fn use_tablespace(&mut self, table: &str) {
        match (self.tablespaces.last().cloned(), self.random.below(3)) {
            (None, _) => {
                let name = self.name("s");
                let location = self.location(&name);
                create_private_directory(&location);
                self.sql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", location.display()));
                self.tablespaces.push(name);
                // Recovery from an older backup would create it at the location of the original.
                self.back_up();
            }
            (Some(name), 0 | 1) => self.sql(&format!("ALTER TABLE {table} SET TABLESPACE {name}")),
            (Some(name), _) => {
                self.sql(&format!("ALTER TABLE ALL IN TABLESPACE {name} SET TABLESPACE pg_default"));
                self.sql(&format!("DROP TABLESPACE {name}"));
                let gone = format!("SELECT count(*) FROM pg_tablespace WHERE spcname = '{name}'");
                if self.primary.psql(&gone) == "0" {
                    self.tablespaces.pop();
                }
            }
        }
    }

    fn location(&self, tablespace: &str) -> PathBuf {
        self.site.directory().join(format!("space-{tablespace}"))
    }

    fn crash(&mut self) {
        self.story.push_str("crash\n");
        self.primary.kill9();
        self.primary.start();
    }

    /// Disables checksums at one time, and possibly enables them again later; only `pg_control` shows it.
    fn switch_checksums(&mut self) {
        // A build of the server without this program borrows another version's, which does not find tablespaces.
        let version = self.primary.postgres_program("pg_checksums").arg("--version").run().expect(0).stdout;
        if !version.contains(&format!(" (PostgreSQL) {}", self.primary.major())) {
            return;
        }
        let how = if self.primary.psql("SHOW data_checksums") == "on" { "--disable" } else { "--enable" };
        let _ = writeln!(self.story, "pg_checksums {how}");
        self.primary.stop(Stop::Fast);
        self.primary
            .postgres_program("pg_checksums")
            .args([how, "-D"])
            .arg(self.primary.data())
            .run()
            .expect(0);
        self.primary.start();
    }

    fn back_up(&mut self) {
        let kind = self.random.one_of(&["full", "incremental", "incremental", "incremental", "differential"]);
        let is_streamed = self.random.below(3) == 0;
        let label = format!("{:02}-{kind}{}", self.backups.len(), if is_streamed { "-streamed" } else { "" });
        let run = match is_streamed {
            true => stream(&self.primary, &label).args(["--type", kind]),
            false => self.primary.pgark(&[
                "base-backup",
                "--checkpoint",
                "fast",
                "--type",
                kind,
                "--label",
                &label,
            ]),
        };
        let outcome = run.run();
        let _ = writeln!(self.story, "backup {label}\n{}", outcome.stderr);
        assert_eq!(outcome.code, Some(0), "{label}\n{}", self.story);
        let dump = self.dump();
        self.backups.insert(label, dump);
    }

    /// Combines a chain into a full backup, if there is one.
    fn combine(&mut self) {
        let labels: Vec<&String> = self.backups.keys().collect();
        let of = labels[self.random.below(labels.len() as u64) as usize].clone();
        let label = format!("{:02}-combined", self.backups.len());
        let outcome = self.primary.pgark(&["combine", &of, "--label", &label]).run();
        let _ = writeln!(self.story, "combine {of} into {label}\n{}", outcome.stderr);
        match outcome.code {
            Some(0) => drop(self.backups.insert(label, self.backups[&of].clone())),
            _ => assert!(outcome.stderr.contains("is already a full backup"), "{outcome}\n{}", self.story),
        }
    }

    fn remember(&mut self) {
        let time = self.primary.now();
        let dump = self.dump();
        let _ = writeln!(self.story, "moment {time}");
        self.moments.push((time, dump));
        // A transaction after the point in time, so that recovery can detect that it has reached it.
        self.sql("CREATE TABLE IF NOT EXISTS moments (a int)");
        self.sql("INSERT INTO moments VALUES (1)");
    }

    /// All databases as SQL, without the parts that differ between dumps.
    fn dump(&self) -> String {
        let dump = self.primary.postgres_program("pg_dumpall").arg("-h").arg(self.primary.socket_directory());
        let text = dump.args(["-U", "postgres", "--no-sync"]).run().expect(0).stdout;
        let differs = ["--", "\\restrict", "\\unrestrict", "CREATE TABLESPACE"];
        let kept = text.lines().filter(|line| !differs.iter().any(|start| line.starts_with(start)));
        kept.collect::<Vec<_>>().join("\n")
    }

    /// Ends the history and recovers each backup and each point in time.
    fn prove(mut self) {
        self.sql("CREATE TABLE IF NOT EXISTS moments (a int)");
        let last = self.primary.switch_wal();
        self.primary.wait_archived(&last);
        self.primary.stop(Stop::Fast);
        let backups: Vec<_> = self.backups.clone().into_iter().collect();
        for (label, dump) in &backups {
            let place = if self.random.below(2) == 0 { Place::New } else { Place::Shared };
            self.expect(label, &["--backup", label, "--target-immediate"], dump, place);
        }
        let moments = std::mem::take(&mut self.moments);
        let chosen = self.random.below(moments.len().max(1) as u64) as usize;
        for (number, (time, dump)) in moments.iter().enumerate() {
            if number == chosen || wants_everything() {
                self.expect(&format!("moment-{number}"), &["--target-time", time], dump, Place::New);
            }
        }
    }

    fn expect(&self, name: &str, target: &[&str], dump: &str, place: Place) {
        let into = match place {
            Place::New => self.site.directory().join(format!("restored-{name}")),
            Place::Shared => self.site.directory().join("restored"),
        };
        let bin = self.primary.pg_bin().display().to_string();
        let mappings = self.mappings(&into);
        let mut options = vec!["--accept-unproven", "--target-action", "promote", "--wait", "--pg-bin", &bin];
        if into.exists() {
            options.push("--delta");
        }
        options.extend(target);
        // Only the tablespaces of the backup can be mapped; it lists them.
        let options = self.with_mappings(options, &into, &mappings);
        let outcome = self.primary.recover(&into, &options).run();
        assert_eq!(outcome.code, Some(0), "{name}: {outcome}\n{}", self.story);
        let found = self.dump();
        assert!(found == dump, "{name} differs: {}\n{}", difference(&found, dump), self.story);
        self.primary.check_relations();
        self.check_deletions(name);
        let has_checksums = self.primary.psql("SHOW data_checksums") == "on";
        self.primary.stop_recovered(&into);
        if has_checksums {
            self.primary.check_pages(&into);
        }
        match place {
            Place::New => std::fs::remove_dir_all(&into).unwrap(),
            // The next recovery overwrites it.
            Place::Shared => {}
        }
    }

    /// Asserts that an index-only scan finds no deleted rows: visibility maps must agree with the heaps.
    fn check_deletions(&self, name: &str) {
        let checks = TABLES.map(|table| {
            format!(
                "DELETE FROM {table} WHERE a % 2 = 0; SET enable_seqscan = off; SET enable_bitmapscan = off; \
                 SET enable_indexonlyscan = on; CREATE TEMP TABLE i_{table} AS SELECT count(*) FROM {table} WHERE a > -1; \
                 SET enable_indexonlyscan = off; CREATE TEMP TABLE h_{table} AS SELECT count(*) FROM {table} WHERE a > -1; "
            )
        });
        let answers = TABLES.map(|table| format!("SELECT * FROM i_{table} EXCEPT SELECT * FROM h_{table}"));
        let wrong = self.primary.psql(&format!("{}{}", checks.concat(), answers.join(" UNION ALL ")));
        assert_eq!(wrong, "", "{name}\n{}", self.story);
    }

    /// Mappings for all tablespaces that ever existed.
    fn mappings(&self, into: &Path) -> Vec<String> {
        (1..=self.made)
            .map(|number| format!("s{number}"))
            .filter(|name| self.location(name).exists())
            .map(|name| {
                format!("--tablespace-mapping={}={}-{name}", self.location(&name).display(), into.display())
            })
            .collect()
    }

    fn with_mappings<'a>(&self, options: Vec<&'a str>, into: &Path, mappings: &'a [String]) -> Vec<&'a str> {
        // At most one tablespace exists at a time.
        let with = |mapping: Option<&'a String>| -> Vec<&'a str> {
            options.iter().copied().chain(mapping.map(String::as_str)).collect()
        };
        let works = |mapping: Option<&'a String>| {
            let mut all = with(mapping);
            all.retain(|option| *option != "--wait");
            all.push("--dry-run");
            self.primary.recover(into, &all).run().code == Some(0)
        };
        let found = mappings.iter().find(|mapping| works(Some(mapping)));
        with(found)
    }
}

/// The target directory of a recovery.
#[derive(Clone, Copy)]
enum Place {
    New,
    /// The same for several recoveries, each over the previous one.
    Shared,
}

fn create(table: &str) -> String {
    format!("CREATE TABLE {table} (a int, b text); CREATE INDEX {table}_a ON {table} (a)")
}

/// The first line that differs, for the failure message.
fn difference(found: &str, expected: &str) -> String {
    let mut lines = found.lines().zip(expected.lines()).filter(|(found, expected)| found != expected);
    match lines.next() {
        Some((found, expected)) => format!("\"{found:.200}\" in place of \"{expected:.200}\""),
        None => format!("{} lines in place of {}", found.lines().count(), expected.lines().count()),
    }
}

fn play(seed: u64) {
    eprintln!("PGARK_TEST_SEED={seed}");
    let mut history = History::begin(seed);
    let steps = if wants_everything() { STEPS_OF_ALL } else { STEPS };
    for _ in 0..steps {
        history.step();
    }
    history.back_up();
    history.prove();
}

#[test]
fn every_backup_and_moment_of_a_random_history_comes_back() {
    let chosen = std::env::var("PGARK_TEST_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    if let Some(seed) = chosen {
        return play(seed);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let histories = if wants_everything() { HISTORIES_OF_ALL } else { 1 };
    (0..histories).for_each(|number| play(now + number));
}

#[test]
fn histories_that_once_came_back_wrong_come_back() {
    FOUND.iter().copied().for_each(play);
}
