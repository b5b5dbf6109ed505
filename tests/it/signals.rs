//! Behavior as seen by PostgreSQL: closed or full output, signals at any time, a slow repository, and a server that
//! shuts down without waiting for it.

use crate::support::checker::{Acknowledged, Tree, expect_sound};
use crate::support::{
    Cluster, Outcome, PATIENCE, Random, Run, Site, Stop, pgark_program, wait_until, wants_everything,
};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// A segment number after those that initdb creates.
const SEGMENT: u64 = 0x40;

const DESTINATION: &str = "pg_wal/RECOVERYXLOG";

/// Possible states of a small program's output.
const OUTPUTS: [&str; 4] = [">&- 2>&-", ">/dev/full 2>/dev/full", ">&-", "2>&- </dev/null"];

/// Runs one of the small programs in a shell, as PostgreSQL does.
fn by_shell(cluster: &Cluster, program: &str, arguments: &str, output: &str) -> Outcome {
    let program = pgark_program(program).display().to_string();
    let config = cluster.config.path.display();
    let line = format!("exec {program} --config {config} {arguments} {output}");
    Run::new("/bin/sh").arg("-c").arg(line).in_directory(cluster.data()).run()
}

#[test]
fn a_status_holds_when_nothing_can_be_said() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let (name, other) = (wal.name(SEGMENT), wal.name(SEGMENT + 1));
    for output in OUTPUTS {
        cluster.put_wal(&name, wal.bytes(SEGMENT, 1));
        by_shell(&cluster, "archive-push", &format!("pg_wal/{name}"), output).expect(0);
        cluster.put_wal(&name, wal.bytes(SEGMENT, 2));
        by_shell(&cluster, "archive-push", &format!("pg_wal/{name}"), output).expect(4);
        by_shell(&cluster, "archive-push", "pg_wal/nothing", output).expect(2);
        by_shell(&cluster, "archive-push", "--help", output);
        by_shell(&cluster, "archive-get", &format!("{name} {DESTINATION}"), output).expect(0);
        by_shell(&cluster, "archive-get", &format!("{other} {DESTINATION}"), output).expect(1);
        by_shell(&cluster, "archive-get", &format!("nothing {DESTINATION}"), output).expect(126);
        // The agent inherits nothing from the program that starts it, so it works as usual.
        cluster.pgark(&["agent", "stop"]).run().expect(0);
    }
    for output in OUTPUTS {
        let program = pgark_program("pgark").display().to_string();
        let line = format!("exec {program} --config {} info {output}", cluster.config.path.display());
        let outcome = Run::new("/bin/sh").arg("-c").arg(line).run();
        assert!(outcome.signal.is_none() && outcome.code != Some(101), "{output}:\n{outcome}");
    }
}

/// The file is stored completely or not at all, whenever the signal comes, and a second push is acknowledged.
#[test]
fn a_push_that_gets_a_signal_at_any_moment_does_no_harm() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let mut random = Random::seeded("signals");
    let mut acknowledged = Acknowledged::default();
    let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP];
    let rounds = if wants_everything() { 200 } else { 24 };
    for number in SEGMENT..SEGMENT + rounds {
        let name = wal.name(number);
        cluster.put_wal(&name, wal.bytes(number, 1));
        if random.percent(20) {
            cluster.pgark(&["agent", "stop"]).run().expect(0); // then the signal meets a start
        }
        let signal = *random.choose(&signals);
        let push = cluster.program("archive-push").arg(format!("pg_wal/{name}")).spawn();
        let (begun, moment) = (Instant::now(), Duration::from_micros(random.below(30_000) as u64));
        while begun.elapsed() < moment {
            std::hint::spin_loop();
        }
        push.signal(signal);
        let outcome = push.wait();
        match outcome.signal {
            None => drop(outcome.expect(0)),
            Some(_) => drop(outcome.killed_by(signal)),
        }
        cluster.push(&format!("pg_wal/{name}")).expect(0);
        acknowledged.file(&name, &wal.bytes(number, 1));
        let _ = std::fs::remove_file(cluster.data().join(DESTINATION));
        let get = cluster.program("archive-get").args([name.as_str(), DESTINATION]).spawn();
        get.signal(signal);
        let outcome = get.wait();
        assert!(outcome.signal == Some(signal as i32) || outcome.code == Some(0), "{outcome}");
        if cluster.has(DESTINATION) {
            assert!(cluster.read(DESTINATION) == wal.bytes(number, 1), "a part of {name}");
        }
    }
    expect_sound(&Tree::read(&site.repository()), &acknowledged, "after signals");
}

#[test]
fn whoever_asks_after_a_signal_to_the_agent_is_answered() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    cluster.put_wal(&wal.name(SEGMENT), wal.bytes(SEGMENT, 1));
    cluster.push(&format!("pg_wal/{}", wal.name(SEGMENT))).expect(0);
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGPIPE] {
        // The previous one may have exited after its answer.
        if let Some(agent) = cluster.find_agent() {
            agent.signal(signal);
        }
        cluster.push(&format!("pg_wal/{}", wal.name(SEGMENT))).expect(0);
    }
}

/// Delay of each disk operation.
const SLOW_MS: &str = "150";

#[test]
fn a_slow_repository_is_waited_for_and_a_push_that_gave_up_is_made_up_for() {
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let (name, bytes) = (wal.name(SEGMENT), wal.bytes(SEGMENT, 1));
    cluster.put_wal(&name, &bytes);
    cluster.config.set("push.deadline", "1s");
    let push = |cluster: &Cluster| {
        cluster.program("archive-push").arg(format!("pg_wal/{name}")).env("PGARK_SLOW_MS", SLOW_MS).run()
    };
    push(&cluster).expect(3).says(&name).says("deadline").within(Duration::from_secs(5));
    // The agent continues, and the next push finds the file stored.
    wait_until("a push finds the file stored", PATIENCE, || push(&cluster).code == Some(0));
    expect_sound(&Tree::read(&site.repository()), &Acknowledged::with_file(&name, &bytes), "on a slow disk");
    cluster.config.set("get.deadline", "10s");
    let get = cluster.program("archive-get").args([name.as_str(), DESTINATION]).env("PGARK_SLOW_MS", SLOW_MS);
    get.run().expect(0);
    assert!(cluster.read(DESTINATION) == bytes);
}

const DEADLINE: Duration = Duration::from_secs(5);

/// Time for the answers to PostgreSQL after the first deadline, in the round in which the server is stopped and in the
/// last one: the agent's answer takes a second, PostgreSQL's pause another.
const ANSWERS: Duration = Duration::from_secs(6 * 2);

#[test]
fn a_fast_shutdown_does_not_wait_for_a_slow_repository() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.config.set("push.deadline", format!("{}s", DEADLINE.as_secs()).as_str());
    primary.start();
    primary.wait_archived(&primary.switch_wal());
    primary.pgark(&["agent", "stop"]).run().expect(0);
    // Longer than six deadlines for one file.
    let slow = primary.pgark(&["agent"]).env("PGARK_SLOW_MS", "4000").spawn();
    let listens = || {
        let mut entries = std::fs::read_dir(primary.spool()).unwrap();
        entries.any(|entry| entry.unwrap().file_name().to_string_lossy().ends_with(".sock"))
    };
    wait_until("a slow agent", PATIENCE, listens);
    let last = primary.switch_wal();
    let started = Instant::now();
    primary.stop(Stop::Fast);
    let took = started.elapsed();
    eprintln!("stopping took {took:?}");
    assert!(took < DEADLINE + ANSWERS + Duration::from_secs(5), "stopping took {took:?}");
    let ready = format!("pg_wal/archive_status/{last}.ready");
    assert!(primary.has(&ready), "the repository was not slow");
    assert!(primary.log().contains("still being stored"), "whoever reads the server's log learns why");
    drop(slow);
    primary.start();
    primary.wait_archived(&last);
    primary.wait_archived(&primary.switch_wal());
    wait_until("all WAL is archived", PATIENCE, || marked(&primary, ".ready").is_empty());
    let archive = site.archive_of(&primary);
    let done = marked(&primary, ".done");
    assert!(done.contains(&last), "{done:?}");
    for name in done {
        assert!(archive.holds(&name), "{name}");
    }
}

/// The WAL files with this mark of the server.
fn marked(cluster: &Cluster, suffix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(cluster.data().join("pg_wal/archive_status")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter_map(|name| Some(name.strip_suffix(suffix)?.to_owned())).collect()
}
