//! The agent is killed before each of its steps in turn; everything acknowledged is stored, and nothing needs manual
//! repair.

use super::{SEGMENT, STEPS_MAX, clear, dying, expect_repository_sound, forget_spool, start_agent};
use crate::support::checker::Acknowledged;
use crate::support::{Archive, Cluster, Site, Tally, history, pgark_program, wants_everything};
use std::path::PathBuf;

/// Minimum number of steps to create the repository and store a file: the temporary directory and its name; for
/// format.json and for the file each a temporary file, its content, its directories with their names, and its own name.
const STEPS_MIN: u64 = 12;

/// A file for `pg_wal`: its name, its content, and different content for the same name.
struct WalFile {
    name: String,
    bytes: Vec<u8>,
    others: Vec<u8>,
}

fn path_of(file: &WalFile) -> String {
    format!("pg_wal/{}", file.name)
}

fn segment(cluster: &Cluster, number: u64) -> WalFile {
    let wal = cluster.fake_wal();
    WalFile { name: wal.name(number), bytes: wal.bytes(number, 1), others: wal.bytes(number, 2) }
}

fn acknowledged(files: &[WalFile]) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    files.iter().for_each(|file| acknowledged.file(&file.name, &file.bytes));
    acknowledged
}

fn temporary_files(site: &Site) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(site.repository().join(".pgark-temporary")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Starts over with an empty repository and no spool.
fn begin_anew(site: &Site, cluster: &Cluster, files: &[WalFile]) {
    forget_spool(cluster);
    clear(&site.repository());
    files.iter().for_each(|file| cluster.put_wal(&file.name, &file.bytes));
}

/// Pushes `files` in parallel, with an agent that is killed before each step in turn; returns the number of kills.
fn die_everywhere(files: impl Fn(&Cluster) -> Vec<WalFile>) -> u64 {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let archive = site.archive_of(&cluster);
    let files = files(&cluster);
    let acknowledged = acknowledged(&files);
    let mut tally = Tally::of("push");
    for step in 1..STEPS_MAX {
        begin_anew(&site, &cluster, &files);
        let agent = start_agent(&cluster, dying(cluster.pgark(&["agent"]), step));
        let start = |file: &WalFile| cluster.program("archive-push").arg(path_of(file)).spawn();
        let pushes: Vec<_> = files.iter().map(start).collect();
        for push in pushes {
            push.wait().expect(0);
        }
        expect_repository_sound(&site, &acknowledged, step);
        expect_written_once(&cluster, &archive, &files);
        let died = super::stop(&cluster, agent);
        expect_nothing_left(&site, &cluster, &files, step);
        expect_repository_sound(&site, &acknowledged, step);
        tally.acknowledged += files.len();
        tally.kills += usize::from(died);
        if !died {
            return step - 1;
        }
    }
    panic!("the agent died before each of {STEPS_MAX} steps");
}

/// The next agent removes the remains of the killed one. It has already run, unless the first one was killed during its
/// shutdown.
#[track_caller]
fn expect_nothing_left(site: &Site, cluster: &Cluster, files: &[WalFile], step: u64) {
    if !temporary_files(site).is_empty() {
        cluster.put_wal(&files[0].name, &files[0].bytes);
        cluster.push(&path_of(&files[0])).expect(0);
        // It answers while it sweeps, and exits afterwards.
        cluster.pgark(&["agent", "stop"]).run().expect(0);
    }
    let left = temporary_files(site);
    assert!(left.is_empty(), "the death before step {step} left {left:?}");
}

/// Pushing the same content again succeeds, and different content is rejected.
#[track_caller]
fn expect_written_once(cluster: &Cluster, archive: &Archive, files: &[WalFile]) {
    for file in files {
        let path = path_of(file);
        let stored = archive.stored(&file.name);
        cluster.push(&path).expect(0);
        cluster.put_wal(&file.name, &file.others);
        cluster.push(&path).expect(4);
        assert!(archive.stored(&file.name) == stored, "{} was written twice", file.name);
    }
}

#[test]
fn a_segment_survives_the_death_of_its_agent_at_every_step() {
    if !wants_everything() {
        return; // that of two segments takes the same steps
    }
    let steps = die_everywhere(|cluster| vec![segment(cluster, SEGMENT)]);
    eprintln!("one segment: died before each of {steps} steps");
    assert!(steps >= STEPS_MIN);
}

#[test]
fn a_history_file_survives_the_death_of_its_agent_at_every_step() {
    if !wants_everything() {
        return;
    }
    let steps = die_everywhere(|_| {
        let content = |switch| history(&[(1, switch)]).into_bytes();
        let name = "00000002.history".to_owned();
        vec![WalFile { name, bytes: content("0/3000000"), others: content("0/3000028") }]
    });
    eprintln!("one history file: died before each of {steps} steps");
    assert!(steps >= STEPS_MIN);
}

#[test]
fn two_segments_at_once_survive_the_death_of_their_agent_at_every_step() {
    let steps = die_everywhere(|cluster| vec![segment(cluster, SEGMENT), segment(cluster, SEGMENT + 1)]);
    eprintln!("two segments: died before each of {steps} steps");
    assert!(steps > STEPS_MIN);
}

/// The agent is killed after the file has its name, and before it can answer: pushed again, the file is acknowledged.
#[test]
fn what_was_stored_without_an_answer_is_acknowledged_when_it_is_pushed_again() {
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    let archive = site.archive_of(&cluster);
    let files = [segment(&cluster, SEGMENT)];
    let mut unanswered = 0;
    for step in 1..STEPS_MAX {
        begin_anew(&site, &cluster, &files);
        // Prevents a new agent from replacing the killed one before the check.
        cluster.config.set("agent.program", "/bin/false");
        let _agent = start_agent(&cluster, dying(cluster.pgark(&["agent"]), step));
        let answer = cluster.push(&path_of(&files[0]));
        if answer.code == Some(0) {
            expect_repository_sound(&site, &acknowledged(&files), step);
            eprintln!("stored without an answer: {unanswered} of {} deaths", step - 1);
            assert!(unanswered >= 2, "before the name is durable, and after that");
            return;
        }
        answer.expect(3);
        unanswered += u32::from(archive.holds(&files[0].name));
        expect_repository_sound(&site, &Acknowledged::default(), step);
        cluster.config.set("agent.program", pgark_program("pgark").as_path());
        cluster.push(&path_of(&files[0])).expect(0);
        expect_repository_sound(&site, &acknowledged(&files), step);
    }
    panic!("the agent died before each of {STEPS_MAX} steps");
}
