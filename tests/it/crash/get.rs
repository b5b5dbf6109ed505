//! `archive-get` and its agent are killed before each of their steps in turn; a file with the destination's name is
//! complete.

use super::{SEGMENT, STEPS_MAX, dying, forget_spool, start_agent};
use crate::support::{Cluster, Site, Tally, create_private_directory};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::path::PathBuf;

const DESTINATION: &str = "pg_wal/RECOVERYXLOG";

/// A cluster with an archived segment and the following ones; returns the name and content of the first.
fn cluster_with_archived(site: &Site) -> (Cluster, String, Vec<u8>) {
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    for number in SEGMENT..SEGMENT + 3 {
        cluster.archive_file(&wal.name(number), wal.bytes(number, 1));
    }
    (cluster, wal.name(SEGMENT), wal.bytes(SEGMENT, 1))
}

fn names_in_wal_directory(cluster: &Cluster) -> BTreeSet<String> {
    let entries = std::fs::read_dir(cluster.data().join("pg_wal")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// The destination is the complete file or does not exist, and there are no other new files beside it.
#[track_caller]
fn expect_whole_or_nothing(cluster: &Cluster, before: &BTreeSet<String>, bytes: &[u8], step: u64) {
    let mut names = names_in_wal_directory(cluster);
    if names.remove("RECOVERYXLOG") {
        assert!(cluster.read(DESTINATION) == bytes, "step {step} left a part of the file");
    }
    assert_eq!(&names, before, "step {step} left something beside the destination");
}

fn die_everywhere(cluster: &Cluster, name: &str, bytes: &[u8]) -> u64 {
    let before = names_in_wal_directory(cluster);
    let mut tally = Tally::of("get");
    for step in 1..STEPS_MAX {
        let _ = std::fs::remove_file(cluster.data().join(DESTINATION));
        // With a running agent, the steps are those of archive-get only.
        cluster.get(name, DESTINATION).expect(0);
        std::fs::remove_file(cluster.data().join(DESTINATION)).unwrap();
        let outcome = dying(cluster.program("archive-get").args([name, DESTINATION]), step).run();
        expect_whole_or_nothing(cluster, &before, bytes, step);
        if outcome.signal.is_none() {
            outcome.expect(0);
            return step - 1;
        }
        outcome.killed_by(Signal::SIGKILL);
        tally.kills += 1;
        cluster.get(name, DESTINATION).expect(0);
        assert!(cluster.read(DESTINATION) == bytes);
        tally.acknowledged += 1;
    }
    panic!("archive-get died before each of {STEPS_MAX} steps");
}

#[test]
fn a_get_that_dies_at_any_step_leaves_all_of_the_file_or_nothing() {
    let site = Site::without_server();
    let (cluster, name, bytes) = cluster_with_archived(&site);
    let steps = die_everywhere(&cluster, &name, &bytes);
    eprintln!("by a rename: died before each of {steps} steps");
    assert_eq!(steps, 1);
}

/// A directory on a tmpfs, removed when dropped.
struct OtherFileSystem(PathBuf);

impl Drop for OtherFileSystem {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_get_onto_another_file_system_that_dies_leaves_all_of_the_file_or_nothing() {
    let site = Site::without_server();
    let (mut cluster, name, bytes) = cluster_with_archived(&site);
    let other = OtherFileSystem(format!("/dev/shm/pgark-it-{}", std::process::id()).into());
    create_private_directory(&other.0);
    cluster.config.set("spool.directory", other.0.join("spool").as_path());
    let steps = die_everywhere(&cluster, &name, &bytes);
    eprintln!("by a copy: died before each of {steps} steps");
    assert!(steps >= 4, "the rename that fails, the file without a name, its content, its name");
    cluster.pgark(&["agent", "stop"]).run().expect(0);
}

#[test]
fn a_get_survives_the_death_of_its_agent_at_every_step() {
    let site = Site::without_server();
    let (cluster, name, bytes) = cluster_with_archived(&site);
    let before = names_in_wal_directory(&cluster);
    let mut tally = Tally::of("get-agent");
    for step in 1..STEPS_MAX {
        forget_spool(&cluster);
        let _ = std::fs::remove_file(cluster.data().join(DESTINATION));
        let agent = start_agent(&cluster, dying(cluster.pgark(&["agent"]), step));
        cluster.get(&name, DESTINATION).expect(0);
        let died = super::stop(&cluster, agent);
        assert!(cluster.read(DESTINATION) == bytes);
        expect_whole_or_nothing(&cluster, &before, &bytes, step);
        tally.acknowledged += 1;
        tally.kills += usize::from(died);
        if !died {
            eprintln!("the agent died before each of {} steps", step - 1);
            assert!(step > 6, "the spool, the file, its content, the answer");
            return;
        }
    }
    panic!("the agent died before each of {STEPS_MAX} steps");
}
