//! An unresponsive repository: a frozen file system, or a dead file server. Threads hang in it forever, but nothing
//! else does.

use crate::support::{Cluster, PATIENCE, Process, Running, Site, SmallDisk, wait_until};
use nix::sys::signal::Signal;
use std::time::Duration;

/// A segment number after those that initdb creates.
const SEGMENT: u64 = 0x40;

/// Time limit for an agent to abandon hanging threads, on a loaded machine.
const END_MAX: Duration = Duration::from_secs(20);

/// Longer than the time limit of `pg_ctl`.
const STOP_DEADLINE: Duration = Duration::from_secs(70);

fn listens(cluster: &Cluster) -> bool {
    let entries = std::fs::read_dir(cluster.spool()).into_iter().flatten();
    entries.flatten().any(|entry| entry.path().extension().is_some_and(|extension| extension == "sock"))
}

/// An agent with this variable.
fn agent_with(cluster: &Cluster, name: &str, value: &str) -> Running {
    let agent = cluster.pgark(&["agent"]).env(name, value).deadline(PATIENCE).spawn();
    wait_until("the agent listens", PATIENCE, || listens(cluster));
    agent
}

/// An agent that hangs on every file that it stores.
fn hung_agent(cluster: &Cluster) -> Running {
    agent_with(cluster, "PGARK_FAIL_AT", "sync-file/repository:HANG")
}

fn put_segment(cluster: &Cluster, number: u64) -> String {
    let wal = cluster.fake_wal();
    cluster.put_wal(&wal.name(number), wal.bytes(number, 1));
    format!("pg_wal/{}", wal.name(number))
}

/// A cluster whose agent hangs in the repository, and the file that it cannot store.
fn cluster_with_hung_agent(site: &Site, name: &str, idle_s: u32) -> (Cluster, Running, String) {
    let mut cluster = site.cluster(name);
    cluster.config.set("agent.idle", format!("{idle_s}s").as_str());
    cluster.config.set("push.deadline", "2s");
    let path = put_segment(&cluster, SEGMENT);
    let agent = hung_agent(&cluster);
    cluster.push(&path).expect(3).says("is still being stored").within(Duration::from_secs(10));
    (cluster, agent, path)
}

#[test]
fn an_agent_that_hangs_ends_soon_whoever_ends_it_and_hands_the_spool_over() {
    let site = Site::without_server();
    let (_idle, idle_agent, _) = cluster_with_hung_agent(&site, "idle", 1);
    let (_told, told_agent, _) = cluster_with_hung_agent(&site, "told", 300);
    told_agent.signal(Signal::SIGTERM);
    let (mut stopped, stopped_agent, stopped_path) = cluster_with_hung_agent(&site, "stopped", 300);
    let (mut replaced, replaced_agent, replaced_path) = cluster_with_hung_agent(&site, "replaced", 300);
    // It is detected and stopped although it no longer belongs to this configuration.
    stopped.config.set("push.deadline", "30s");
    replaced.config.set("push.deadline", "30s");
    let status = replaced.pgark(&["status"]).run().expect(0).stdout;
    let process = replaced_agent.process();
    assert!(status.contains(&format!("process {} runs for another configuration", process.0)), "{status}");
    let push = replaced.program("archive-push").arg(&replaced_path).spawn();
    stopped.pgark(&["agent", "stop"]).run().expect(0).within(END_MAX);
    stopped.push(&stopped_path).expect(0).within(Duration::from_secs(10));
    push.wait().expect(0).within(END_MAX);
    assert_ne!(replaced.agent(), process);
    for agent in [idle_agent, told_agent, stopped_agent, replaced_agent] {
        agent.wait().expect(0).within(PATIENCE);
    }
}

/// A hanging thread survives even the end of its process.
#[test]
fn an_agent_on_a_frozen_file_system_hands_the_spool_over() {
    let site = Site::without_server();
    let frozen = site.directory().join("frozen");
    let Some(disk) = SmallDisk::mount_freezable(&frozen) else { return };
    let mut cluster = site.cluster("primary");
    cluster.config.set("repository.url", frozen.as_path());
    cluster.config.set("push.deadline", "1s");
    let (path, next) = (put_segment(&cluster, SEGMENT), put_segment(&cluster, SEGMENT + 1));
    cluster.push(&path).expect(0);
    let agent = cluster.agent();
    disk.freeze();
    cluster.push(&next).expect(3);
    cluster.pgark(&["agent", "stop"]).run().expect(0).within(END_MAX);
    // The next one listens, and hangs there as well.
    cluster.push(&next).expect(3).within(Duration::from_secs(5));
    assert_ne!(cluster.agent(), agent);
    disk.thaw();
    wait_until("the file is stored", PATIENCE, || cluster.push(&next).code == Some(0));
    cluster.pgark(&["agent", "stop"]).run().expect(0);
}

/// It cannot exit, so its process is reported to the operator.
#[test]
fn an_agent_that_is_stopped_itself_is_told_by_its_process() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let path = put_segment(&cluster, SEGMENT);
    cluster.push(&path).expect(0);
    let agent = cluster.agent();
    agent.signal(Signal::SIGSTOP);
    let status = cluster.pgark(&["status"]).run().expect(0).stdout;
    assert!(status.contains(&format!("process {} does not respond", agent.0)), "{status}");
    let stop = cluster.pgark(&["agent", "stop"]).run().expect(3);
    stop.says("does not stop").says(&format!("kill -KILL {}", agent.0));
    agent.kill();
    cluster.push(&path).expect(0);
}

#[test]
fn what_is_no_file_where_one_must_be_keeps_nobody() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let archive = site.archive_of(&cluster);
    let path = put_segment(&cluster, SEGMENT);
    cluster.push(&path).expect(0);
    let soon = Duration::from_secs(5);
    let fifo = |path: &std::path::Path| {
        std::fs::remove_file(path).unwrap();
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        crate::support::give(path);
    };
    // A FIFO in place of the stored object, of a WAL segment, and of a history file.
    let name = cluster.fake_wal().name(SEGMENT);
    fifo(&archive.path(&name));
    cluster.get(&name, "pg_wal/RECOVERYXLOG").expect(126).says("is not a file").within(soon);
    cluster.push(&path).expect(4).says("is not a file").within(soon);
    let next = put_segment(&cluster, SEGMENT + 1);
    fifo(&cluster.data().join(&next));
    cluster.push(&next).expect(4).says("is not a regular file").within(soon);
    let history = "pg_wal/00000002.history";
    cluster.write(history, "");
    fifo(&cluster.data().join(history));
    cluster.push(history).expect(4).says("is not a regular file").within(soon);
    let other = put_segment(&cluster, SEGMENT + 2);
    cluster.push(&other).expect(0).within(soon);
}

/// Runs `pg_ctl stop -m fast -t 60`.
fn stop_fast(cluster: &mut Cluster) -> Duration {
    let stop = cluster.postgres_program("pg_ctl").args(["stop", "-m", "fast", "-t", "60", "-D"]);
    let outcome = stop.arg(cluster.data()).deadline(STOP_DEADLINE).run().expect(0);
    eprintln!("stopping took {:?}", outcome.took);
    cluster.wait_for_end();
    outcome.took
}

#[test]
fn a_server_stops_while_its_agent_hangs() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.config.set("push.deadline", "60s");
    let agent = hung_agent(&primary);
    primary.start();
    let segment = primary.switch_wal();
    let waits = |process: &Process| process.command_line().contains("archive-push") && process.has_socket();
    wait_until("a push waits", PATIENCE, || primary.processes().iter().any(waits));
    stop_fast(&mut primary);
    assert!(primary.log().contains("the server is shutting down"), "{}", primary.log());
    assert!(primary.has(&format!("pg_wal/archive_status/{segment}.ready")));
    // A new agent archives everything.
    agent.process().kill();
    primary.start();
    primary.wait_archived(&segment);
}

/// Number of files that the server has marked as ready.
fn ready_files(cluster: &Cluster) -> usize {
    let marks = std::fs::read_dir(cluster.data().join("pg_wal/archive_status")).unwrap();
    let names = marks.map(|mark| mark.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".ready")).count()
}

#[test]
fn a_server_with_two_hundred_files_stops_while_its_repository_is_slow() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.append_conf("wal_keep_size = '300MB'\n");
    let _agent = agent_with(&primary, "PGARK_SLOW_MS", "300");
    primary.start();
    primary.psql(
        "DO $$ BEGIN FOR i IN 1..200 LOOP PERFORM pg_create_restore_point('x'); PERFORM pg_switch_wal(); END LOOP; END $$",
    );
    assert!(ready_files(&primary) > 180);
    stop_fast(&mut primary);
    assert!(ready_files(&primary) > 50, "the repository was not slow");
    assert!(primary.log().contains("the deadline for archiving its WAL has passed"), "{}", primary.log());
}
