//! A combination is killed: the full backup is complete or does not count, and the chain is unchanged.

use super::steps::chosen;
use super::{dying, expect_repository_sound};
use crate::support::checker::{Acknowledged, Tree};
use crate::support::{Cluster, Recording, Run, Site, Stop, Tally, wants_everything};
use nix::sys::signal::Signal;
use std::path::Path;

const LABEL: &str = "combined";

fn combine(cluster: &Cluster) -> Run {
    cluster.pgark(&["combine", "incremental", "--label", LABEL])
}

/// The restored content of a backup.
fn restored(cluster: &Cluster, label: &str, into: &Path) -> Tree {
    cluster.recover(into, &["--backup", label, "--target-immediate"]).run().expect(0);
    let mut tree = Tree::read(into);
    // The file contains the directory and the time.
    tree.remove("postgresql.auto.conf").expect("pgark writes it");
    tree
}

#[test]
fn a_combination_that_dies_at_any_step_is_there_or_not_and_the_next_succeeds() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.config.set("backup.workers", 1); // the same steps in the same order
    primary.archive();
    primary.start();
    primary.psql("CREATE TABLE t AS SELECT g AS a, repeat('x', 200) AS b FROM generate_series(1, 10000) g");
    primary.back_up("full");
    primary.psql("UPDATE t SET b = 'changed' WHERE a % 1000 = 0");
    let incremental =
        ["base-backup", "--checkpoint", "fast", "--type", "incremental", "--label", "incremental"];
    primary.pgark(&incremental).run().expect(0);
    primary.stop(Stop::Fast);
    let place = site.archive_of(&primary).backup(LABEL);
    let recording = Recording::new(&site, "record");
    recording.of(combine(&primary)).run().expect(0);
    std::fs::remove_dir_all(&place).unwrap();

    let mut acknowledged = Acknowledged::default();
    acknowledged.backups.extend(["full", "incremental"].map(str::to_owned));
    let mut tally = Tally::of("combine");
    // Most kinds of steps are those of a backup, whose suite covers all of them.
    let stride = if wants_everything() { 1 } else { 2 };
    for (step, kind) in chosen(&recording, "steps of a combination").into_iter().rev().step_by(stride) {
        dying(combine(&primary), step).run().killed_by(Signal::SIGKILL);
        tally.kills += 1;
        expect_repository_sound(&site, &acknowledged, step);
        let exists = place.join("manifest.json").is_file();
        let again = combine(&primary).run();
        if exists {
            // Killed after its publication, so it is a backup, and the label is in use.
            again.expect(4).says("already holds a backup");
        } else {
            again.expect(0);
            assert!(!place.join("running").exists(), "the death before step {step} ({kind}) left a mark");
        }
        acknowledged.backups.insert(LABEL.to_owned());
        expect_repository_sound(&site, &acknowledged, step);
        tally.acknowledged += 1;
        acknowledged.backups.remove(LABEL);
        std::fs::remove_dir_all(&place).unwrap();
    }
    combine(&primary).run().expect(0);
    let directory = |name: &str| site.directory().join(name);
    let (chain, combined) = (
        restored(&primary, "incremental", &directory("of-the-chain")),
        restored(&primary, LABEL, &directory("of-the-combination")),
    );
    assert!(chain.paths().eq(combined.paths()));
    for (path, content) in chain.files() {
        assert!(combined.get(path) == Some(content), "{path}");
    }
}
