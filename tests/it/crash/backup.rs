//! A base backup is killed: it is complete or does not count, and the next one succeeds without help.

use super::steps::chosen;
use super::{dying, expect_repository_sound};
use crate::support::checker::Acknowledged;
use crate::support::{Cluster, Recording, Run, Site, Tally};
use nix::sys::signal::Signal;

fn base_backup(cluster: &Cluster, label: &str) -> Run {
    cluster.pgark(&["base-backup", "--checkpoint", "fast", "--label", label])
}

/// Kills a backup before this step, or before an earlier one if this run has fewer steps. Returns its label and the
/// step.
fn die(site: &Site, primary: &Cluster, step: u64) -> (String, u64) {
    for step in (1..=step).rev() {
        let label = format!("step-{step}");
        let outcome = dying(base_backup(primary, &label), step).run();
        if outcome.signal.is_some() {
            outcome.killed_by(Signal::SIGKILL);
            return (label, step);
        }
        outcome.expect(0);
        std::fs::remove_dir_all(site.archive_of(primary).backup(&label)).unwrap();
    }
    panic!("it does not die before any step");
}

#[test]
fn a_backup_that_dies_at_any_step_is_there_or_not_and_the_next_succeeds() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.config.set("backup.workers", 1); // the same steps in the same order
    primary.archive();
    primary.start();
    let recording = Recording::new(&site, "record");
    recording.of(base_backup(&primary, "recorded")).run().expect(0);
    let mut acknowledged = Acknowledged::default();
    acknowledged.backups.insert("recorded".to_owned());
    let mut tally = Tally::of("backup");
    for (step, kind) in chosen(&recording, "steps of a backup") {
        let (label, step) = die(&site, &primary, step);
        tally.kills += 1;
        expect_repository_sound(&site, &acknowledged, step);
        let exists = site.archive_of(&primary).backup(&label).join("manifest.json").is_file();
        let again = base_backup(&primary, &label).run();
        if exists {
            // Killed after its publication, so it is a backup, and the label is in use.
            again.expect(4).says("already holds a backup");
        } else {
            again.expect(0);
        }
        acknowledged.backups.insert(label.clone());
        expect_repository_sound(&site, &acknowledged, step);
        tally.acknowledged += 1;
        let place = site.archive_of(&primary).backup(&label);
        let left = !exists && place.join("running").exists();
        assert!(!left, "the death before step {step} ({kind}) left a mark in {}", place.display());
        // Removed so that it is not checked again and again.
        std::fs::remove_dir_all(place).unwrap();
        acknowledged.backups.remove(&label);
    }
}
