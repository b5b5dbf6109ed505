//! Manipulated spools and directories, and clocks that jump.

use crate::support::{Cluster, PATIENCE, Site, faketime, wait_until};
use nix::unistd::Uid;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

/// A segment number after those that initdb creates.
const SEGMENT: u64 = 0x40;

/// Many times the number of waiting files on a busy server.
const READY_FILES: u64 = 100_000;

/// Far less than it would take to inspect each of them.
const SOON: Duration = Duration::from_secs(20);

/// Memory limit of an agent with little work.
const MEMORY_MAX_KIB: u64 = 200 << 10;

fn put_segment(cluster: &Cluster, number: u64) -> String {
    let wal = cluster.fake_wal();
    cluster.put_wal(&wal.name(number), wal.bytes(number, 1));
    format!("pg_wal/{}", wal.name(number))
}

/// The socket of the running agent.
fn socket(cluster: &Cluster) -> PathBuf {
    let entries = std::fs::read_dir(cluster.spool()).unwrap().map(|entry| entry.unwrap().path());
    entries.into_iter().find(|path| path.extension().is_some_and(|e| e == "sock")).expect("a socket")
}

fn listens(cluster: &Cluster) -> bool {
    let entries = std::fs::read_dir(cluster.spool()).into_iter().flatten();
    entries.flatten().any(|entry| entry.path().extension().is_some_and(|e| e == "sock"))
}

#[test]
fn a_socket_that_nobody_listens_on_is_replaced_whoever_left_it() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let path = put_segment(&cluster, SEGMENT);
    cluster.push(&path).expect(0);
    let socket = socket(&cluster);
    cluster.agent().kill();
    assert!(socket.exists(), "a killed agent leaves its socket");
    cluster.push(&path).expect(0);
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    drop(UnixListener::bind(&socket).unwrap());
    cluster.push(&path).expect(0);
}

#[test]
fn an_agent_of_another_user_is_not_believed() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: only root can be another user");
        return;
    }
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let path = put_segment(&cluster, SEGMENT);
    cluster.push(&path).expect(0);
    let socket = socket(&cluster);
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    let _foreign = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o777)).unwrap();
    cluster.push(&path).expect(2).says("belongs to another user").says("HINT:");
    cluster.get(&cluster.fake_wal().name(SEGMENT), "pg_wal/RECOVERYXLOG").expect(126);
    std::fs::remove_file(&socket).unwrap();
    cluster.push(&path).expect(0);
}

#[test]
fn a_hundred_thousand_files_that_wait_keep_nobody_waiting() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let paths: Vec<String> = (0..6).map(|step| put_segment(&cluster, SEGMENT + step)).collect();
    let status = cluster.data().join("pg_wal/archive_status");
    for number in SEGMENT..SEGMENT + READY_FILES {
        std::fs::write(status.join(format!("{}.ready", wal.name(number))), "").unwrap();
    }
    for path in &paths {
        cluster.push(path).expect(0).within(SOON);
    }
    let memory = std::fs::read_to_string(format!("/proc/{}/status", cluster.agent().0)).unwrap();
    let peak = memory.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak of its memory");
    let kib: u64 = peak.trim().split(' ').next().unwrap().parse().unwrap();
    assert!(kib < MEMORY_MAX_KIB, "the agent took {kib} KiB");
    cluster.pgark(&["status"]).run().expect(0).within(SOON);
}

#[test]
fn what_the_agent_may_not_read_is_told_and_passes() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let path = put_segment(&cluster, SEGMENT);
    let file = cluster.data().join(&path);
    let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o000);
    cluster.push(&path).expect(3).says("permission denied").says(&cluster.fake_wal().name(SEGMENT));
    mode(0o600);
    cluster.push(&path).expect(0);
    // A stored object without read permission must stop the recovery, which "absent" would end with a promotion.
    let stored = site.archive_of(&cluster).path(&cluster.fake_wal().name(SEGMENT));
    std::fs::set_permissions(&stored, std::fs::Permissions::from_mode(0o000)).unwrap();
    cluster
        .get(&cluster.fake_wal().name(SEGMENT), "pg_wal/RECOVERYXLOG")
        .expect(126)
        .says("permission denied");
}

#[test]
fn a_spool_that_is_a_file_is_a_usage_error_and_passes() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let path = put_segment(&cluster, SEGMENT);
    std::fs::remove_dir(cluster.spool()).unwrap();
    std::fs::write(cluster.spool(), "not a directory").unwrap();
    let outcome = cluster.push(&path);
    assert!(matches!(outcome.code, Some(2 | 3)), "{outcome}");
    outcome.says("spool");
    std::fs::remove_file(cluster.spool()).unwrap();
    cluster.push(&path).expect(0);
}

/// The spool must record the repository before a missing mount can be detected.
#[test]
fn a_spool_that_could_not_note_the_repository_notes_it_later() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let path = put_segment(&cluster, SEGMENT);
    let places = cluster.spool().join("places");
    let _agent = cluster.pgark(&["agent"]).spawn();
    wait_until("the agent listens", PATIENCE, || listens(&cluster));
    let allow =
        |mode| std::fs::set_permissions(cluster.spool(), std::fs::Permissions::from_mode(mode)).unwrap();
    allow(0o500);
    cluster.push(&path).expect(3).says("spool");
    assert!(!places.exists());
    allow(0o700);
    cluster.push(&path).expect(0);
    let noted = std::fs::read_to_string(&places).unwrap();
    assert!(noted.contains(&cluster.system_identifier().to_string()), "{noted}");
}

#[test]
fn the_clock_of_an_agent_may_jump() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let clock = site.directory().join("clock");
    let set = |offset: &str| crate::support::write_file(&clock, format!("{offset}\n"));
    set("+0");
    let agent = cluster.pgark(&["agent"]).env("LD_PRELOAD", faketime());
    let agent = agent.env("FAKETIME_TIMESTAMP_FILE", &clock).env("FAKETIME_NO_CACHE", "1");
    let _agent = agent.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").spawn();
    wait_until("the agent listens", PATIENCE, || listens(&cluster));
    let agent = cluster.agent();
    for (number, offset) in (SEGMENT..).zip(["+3y", "-5y", "+1d", "-1h", "+0"]) {
        set(offset);
        let path = put_segment(&cluster, number);
        cluster.push(&path).expect(0).within(Duration::from_secs(5));
        cluster
            .get(&cluster.fake_wal().name(number), "pg_wal/RECOVERYXLOG")
            .expect(0)
            .within(Duration::from_secs(5));
        assert_eq!(cluster.agent(), agent, "it takes no jump for an idle time");
    }
}
