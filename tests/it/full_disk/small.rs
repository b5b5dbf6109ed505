//! Repository, spool and target on file systems that are too small.

use crate::support::checker::{Acknowledged, Tree, expect_sound};
use crate::support::{Cluster, PATIENCE, Site, SmallDisk, Stop, Tally, wait_until};
use std::path::Path;
use std::time::Duration;

/// A segment number after those that initdb creates.
const SEGMENT: u64 = 0x40;

/// Time limit for an error.
const AT_ONCE: Duration = Duration::from_secs(10);

const NO_SPACE: &str = "no space left on device";

/// Number of files in a directory; 0 if it does not exist.
fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).into_iter().flatten().count()
}

fn push(cluster: &Cluster, number: u64) -> crate::support::Outcome {
    let wal = cluster.fake_wal();
    cluster.put_wal(&wal.name(number), wal.bytes(number, 1));
    cluster.push(&format!("pg_wal/{}", wal.name(number)))
}

#[test]
fn a_full_repository_keeps_what_it_has_and_goes_on_when_there_is_room() {
    let site = Site::without_server();
    let Some(disk) = SmallDisk::mount(&site.repository(), 2048) else { return };
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let mut tally = Tally::of("full-repository");
    let mut acknowledged = Acknowledged::default();
    let mut number = SEGMENT;
    loop {
        let outcome = push(&cluster, number);
        if outcome.code != Some(0) {
            outcome.expect(3).says(NO_SPACE).says(&wal.name(number)).within(AT_ONCE);
            break;
        }
        acknowledged.file(&wal.name(number), &wal.bytes(number, 1));
        number += 1;
        assert!(number < SEGMENT + 10, "it is never full");
    }
    assert!(number > SEGMENT, "it takes nothing");
    tally.faults = 1;
    let temporary = site.repository().join(".pgark-temporary");
    wait_until("nothing half is left", PATIENCE, || entries(&temporary) == 0);
    expect_sound(&Tree::read(&site.repository()), &acknowledged, "with a full repository");
    disk.resize(8192);
    wait_until("there is room again", PATIENCE, || push(&cluster, number).code == Some(0));
    acknowledged.file(&wal.name(number), &wal.bytes(number, 1));
    expect_sound(&Tree::read(&site.repository()), &acknowledged, "with room again");
    tally.acknowledged = acknowledged.files.len();
}

#[test]
fn a_read_only_repository_is_told_and_passes() {
    let site = Site::without_server();
    let Some(disk) = SmallDisk::mount(&site.repository(), 4096) else { return };
    let cluster = site.cluster("primary");
    push(&cluster, SEGMENT).expect(0);
    disk.set_read_only(true);
    push(&cluster, SEGMENT + 1).expect(3).says("read-only file system").within(AT_ONCE);
    // Reading still works.
    cluster.get(&cluster.fake_wal().name(SEGMENT), "pg_wal/RECOVERYXLOG").expect(0);
    disk.set_read_only(false);
    wait_until("it can be written to again", PATIENCE, || push(&cluster, SEGMENT + 1).code == Some(0));
}

#[test]
fn a_full_spool_is_told_and_passes() {
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    let Some(disk) = SmallDisk::mount(&site.directory().join("small"), 512) else { return };
    cluster.config.set("spool.directory", disk.path().join("spool").as_path());
    let (name, destination) = (cluster.fake_wal().name(SEGMENT), "pg_wal/RECOVERYXLOG");
    disk.fill();
    let full = format!("the spool \"{}\" is full", disk.path().join("spool").display());
    push(&cluster, SEGMENT).expect(3).says(&full).says(NO_SPACE).within(AT_ONCE);
    disk.empty();
    wait_until("there is room again", PATIENCE, || push(&cluster, SEGMENT).code == Some(0));
    // The parts of the spool that a push needs exist already, and a get uses another directory.
    disk.fill();
    push(&cluster, SEGMENT + 1).expect(0);
    cluster.get(&name, destination).expect(0).says(&full).says("into pg_wal").within(AT_ONCE);
    assert!(cluster.read(destination) == cluster.fake_wal().bytes(SEGMENT, 1));
    wait_until("nothing else is left in pg_wal", PATIENCE, || leftovers(&cluster) == 0);
    let status = cluster.pgark(&["status"]).run().expect(0).stdout;
    assert!(status.contains(&full), "{status}");
    disk.empty();
    disk.resize(4096);
    cluster.get(&name, destination).expect(0);
    assert!(cluster.read(destination) == cluster.fake_wal().bytes(SEGMENT, 1));
    cluster.pgark(&["agent", "stop"]).run().expect(0);
}

/// Number of pgark's files in `pg_wal`.
fn leftovers(cluster: &Cluster) -> usize {
    let entries = std::fs::read_dir(cluster.data().join("pg_wal")).unwrap().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".pgark")).count()
}

#[test]
fn a_read_only_spool_is_named_at_once_and_passes() {
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    let Some(disk) = SmallDisk::mount(&site.directory().join("small"), 4096) else { return };
    cluster.config.set("spool.directory", disk.path().join("spool").as_path());
    // Long enough to start more than one agent on a busy machine.
    cluster.config.set("get.deadline", "8s");
    let (name, destination) = (cluster.fake_wal().name(SEGMENT), "pg_wal/RECOVERYXLOG");
    push(&cluster, SEGMENT).expect(0);
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    // A killed process that fetched into pg_wal leaves a file, which the next one removes.
    cluster.write("pg_wal/.pgark-fetch-dead", "x");
    disk.set_read_only(true);
    let read_only = format!("the spool \"{}\" is read-only", disk.path().join("spool").display());
    // No agent can start: reported at once, whatever the deadline.
    push(&cluster, SEGMENT + 1).expect(3).says(&read_only).within(AT_ONCE);
    let get = cluster.get(&name, destination).expect(126);
    assert!(get.stderr.matches(&read_only).count() >= 2, "at once, and in the end: {get}");
    let status = cluster.pgark(&["status"]).run().expect(0).stdout;
    assert!(status.contains(&read_only), "{status}");
    disk.set_read_only(false);
    cluster.get(&name, destination).expect(0);
    assert_eq!(leftovers(&cluster), 0);
    cluster.pgark(&["agent", "stop"]).run().expect(0);
}

#[test]
fn a_backup_into_a_full_repository_leaves_nothing_and_the_next_succeeds() {
    let site = Site::with_servers(1);
    let Some(disk) = SmallDisk::mount(&site.repository(), 3072) else { return };
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    let base_backup = || primary.pgark(&["base-backup", "--checkpoint", "fast", "--label", "one"]).run();
    let segment = primary.switch_wal();
    primary.wait_archived(&segment);
    let outcome = base_backup().expect(3).says(NO_SPACE).within(AT_ONCE);
    let of_the_server = format!("could not read \"{}", primary.data().display());
    assert!(
        !outcome.stderr.contains(&of_the_server),
        "the repository is full, not the server's file: {outcome}"
    );
    let archive = site.archive_of(&primary);
    assert_eq!(entries(&archive.backup("one")), 0);
    disk.resize(64 << 10);
    base_backup().expect(0);
    let mut acknowledged = Acknowledged::default();
    acknowledged.backups.insert("one".to_owned());
    expect_sound(&Tree::read(&site.repository()), &acknowledged, "with room");
    primary.stop(Stop::Fast);
}

#[test]
fn a_target_that_fills_up_while_it_is_restored_cannot_be_started_and_is_begun_anew() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary.back_up("one");
    primary.stop(Stop::Fast);
    let Some(disk) = SmallDisk::mount(&site.directory().join("small"), 8192) else { return };
    let target = disk.path().join("target");
    // Lack of space is detected before anything is written.
    primary.recover(&target, &["--latest"]).run().expect(3).says("free").within(AT_ONCE);
    assert!(!target.exists());
    // Remains will be replaced, so the space is not checked in advance: the disk fills up on the way.
    std::fs::create_dir(&target).unwrap();
    crate::support::give(&target);
    crate::support::write_file(&target.join("pgark-recovery-incomplete"), "");
    primary.recover(&target, &["--latest"]).run().expect(3).says(NO_SPACE);
    crate::support::expect_not_startable(&target);
    disk.resize(128 << 10);
    primary.recover(&target, &["--latest"]).run().expect(0);
    assert!(target.join("global/pg_control").exists());
}
