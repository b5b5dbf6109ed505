//! A stopped cluster that has changed in every way since its backup, for interrupted recoveries with `--delta`.

use super::account::create_private_directory;
use super::archive::files_below;
use super::checker::Tree;
use super::cluster::{Cluster, Stop};
use super::recording::Recording;
use super::run::Run;
use super::site::Site;
use super::story::expect_not_startable;
use super::template::copy_directory;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// Without this file, no server starts from a directory.
const CONTROL_FILE: &str = "data/global/pg_control";

/// PostgreSQL's own lock file, which a recovery uses too.
const INTERLOCK: &str = "data/postmaster.pid";

const MARKER: &str = "pgark-recovery-incomplete";

/// The cluster with its states before and after the recovery. All files are in one directory: `data`, and the
/// tablespace `space`.
#[derive(Debug)]
pub struct DeltaScene {
    pub primary: Cluster,
    pub home: PathBuf,
    saved: PathBuf,
    /// The state before the recovery, and after it.
    pub changed: Tree,
    pub whole: Tree,
    /// A recording of an undisturbed recovery.
    pub recording: Recording,
    // Dropped last.
    pub site: Site,
}

impl DeltaScene {
    pub fn tell() -> DeltaScene {
        let site = Site::with_servers(1);
        let mut primary = site.cluster("primary");
        let home = primary.data().parent().unwrap().to_owned();
        let space = home.join("space");
        create_private_directory(&space);
        primary.config.set("recover.workers", 1); // the same steps in the same order
        primary.append_conf("autovacuum = off\n");
        primary.archive();
        primary.start();
        primary.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
        primary
            .psql("CREATE TABLE t AS SELECT g AS a, repeat('x', 200) AS b FROM generate_series(1, 2000) g");
        primary.psql("CREATE TABLE s TABLESPACE space AS SELECT * FROM t");
        primary.psql("CREATE TABLE gone AS SELECT * FROM t");
        primary.back_up("one");
        for table in ["t", "s"] {
            primary.psql(&format!("UPDATE {table} SET a = -a WHERE a % 500 = 0"));
            primary.psql(&format!("INSERT INTO {table} SELECT * FROM {table}"));
        }
        primary.psql("DROP TABLE gone; CREATE TABLE later TABLESPACE space AS SELECT * FROM t");
        primary.wait_archived(&primary.switch_wal());
        // The same in every cluster only from version 15 on.
        let database = primary.psql("SELECT 'base/' || oid FROM pg_database WHERE datname = 'postgres'");
        primary.pgark(&["agent", "stop"]).run().expect(0);
        primary.stop(Stop::Fast);
        let data = primary.data();
        create_private_directory(&data.join("extra"));
        create_private_directory(&data.join("extra/deep"));
        primary.write("extra/deep/file", "x");
        fs::remove_dir_all(data.join("pg_xact")).unwrap();
        fs::remove_file(data.join("base/1/PG_VERSION")).unwrap();
        create_private_directory(&data.join("base/1/PG_VERSION"));
        primary.write("base/1/PG_VERSION/file", "x");
        let version = data.join(database).join("PG_VERSION");
        fs::remove_file(&version).unwrap();
        symlink("/etc/passwd", &version).unwrap();

        let saved = site.directory().join("saved");
        create_private_directory(&saved);
        for name in ["data", "space"] {
            copy_directory(&home.join(name), &saved.join(name));
        }
        let recording = Recording::new(&site, "record");
        let mut scene = DeltaScene {
            primary,
            changed: state(&home),
            whole: Tree::default(),
            home,
            saved,
            recording,
            site,
        };
        scene.recording.of(scene.recover()).run().expect(0);
        scene.whole = state(&scene.home);
        assert!(scene.differs(&scene.changed).is_some(), "there is something to do");
        scene
    }

    /// The recovery command.
    pub fn recover(&self) -> Run {
        self.primary.recover(&self.primary.data(), &["--delta", "--backup", "one", "--target-immediate"])
    }

    /// Restores the state before the recovery.
    pub fn begin_anew(&self) {
        for name in ["data", "space"] {
            let _ = fs::remove_dir_all(self.home.join(name));
            copy_directory(&self.saved.join(name), &self.home.join(name));
        }
    }

    /// All files with their inodes, as the initial state for simulated power failures.
    pub fn files(&self) -> Vec<(PathBuf, u64, Vec<u8>)> {
        let links = self.primary.data().join("pg_tblspc");
        let files = ["data", "space"].into_iter().flat_map(|name| files_below(&self.home.join(name)));
        let file = |path: PathBuf| {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = fs::read(&path).unwrap();
            (path, metadata.ino(), content)
        };
        files.filter(|path| !path.starts_with(&links)).map(file).collect()
    }

    /// Asserts that no server can be started by mistake: either nothing was changed yet, or everything is in place, or
    /// `pg_control` is missing.
    #[track_caller]
    pub fn expect_harmless(&self, when: &str) {
        let found = state(&self.home);
        if let Some(complaint) = self.complaint(&found) {
            panic!("{when}: {complaint}");
        }
        if found.get(CONTROL_FILE).is_none() {
            expect_not_startable(&self.primary.data());
        }
    }

    /// The problem, if any, of the state after an interrupted recovery.
    pub fn complaint(&self, found: &Tree) -> Option<String> {
        found.get(CONTROL_FILE)?;
        let untouched = compare(found, &self.changed)?;
        let done = self.differs(found)?;
        Some(format!(
            "a server starts from what is neither the old state ({untouched}) nor the new one ({done})"
        ))
    }

    /// The difference between a state and the one after the recovery.
    pub fn differs(&self, found: &Tree) -> Option<String> {
        compare(found, &self.whole)
    }

    /// Runs the same command to completion, and asserts that it reaches the right state.
    #[track_caller]
    pub fn expect_converges(&self, when: &str) {
        self.recover().run().expect(0);
        self.expect_done(when);
    }

    /// Asserts that the recovery is complete.
    #[track_caller]
    pub fn expect_done(&self, when: &str) {
        let found = state(&self.home);
        if let Some(difference) = self.differs(&found) {
            panic!("{when}, it came to another state: {difference}");
        }
        let left = found.paths().find(|path| path.contains(MARKER) || *path == INTERLOCK);
        assert_eq!(left, None, "{when}");
    }
}

/// All files of the cluster.
fn state(home: &Path) -> Tree {
    let mut all = Tree::default();
    for name in ["data", "space"] {
        for (path, content) in Tree::read(&home.join(name)).files() {
            // The same files again, through the tablespace's link.
            if !path.starts_with("pg_tblspc/") {
                all.insert(&format!("{name}/{path}"), content.clone());
            }
        }
    }
    all
}

/// The first file that differs between two states. Ignores the marker file, and the lock file of an ended process,
/// which no server respects.
fn compare(found: &Tree, expected: &Tree) -> Option<String> {
    let counts = |path: &&str| {
        ["data/", "space/"].iter().any(|root| path.starts_with(root))
            && !path.contains(MARKER)
            && *path != INTERLOCK
    };
    let paths = found.paths().chain(expected.paths()).filter(counts);
    let differs = |path: &&str| found.get(path) != expected.get(path);
    let what = |path: &str| match (found.get(path), expected.get(path)) {
        (Some(_), Some(_)) => format!("\"{path}\" has another content"),
        (Some(_), None) => format!("\"{path}\" is there"),
        _ => format!("\"{path}\" is missing"),
    };
    paths.into_iter().find(differs).map(what)
}
