//! The agent: started on demand, one for each spool, without side effects on the server.

use crate::support::{
    Cluster, PATIENCE, Process, Run, Site, Stop, pgark_program, wait_until, wants_everything,
};
use nix::sys::signal::Signal;
use std::time::Duration;

const SEGMENT: u64 = 0x40;

/// A stopped cluster with this number of segments to archive.
fn cluster_with_segments(site: &Site, segments: u64) -> (Cluster, Vec<String>) {
    let cluster = site.cluster("primary");
    let wal = cluster.fake_wal();
    let paths = (SEGMENT..SEGMENT + segments).map(|number| {
        cluster.put_wal(&wal.name(number), wal.bytes(number, 1));
        format!("pg_wal/{}", wal.name(number))
    });
    let paths = paths.collect();
    (cluster, paths)
}

/// The agents that hold the spool's lock file open.
fn agents_of(cluster: &Cluster) -> Vec<Process> {
    let lock = cluster.spool().join("agent.lock").to_string_lossy().into_owned();
    Process::all().into_iter().filter(|process| process.open_files().contains(&lock)).collect()
}

#[test]
fn the_next_push_succeeds_after_its_agent_was_killed() {
    let site = Site::without_server();
    let (cluster, paths) = cluster_with_segments(&site, 3);
    for path in &paths {
        cluster.push(path).expect(0).within(Duration::from_secs(10));
        cluster.agent().kill();
    }
    assert_eq!(site.archive_of(&cluster).names().len(), paths.len());
}

/// The repository must contain intact everything that pgark acknowledged, whatever was killed meanwhile.
#[test]
fn everything_acknowledged_survives_kills_at_random_moments() {
    let kills = if wants_everything() { 100 } else { 10 };
    let mut random = std::process::id() | 1;
    eprintln!("seed {random}");
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.append_conf("wal_keep_size = '1GB'\n");
    primary.start();
    primary.psql("CREATE TABLE t (a int, b text)");
    for _ in 0..kills {
        // xorshift32
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        let rows = 100 + random % 4000;
        primary
            .psql(&format!("INSERT INTO t SELECT a, repeat('x', a % 400) FROM generate_series(1, {rows}) a"));
        let victims = Process::all_of(site.directory()).into_iter().filter(|process| {
            let command = process.command_line();
            let wanted = if random.is_multiple_of(3) { "archive-push" } else { "agent" };
            command.contains("pgark.toml") && command.contains(wanted) && !command.contains("postgres:")
        });
        victims.for_each(|process| process.signal(Signal::SIGKILL));
    }
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    let archive = site.archive_of(&primary);
    let status = primary.data().join("pg_wal/archive_status");
    let done =
        std::fs::read_dir(status).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut compared = 0;
    for name in done.filter_map(|name| name.strip_suffix(".done").map(str::to_owned)) {
        assert!(archive.raw(&name) == primary.read(&format!("pg_wal/{name}")), "{name}, seed above");
        compared += 1;
    }
    assert!(compared > 2);
}

#[test]
fn an_agent_that_dies_while_a_push_waits_is_replaced() {
    let site = Site::without_server();
    let (cluster, paths) = cluster_with_segments(&site, 2);
    cluster.push(&paths[0]).expect(0);
    let agent = cluster.agent();
    agent.signal(Signal::SIGSTOP);
    let waiting = cluster.program("archive-push").arg(&paths[1]).spawn();
    wait_until("the push has reached its agent", PATIENCE, || waiting.process().has_socket());
    agent.kill();
    // Ends at once: the socket closes, and nothing waits for push.deadline.
    waiting.wait().expect(0).within(Duration::from_secs(15));
    assert_ne!(cluster.agent(), agent);
}

#[test]
fn an_idle_agent_ends() {
    let site = Site::without_server();
    let (mut cluster, paths) = cluster_with_segments(&site, 2);
    cluster.config.set("agent.idle", "1s");
    cluster.push(&paths[0]).expect(0);
    wait_until("the agent has ended", PATIENCE, || agents_of(&cluster).is_empty());
    wait_until("nothing runs any more", PATIENCE, || Process::all_of(site.directory()).is_empty());
    cluster.push(&paths[1]).expect(0);
}

#[test]
fn agent_stop_ends_the_agent() {
    let site = Site::without_server();
    let (cluster, paths) = cluster_with_segments(&site, 2);
    cluster.push(&paths[0]).expect(0);
    let agent = cluster.agent();
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    wait_until("the agent has ended", PATIENCE, || !agent.is_alive());
    // Stopping without an agent succeeds, and the next push starts one.
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    cluster.push(&paths[1]).expect(0);
}

/// A sidecar or a service starts the agent, and the small programs wait for it.
#[test]
fn an_agent_that_is_started_elsewhere_is_waited_for() {
    let site = Site::without_server();
    let (mut cluster, paths) = cluster_with_segments(&site, 1);
    cluster.config.set("agent.start", "never");
    cluster.config.set("push.deadline", "1s");
    let says = "agent.start = \"never\"";
    cluster.push(&paths[0]).expect(3).says(says).says("HINT:").within(Duration::from_secs(5));
    let name = paths[0].trim_start_matches("pg_wal/");
    let get = cluster.get(name, "pg_wal/RECOVERYXLOG").expect(126).says(&format!("waiting for {name}"));
    assert_eq!(get.stderr.matches(says).count(), 2, "at once, and in the end: {get}");
    assert!(agents_of(&cluster).is_empty());
    cluster.config.set("push.deadline", "20s");
    let push = cluster.program("archive-push").arg(&paths[0]).spawn();
    let agent = cluster.pgark(&["agent"]).spawn();
    push.wait().expect(0);
    cluster.get(name, "pg_wal/RECOVERYXLOG").expect(0);
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    agent.wait().expect(0);
    // It stays while idle, because no call would start it again. An agent of the usual kind exits meanwhile.
    cluster.config.set("agent.idle", "1s");
    let mut agent = cluster.pgark(&["agent"]).spawn();
    cluster.push(&paths[0]).expect(0);
    let mut usual = cluster.copy("usual");
    usual.config.set("agent.idle", "1s");
    usual.push(&paths[0]).expect(0);
    wait_until("the other agent has ended", PATIENCE, || agents_of(&usual).is_empty());
    assert_eq!(agent.try_status(), None);
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    agent.wait().expect(0);
}

#[test]
fn sigterm_ends_the_agent_after_what_is_in_flight() {
    let site = Site::without_server();
    let (cluster, paths) = cluster_with_segments(&site, 2);
    cluster.push(&paths[0]).expect(0);
    let agent = cluster.agent();
    agent.signal(Signal::SIGTERM);
    cluster.push(&paths[1]).expect(0);
    wait_until("the agent has ended", PATIENCE, || !agent.is_alive());
}

#[test]
fn two_agents_never_share_a_spool() {
    let site = Site::without_server();
    let (cluster, paths) = cluster_with_segments(&site, 8);
    let pushes: Vec<_> = paths.iter().map(|path| cluster.program("archive-push").arg(path).spawn()).collect();
    for push in pushes {
        push.wait().expect(0);
    }
    wait_until("one agent is left", PATIENCE, || agents_of(&cluster).len() == 1);
    assert_eq!(agents_of(&cluster), [cluster.agent()]);
    // An agent started by hand finds the spool in use, and leaves the first agent running.
    let agent = cluster.agent();
    let second = cluster.pgark(&["agent"]).run();
    assert_eq!(agents_of(&cluster), [agent], "{second}");
}

#[test]
fn a_changed_configuration_replaces_the_agent() {
    let site = Site::without_server();
    let (mut cluster, paths) = cluster_with_segments(&site, 2);
    cluster.push(&paths[0]).expect(0);
    let old = cluster.agent();
    cluster.config.set("agent.workers", 3);
    cluster.push(&paths[1]).expect(0);
    wait_until("the old agent has ended", PATIENCE, || !old.is_alive());
    assert_eq!(agents_of(&cluster), [cluster.agent()]);
}

#[test]
fn the_agent_holds_nothing_of_its_caller() {
    let site = Site::without_server();
    let (cluster, paths) = cluster_with_segments(&site, 1);
    let inherited = site.directory().join("inherited");
    // Like the archiver: with file descriptors that a child inherits, and variables not meant for it.
    let script = format!("exec 7>>'{}' 8</dev/zero; exec \"$@\"", inherited.display());
    let push = Run::new("/bin/sh").args(["-c", &script, "sh"]).arg(pgark_program("archive-push"));
    let push = push.arg("--config").arg(&cluster.config.path).arg(&paths[0]);
    crate::support::give(site.directory());
    let running = push.env("PGPASSWORD", "secret").in_directory(cluster.data()).spawn();
    let outputs = running.output_paths().map(|path| path.to_string_lossy().into_owned());
    running.wait().expect(0);

    let agent = cluster.agent();
    let minder = agent.parent().filter(|parent| parent.command_line().contains("pgark"));
    for process in [Some(agent), minder].into_iter().flatten() {
        let files = process.open_files();
        let shown = format!("{}: {files:?}", process.command_line());
        assert!(!files.iter().any(|file| outputs.contains(file)), "the caller's output is held by {shown}");
        assert!(
            !files.contains(&inherited.to_string_lossy().into_owned()),
            "the caller's file is held by {shown}"
        );
        assert!(!files.contains(&"/dev/zero".to_owned()), "the caller's file is held by {shown}");
        let data = cluster.data();
        assert!(process.working_directory().is_some_and(|cwd| !cwd.starts_with(&data)), "{shown}");
        assert!(
            !process
                .environment()
                .iter()
                .any(|variable| variable.starts_with("PG") && !variable.starts_with("PGARK_")),
            "{:?}",
            process.environment()
        );
        assert_ne!(process.session(), Process(std::process::id() as i32).session());
    }
}

#[test]
fn a_server_with_a_logging_collector_stops_while_its_agent_runs() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.append_conf("logging_collector = on\n");
    primary.start();
    let segment = primary.switch_wal();
    primary.wait_archived(&segment);
    let agent = primary.agent();
    // Returns when no process works in the data directory any more, including the log collector.
    primary.stop(Stop::Fast);
    assert!(agent.is_alive());
}

#[test]
fn a_fast_shutdown_does_not_wait_for_a_repository_that_does_not_answer() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    let segment = primary.switch_wal();
    primary.wait_archived(&segment);
    site.hide_repository();
    primary.switch_wal();
    primary.wait_for_row("SELECT failed_count > 0 FROM pg_stat_archiver", "t");
    let started = std::time::Instant::now();
    primary.stop(Stop::Fast);
    assert!(started.elapsed() < Duration::from_secs(15), "stopping took {:?}", started.elapsed());
}

#[test]
fn an_outage_is_counted_and_then_made_up_for() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    let postmaster = primary.psql("SELECT pg_postmaster_start_time()");
    site.hide_repository();
    let segments = [primary.switch_wal(), primary.switch_wal()];
    // A counted failure means that the status was not above 125, which PostgreSQL treats as a crash.
    primary.wait_for_row("SELECT failed_count > 0 FROM pg_stat_archiver", "t");
    site.show_repository();
    primary.wait_archived(&segments[1]);
    let archive = site.archive_of(&primary);
    assert!(segments.iter().all(|name| archive.holds(name)));
    assert_eq!(primary.psql("SELECT pg_postmaster_start_time()"), postmaster);
    assert!(!primary.log().contains("FATAL"), "the archiver was restarted");
}

#[test]
fn a_socket_path_that_is_too_long_is_a_usage_error() {
    let site = Site::without_server();
    let (mut cluster, paths) = cluster_with_segments(&site, 1);
    let long = site.directory().join("x".repeat(107));
    crate::support::create_private_directory(&long);
    cluster.config.set("spool.directory", long.as_path());
    cluster.push(&paths[0]).expect(2).says("107").says("HINT:");
}

#[test]
fn a_spool_whose_parent_is_missing_is_a_usage_error() {
    let site = Site::without_server();
    let (mut cluster, paths) = cluster_with_segments(&site, 1);
    let missing = site.directory().join("missing/spool");
    cluster.config.set("spool.directory", missing.as_path());
    cluster.push(&paths[0]).expect(2).says("install -d").says("missing");
    assert!(!missing.exists());
}

#[test]
fn a_spool_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::without_server();
    let (cluster, paths) = cluster_with_segments(&site, 1);
    std::fs::set_permissions(cluster.spool(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let outcome = cluster.push(&paths[0]);
    let mode = std::fs::metadata(cluster.spool()).unwrap().permissions().mode() & 0o777;
    assert!(outcome.code == Some(2) || mode == 0o700, "mode {mode:o} and\n{outcome}");
}

#[test]
fn an_agent_whose_spool_was_removed_ends_and_leaves_the_next_one_alone() {
    let site = Site::without_server();
    let (cluster, paths) = cluster_with_segments(&site, 2);
    cluster.push(&paths[0]).expect(0);
    let old = cluster.agent();
    std::fs::remove_dir_all(cluster.spool()).unwrap();
    cluster.push(&paths[1]).expect(0);
    let new = cluster.agent();
    assert_ne!(old, new);
    wait_until("the first agent has ended", PATIENCE, || !old.is_alive());
    cluster.push(&paths[0]).expect(0).within(Duration::from_secs(5));
    assert_eq!(cluster.agent(), new);
}

#[test]
fn an_agent_without_a_socket_makes_room_for_another() {
    let site = Site::without_server();
    let (cluster, paths) = cluster_with_segments(&site, 2);
    cluster.push(&paths[0]).expect(0);
    for entry in std::fs::read_dir(cluster.spool()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sock") {
            std::fs::remove_file(path).unwrap();
        }
    }
    cluster.push(&paths[1]).expect(0).within(Duration::from_secs(15));
}

#[test]
fn agent_stop_does_not_wait_for_the_next_agent() {
    let site = Site::without_server();
    let (cluster, paths) = cluster_with_segments(&site, 1);
    cluster.push(&paths[0]).expect(0);
    let done = std::sync::atomic::AtomicBool::new(false);
    let started = std::time::Instant::now();
    std::thread::scope(|scope| {
        // Like a busy server.
        let busy = || {
            while !done.load(std::sync::atomic::Ordering::Relaxed) && started.elapsed() < PATIENCE {
                cluster.push(&paths[0]);
            }
        };
        scope.spawn(busy);
        let outcomes: Vec<_> = (0..10).map(|_| cluster.pgark(&["agent", "stop"]).run()).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for outcome in outcomes {
            outcome.expect(0).within(Duration::from_secs(10));
        }
    });
}

/// A server started by systemd passes its JOURNAL_STREAM on, but the agent's stderr is not that stream.
#[test]
fn the_agent_of_a_server_under_systemd_keeps_its_log() {
    let site = Site::without_server();
    let (cluster, paths) = cluster_with_segments(&site, 1);
    cluster.program("archive-push").arg(&paths[0]).env("JOURNAL_STREAM", "8:12345").run().expect(0);
    let log = std::fs::read_to_string(cluster.spool().join("agent.log")).unwrap_or_default();
    assert!(log.contains("agent listens"), "{log}");
}

/// Their agents would stop each other again and again.
#[test]
fn two_clusters_do_not_share_a_spool() {
    let site = Site::with_servers(1);
    let mut first = site.cluster("first");
    let mut second = site.cluster("second");
    let spool = first.spool();
    second.config.set("spool.directory", spool.as_path());
    let wal = first.fake_wal();
    let (name, bytes) = (wal.name(0x40), wal.bytes(0x40, 1));
    let path = format!("pg_wal/{name}");
    first.put_wal(&name, &bytes);
    first.write(&format!("pg_wal/archive_status/{name}.ready"), "");
    second.put_wal(&name, &bytes);
    first.push(&path).expect(0);
    // Another cluster by name.
    second.config.set("cluster", "second");
    second.push(&path).expect(2).says("belongs to cluster \"main\"").says("spool.directory");
    let checked = second.pgark(&["check"]).run();
    assert!(checked.stdout.contains("FAILED   spool: the spool"), "{checked}");
    // The same name could denote a moved data directory, but a server runs in the first one.
    second.config.set("cluster", "main");
    first.start();
    second.push(&path).expect(2).says("belongs to cluster \"main\"");
    let agent = first.agent();
    first.push(&path).expect(0);
    assert_eq!(first.agent(), agent, "it was not ended");
    first.stop(Stop::Fast);
    second.push(&path).expect(0);
    // The configuration of the same cluster may give it another name.
    second.config.set("cluster", "renamed");
    second.push(&path).expect(0);
}
