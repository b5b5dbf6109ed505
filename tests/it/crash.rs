//! The agent dies before each of its durable operations in turn; what was acknowledged is stored, and nothing needs help.

use crate::support::{Archive, Cluster, PATIENCE, Running, Site, history, pgark_program, wait_until};
use std::path::PathBuf;

const SEGMENT: u64 = 0x40;

/// More than an agent has operations for one file; where it is passed the agent never survives.
const OPERATIONS_MAX: u64 = 200;

/// Creating the place and storing one file takes at least so many: the temporary directory and its name; for
/// format.json and for the file each a temporary file, its content, its directories with their names, and its own name.
const OPERATIONS_MIN: u64 = 9;

/// A file for `pg_wal`: its name, its bytes, and other bytes that might have its name.
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

/// Starts an agent that dies before its `operation`-th durable operation, and waits until it listens or is dead.
fn start_dying_agent(cluster: &Cluster, operation: u64) -> Running {
    let start = cluster.pgark(&["agent"]).env("PGARK_DIE_BEFORE", operation.to_string());
    let mut agent = start.spawn();
    wait_until("the agent listens or has died", PATIENCE, || {
        has_socket(cluster) || agent.try_status().is_some()
    });
    agent
}

fn has_socket(cluster: &Cluster) -> bool {
    let mut entries = std::fs::read_dir(cluster.spool()).into_iter().flatten();
    entries.any(|entry| entry.unwrap().file_name().to_string_lossy().ends_with(".sock"))
}

fn temporary_files(site: &Site) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(site.repository().join(".pgark-temporary")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Pushes `files` at once, with the agent that dies before each operation in turn; says how often one died.
fn die_everywhere(files: impl Fn(&Cluster) -> Vec<WalFile>) -> u64 {
    for operation in 1..OPERATIONS_MAX {
        let site = Site::without_server();
        let cluster = site.cluster("primary");
        let archive = site.archive_of(&cluster);
        let files = files(&cluster);
        files.iter().for_each(|file| cluster.put_wal(&file.name, &file.bytes));
        let mut dying = start_dying_agent(&cluster, operation);
        let start = |file: &WalFile| cluster.program("archive-push").arg(path_of(file)).spawn();
        let pushes: Vec<_> = files.iter().map(start).collect();
        for push in pushes {
            push.wait().expect(0);
        }
        // Its last operation follows the name of the last file, and may be a moment behind the answer.
        let died = dying.try_status().is_some();
        expect_stored(&archive, &files, operation);
        expect_nothing_left(&site, &cluster, operation);
        expect_written_once(&cluster, &archive, &files);
        if !died {
            return operation - 1;
        }
    }
    panic!("the agent died before each of {OPERATIONS_MAX} operations");
}

#[track_caller]
fn expect_stored(archive: &Archive, files: &[WalFile], operation: u64) {
    for file in files {
        assert!(archive.raw(&file.name) == file.bytes, "{} differs, operation {operation}", file.name);
    }
}

/// The next agent removes what the dead one left.
#[track_caller]
fn expect_nothing_left(site: &Site, cluster: &Cluster, operation: u64) {
    if let Some(agent) = cluster.find_agent() {
        agent.kill();
    }
    std::fs::read_dir(cluster.spool()).unwrap().map(|entry| entry.unwrap().path()).for_each(|path| {
        if path.extension().is_some_and(|extension| extension == "sock") {
            std::fs::remove_file(path).unwrap();
        }
    });
    let next = cluster.pgark(&["agent"]).spawn();
    wait_until("the next agent listens", PATIENCE, || has_socket(cluster));
    // It answers while it sweeps, and ends after that.
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    next.wait().expect(0);
    let left = temporary_files(site);
    assert!(left.is_empty(), "operation {operation} left {left:?}");
}

/// The same bytes again succeed, and others are refused.
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
fn a_segment_survives_the_death_of_its_agent_at_every_operation() {
    let operations = die_everywhere(|cluster| vec![segment(cluster, SEGMENT)]);
    eprintln!("one segment: died before each of {operations} operations");
    assert!(operations >= OPERATIONS_MIN);
}

#[test]
fn a_history_file_survives_the_death_of_its_agent_at_every_operation() {
    let operations = die_everywhere(|_| {
        let content = |switch| history(&[(1, switch)]).into_bytes();
        let name = "00000002.history".to_owned();
        vec![WalFile { name, bytes: content("0/3000000"), others: content("0/3000028") }]
    });
    eprintln!("one history file: died before each of {operations} operations");
    assert!(operations >= OPERATIONS_MIN);
}

#[test]
fn two_segments_at_once_survive_the_death_of_their_agent_at_every_operation() {
    let operations = die_everywhere(|cluster| vec![segment(cluster, SEGMENT), segment(cluster, SEGMENT + 1)]);
    eprintln!("two segments: died before each of {operations} operations");
    assert!(operations > OPERATIONS_MIN);
}

/// An agent that dies after the file has its name, and before it could say so: pushed again, the file is acknowledged.
#[test]
fn what_was_stored_without_an_answer_is_acknowledged_when_it_is_pushed_again() {
    let mut unanswered = 0;
    for operation in 1..OPERATIONS_MAX {
        let site = Site::without_server();
        let mut cluster = site.cluster("primary");
        let archive = site.archive_of(&cluster);
        let files = [segment(&cluster, SEGMENT)];
        cluster.put_wal(&files[0].name, &files[0].bytes);
        // Nobody takes the dead agent's place before we have looked.
        cluster.config.set("agent.program", "/bin/false");
        let _dying = start_dying_agent(&cluster, operation);
        let answer = cluster.push(&path_of(&files[0]));
        if answer.code == Some(0) {
            eprintln!("stored without an answer: {unanswered} of {} deaths", operation - 1);
            assert!(unanswered >= 2, "before the name is durable, and after that");
            return;
        }
        answer.expect(3);
        unanswered += u32::from(archive.holds(&files[0].name));
        cluster.config.set("agent.program", pgark_program("pgark").as_path());
        cluster.push(&path_of(&files[0])).expect(0);
        expect_stored(&archive, &files, operation);
        expect_nothing_left(&site, &cluster, operation);
        expect_written_once(&cluster, &archive, &files);
    }
    panic!("the agent died before each of {OPERATIONS_MAX} operations");
}
