//! `pgark base-backup` of a data directory with links and special files, or with missing files.

use crate::backup_stream::stream;
use crate::support::{Cluster, Outcome, Site, create_private_directory};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A running primary that archives, with a table and a second database; also returns the table's file.
fn primary(site: &Site) -> (Cluster, String) {
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    primary.psql("CREATE DATABASE other");
    primary.psql("CHECKPOINT");
    let file = primary.psql("SELECT pg_relation_filepath('t')");
    (primary, file)
}

fn both_methods(primary: &Cluster, label: &str) -> [Outcome; 2] {
    let files =
        primary.pgark(&["base-backup", "--checkpoint", "fast"]).arg("--label").arg(format!("{label}-files"));
    [files.run(), stream(primary, &format!("{label}-stream")).run()]
}

/// Moves a file or directory away, and back when dropped.
struct Moved {
    from: PathBuf,
    to: PathBuf,
}

impl Moved {
    fn away(site: &Site, primary: &Cluster, path: &str) -> Moved {
        let (from, to) = (primary.data().join(path), site.directory().join("moved"));
        fs::rename(&from, &to).unwrap();
        Moved { from, to }
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.from);
        fs::rename(&self.to, &self.from).unwrap();
    }
}

#[test]
fn data_behind_a_link_fails_the_backup() {
    let site = Site::with_servers(1);
    let (primary, file) = primary(&site);
    let database = format!("base/{}", primary.psql("SELECT oid FROM pg_database WHERE datname = 'other'"));
    for path in [file.as_str(), &database, "pg_xact"] {
        let moved = Moved::away(&site, &primary, path);
        symlink(&moved.to, &moved.from).unwrap();
        for outcome in both_methods(&primary, "linked") {
            outcome.expect(2).says(path).says("would be missing from the backup").says("HINT");
        }
    }
    // Entries without server data may be of any type: they are reported and excluded.
    let elsewhere = site.directory().join("elsewhere");
    create_private_directory(&elsewhere);
    for name in ["log", "server.crt"] {
        symlink(&elsewhere, primary.data().join(name)).unwrap();
    }
    let [files, streamed] = both_methods(&primary, "harmless").map(|outcome| outcome.expect(0));
    files.says("log\" is not part of the backup").says("server.crt");
    // Messages of the server are shown.
    streamed.says("the server reports").says("./log").says("./server.crt");
}

#[test]
fn a_cluster_that_lacks_what_all_have_is_not_backed_up() {
    let site = Site::with_servers(1);
    let (primary, _) = primary(&site);
    let shared = primary.psql("SELECT pg_relation_filepath('pg_shdescription')");
    let database =
        primary.psql("SELECT 'base/' || oid || '/PG_VERSION' FROM pg_database WHERE datname = 'other'");
    for path in ["PG_VERSION", &shared, "pg_xact/0000", &database] {
        let _moved = Moved::away(&site, &primary, path);
        for outcome in both_methods(&primary, "lacking") {
            outcome.expect(4).says(path).says("would be unusable");
        }
    }
    for (method, outcome) in ["files", "stream"].iter().zip(both_methods(&primary, "whole")) {
        outcome.expect(0);
        assert!(site.archive_of(&primary).backup(&format!("whole-{method}")).is_dir());
    }
    let labels = fs::read_dir(site.archive_of(&primary).backup("x").parent().unwrap()).unwrap();
    let complete =
        labels.filter(|label| Path::new(&label.as_ref().unwrap().path()).join("manifest.json").exists());
    assert_eq!(complete.count(), 2, "nothing else is listed");
}
