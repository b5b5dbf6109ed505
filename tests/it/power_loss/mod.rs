//! Power failures after every operation: the programs record their disk operations, and each prefix of that record
//! yields simulated states after a power failure, in which changes that are not durable are randomly lost or partly
//! present.
//!
//! In each state, the checker must find everything acknowledged so far, and nothing incomplete. `strace` verifies the
//! record.

mod delta;
mod truth;

pub use delta::delta_and_cut;

use crate::support::checker::{Acknowledged, Tree, complaints};
use crate::support::{
    Cluster, PATIENCE, PowerCuts, Random, Recording, Run, Running, Site, Stop, Tally, wait_until,
    wants_everything,
};

/// A segment number after those that initdb creates.
const SEGMENT: u64 = 0x40;

/// Number of simulated power failures after each operation.
fn cuts_per_operation() -> usize {
    if wants_everything() { 50 } else { 4 }
}

/// Pushes files one after another through a recorded agent with this defect, and simulates a power failure after every
/// operation. Returns the first state with a problem.
pub fn push_and_cut(mutant: Option<&str>) -> Option<String> {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let recording = Recording::new(&site, "record");
    let agent = recorded_agent(&cluster, &recording, mutant);
    let files: Vec<(String, Vec<u8>)> =
        (SEGMENT..SEGMENT + 3).map(|number| (wal.name(number), wal.bytes(number, 1))).collect();
    for (name, bytes) in &files {
        cluster.put_wal(name, bytes);
        // A defective agent may acknowledge too early, so that the next push comes before it is done.
        cluster.push(&format!("pg_wal/{name}")).expect(0);
        let archive = site.archive_of(&cluster);
        wait_until("the file is stored", PATIENCE, || archive.holds(name));
    }
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    agent.wait().expect(0);

    let mut random = Random::seeded("power cuts of pushes");
    let mut tally = Tally::of("push-power");
    let mut cuts = PowerCuts::of(&recording);
    let mut acknowledged = Acknowledged::default();
    let mut operations = 0;
    while let Some(operation) = cuts.step() {
        operations += 1;
        if operation.name == "acknowledge" {
            let (name, bytes) = &files[acknowledged.files.len()];
            acknowledged.file(name, bytes);
        }
        for _ in 0..cuts_per_operation() {
            let left = cuts.cut(&mut random, &site.repository());
            let complaints = complaints(&left, &acknowledged);
            if !complaints.is_empty() {
                return Some(format!(
                    "after {operations} operations, {operation:?}:\n{}",
                    complaints.join("\n")
                ));
            }
            tally.faults += 1;
        }
    }
    assert_eq!(acknowledged.files.len(), files.len());
    assert_eq!(cuts.uncut(&site.repository()), Tree::read(&site.repository()), "the record tells all of it");
    tally.acknowledged = files.len();
    begin_again_after_cuts(&site, &cluster, &recording, &files[0], &mut random);
    None
}

fn recorded_agent(cluster: &Cluster, recording: &Recording, mutant: Option<&str>) -> Running {
    let mut run = recording.of(cluster.pgark(&["agent"]));
    if let Some(mutant) = mutant {
        run = run.env("PGARK_MUTANT", mutant);
    }
    let agent = run.spawn();
    wait_until("the agent listens", PATIENCE, || {
        let entries = std::fs::read_dir(cluster.spool()).into_iter().flatten();
        entries.flatten().any(|entry| entry.path().extension().is_some_and(|extension| extension == "sock"))
    });
    agent
}

/// After a power failure, a push succeeds without help.
fn begin_again_after_cuts(
    site: &Site,
    cluster: &Cluster,
    recording: &Recording,
    (name, bytes): &(String, Vec<u8>),
    random: &mut Random,
) {
    let operations = recording.operations().len();
    for _ in 0..4 {
        let mut cuts = PowerCuts::of(recording);
        (0..random.below(operations)).for_each(|_| drop(cuts.step()));
        let (repository, spool) = (site.repository(), cluster.spool());
        put_in_place(&cuts.cut(random, &repository), &repository);
        put_in_place(&cuts.cut(random, &spool), &spool);
        cluster.put_wal(name, bytes);
        cluster.push(&format!("pg_wal/{name}")).expect(0);
        let complaints = complaints(&Tree::read(&repository), &Acknowledged::with_file(name, bytes));
        assert!(complaints.is_empty(), "{complaints:?}");
        cluster.pgark(&["agent", "stop"]).run().expect(0);
    }
}

/// Replaces the content of a directory with a tree.
fn put_in_place(tree: &Tree, directory: &std::path::Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.unwrap();
    }
    tree.write(directory);
    Run::as_caller("/bin/chown").args(["-R", "--reference"]).arg(directory).arg(directory).run().expect(0);
}

/// Takes a recorded backup with this defect, and simulates a power failure after every operation. Returns the first
/// problem.
pub fn back_up_and_cut(mutant: Option<&str>) -> Option<String> {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    let recording = Recording::new(&site, "record");
    let mut backup = recording.of(primary.pgark(&["base-backup", "--checkpoint", "fast", "--label", "one"]));
    if let Some(mutant) = mutant {
        backup = backup.env("PGARK_MUTANT", mutant);
    }
    backup.run().expect(0);
    primary.stop(Stop::Fast);

    // Another program archived the WAL durably: the record covers the backup only.
    let wal = Tree::read(&site.repository());
    let mut random = Random::seeded("power cuts of a backup");
    let mut tally = Tally::of("backup-power");
    let mut cuts = PowerCuts::of(&recording);
    let with_wal = |mut left: Tree| {
        for (path, content) in wal.files().filter(|(path, _)| !path.contains("/backup/")) {
            left.insert(path, content.clone());
        }
        left
    };
    let mut acknowledged = Acknowledged::default();
    loop {
        let more = cuts.step();
        if more.is_none() {
            acknowledged.backups.insert("one".to_owned());
        }
        for _ in 0..cuts_per_operation() {
            let left = with_wal(cuts.cut(&mut random, &site.repository()));
            let complaints = complaints(&left, &acknowledged);
            if !complaints.is_empty() {
                return Some(format!("after {more:?}:\n{}", complaints.join("\n")));
            }
            tally.faults += 1;
        }
        if more.is_none() {
            tally.acknowledged = 1;
            return None;
        }
    }
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_after_every_operation() {
    assert_eq!(push_and_cut(None), None);
}

#[test]
fn a_backup_that_was_published_survives_a_power_cut_after_every_operation() {
    assert_eq!(back_up_and_cut(None), None);
}

#[test]
fn a_power_cut_in_a_recovery_leaves_nothing_to_start_or_everything() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.back_up("one");
    primary.stop(Stop::Fast);
    let target = site.directory().join("target");
    let recording = Recording::new(&site, "record");
    let recover = || primary.recover(&target, &["--latest"]);
    recording.of(recover()).run().expect(0);
    let whole = Tree::read(&target);
    let mut random = Random::seeded("power cuts of a recovery");
    let mut tally = Tally::of("recover-power");
    let mut cuts = PowerCuts::of(&recording);
    let operations = recording.operations();
    let control = |path: &str| path.ends_with("/global/pg_control");
    let decisive = operations
        .iter()
        .position(|operation| control(&operation.path) || control(&operation.other))
        .expect("pg_control is put in place");
    // Without pg_control no server starts, so a sample of the earlier states is enough.
    let step = if wants_everything() { 1 } else { operations.len() / 40 };
    let resumed = random.below(decisive);
    for number in 0..=operations.len() {
        if number == resumed {
            let left = cuts.cut(&mut random, &target);
            assert!(left.get("global/pg_control").is_none());
        }
        if number + 3 >= decisive || number % step.max(1) == 0 {
            for _ in 0..if number + 3 >= decisive { cuts_per_operation() } else { 1 } {
                let left = cuts.cut(&mut random, &target);
                expect_nothing_or_everything(&left, &whole, number == operations.len());
                tally.faults += 1;
            }
        }
        if cuts.step().is_none() {
            break;
        }
    }
    tally.recoveries = 1;

    // The same command completes after a power failure.
    let mut cuts = PowerCuts::of(&recording);
    let claimed =
        operations.iter().position(|operation| operation.name == "sync-directory").unwrap_or_default();
    (0..claimed + 1 + random.below(decisive - claimed)).for_each(|_| drop(cuts.step()));
    let left = cuts.cut(&mut random, &target);
    put_in_place(&left, &target);
    recover().run().expect(0);
    expect_nothing_or_everything(&Tree::read(&target), &whole, true);
    tally.recoveries += 1;
}

/// Without `pg_control`, no server starts. With it, all restored files exist.
#[track_caller]
fn expect_nothing_or_everything(left: &Tree, whole: &Tree, finished: bool) {
    let startable = left.get("global/pg_control").is_some();
    assert!(startable || !finished, "a recovery that has ended is gone");
    if startable {
        for (path, content) in whole.files() {
            assert!(
                left.get(path) == Some(content),
                "a server could start, and \"{path}\" is not what it was"
            );
        }
    }
    assert!(!finished || left.get("pgark-recovery-incomplete").is_none(), "the marker stays");
}
