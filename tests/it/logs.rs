//! The log of the agent in every destination and format, and `--verbose`.

use crate::support::{
    Cluster, Outcome, PATIENCE, Run, Running, Site, create_private_directory, pgark_program, wait_for,
    wait_until,
};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

const SYSLOG: &str = "/dev/log";
const SEGMENT: u64 = 0x40;

/// Writes a segment to archive; returns its path as in `%p`.
fn segment(cluster: &Cluster, number: u64) -> String {
    let wal = cluster.fake_wal();
    cluster.put_wal(&wal.name(number), wal.bytes(number, 1));
    format!("pg_wal/{}", wal.name(number))
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn spool_log(cluster: &Cluster) -> String {
    text(&cluster.spool().join("agent.log"))
}

/// Waits until an agent in the foreground listens, and ends it.
fn served(cluster: &Cluster, run: Run) -> Outcome {
    let agent = run.spawn();
    wait_until_it_listens(cluster);
    ended(agent)
}

fn wait_until_it_listens(cluster: &Cluster) {
    wait_until("the agent listens", PATIENCE, || {
        let status = cluster.pgark(&["--json", "status"]).run();
        serde_json::from_str::<Value>(&status.stdout).is_ok_and(|status| !status["agent"].is_null())
    });
}

fn ended(agent: Running) -> Outcome {
    agent.signal(Signal::SIGTERM);
    agent.wait().expect(0)
}

/// The agent with the systemd journal as its stderr.
fn under_journal(cluster: &Cluster) -> Run {
    let export = "JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec \"$@\"";
    let run = Run::new("/bin/sh").args(["-c", export, "sh"]).arg(pgark_program("pgark"));
    run.arg("--config").arg(&cluster.config.path).arg("agent")
}

#[test]
fn every_line_is_an_object() {
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    cluster.config.set("log.format", "json");
    cluster.config.set("log.level", "debug");
    let path = segment(&cluster, SEGMENT);
    cluster.push(&path).expect(0);
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    let log = spool_log(&cluster);
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        let time = line["timestamp"].as_str().unwrap();
        assert!(time.len() == "2026-01-15T14:30:00.000000Z".len() && time.ends_with('Z'), "{line}");
        assert!(["warn", "info", "debug"].contains(&line["level"].as_str().unwrap()), "{line}");
        assert!(!line["message"].as_str().unwrap().is_empty() && line["fields"].is_object(), "{line}");
    }
    let find = |message: &str| {
        let found = lines.iter().find(|line| line["message"] == message);
        &found.unwrap_or_else(|| panic!("\"{message}\" is missing: {log}"))["fields"]
    };
    assert!(find("agent listens")["pid"].is_u64());
    assert_eq!(find("read the configuration")["file"], cluster.config.path.to_str().unwrap());
    assert!(find("store request")["duration_ms"].is_f64());
    let name = path.trim_start_matches("pg_wal/");
    assert_eq!(find("answered a request")["request"], format!("push {name}"));
}

#[test]
fn the_level_limits_the_log() {
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    cluster.config.set("log.level", "error");
    cluster.push(&segment(&cluster, SEGMENT)).expect(0);
    assert_eq!(spool_log(&cluster), "");
    cluster.config.set("log.level", "info");
    cluster.push(&segment(&cluster, SEGMENT + 1)).expect(0);
    let log = spool_log(&cluster);
    assert!(log.contains("INFO agent listens pid=") && !log.contains("DEBUG"), "{log}");
}

#[test]
fn the_log_is_in_the_file_of_the_setting_if_that_can_be_written() {
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    let logs = site.directory().join("logs");
    let file = logs.join("pgark.log");
    cluster.config.set("log.file", file.as_path());
    // Archiving does not depend on it.
    cluster.push(&segment(&cluster, SEGMENT)).expect(0);
    let log = spool_log(&cluster);
    assert!(
        log.contains("WARN logging to the spool instead of log.file") && log.contains("logs/pgark.log"),
        "{log}"
    );
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    fs::remove_file(cluster.spool().join("agent.log")).unwrap();

    create_private_directory(&logs);
    cluster.push(&segment(&cluster, SEGMENT + 1)).expect(0);
    assert!(text(&file).contains("INFO agent listens"), "{}", text(&file));
    assert!(!cluster.spool().join("agent.log").exists());
    let status = cluster.pgark(&["status"]).run().expect(0);
    assert!(status.stdout.contains(&format!("log       {}", file.display())), "{status}");
}

#[test]
fn an_agent_in_the_foreground_logs_to_stderr_and_a_detached_one_to_the_file() {
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    cluster.config.set("log.destination", "stderr");
    let outcome = served(&cluster, cluster.pgark(&["agent"]));
    let line = outcome.stderr.lines().next().unwrap_or_default();
    assert!(line.starts_with("20") && line.contains("Z  INFO agent listens"), "{outcome}");
    assert!(outcome.stderr.contains("agent stopped"), "{outcome}");
    assert_eq!(spool_log(&cluster), "");

    cluster.push(&segment(&cluster, SEGMENT)).expect(0);
    assert!(spool_log(&cluster).contains("INFO agent listens"));
}

#[test]
fn the_journal_gets_priorities() {
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    // Without a destination as well.
    let outcome = served(&cluster, under_journal(&cluster));
    assert!(outcome.stderr.contains("<6>INFO agent listens pid="), "{outcome}");
    assert!(outcome.stderr.lines().all(|line| line.starts_with('<')), "{outcome}");

    cluster.config.set("log.destination", "stderr");
    cluster.config.set("log.format", "json");
    cluster.config.set("log.level", "debug");
    let outcome = served(&cluster, under_journal(&cluster));
    let priorities = ["<6>{\"timestamp\":", "<7>{\"timestamp\":"];
    for priority in priorities {
        assert!(outcome.stderr.contains(priority), "{priority} is missing: {outcome}");
    }
    assert!(outcome.stderr.lines().all(|line| priorities.iter().any(|p| line.starts_with(p))), "{outcome}");

    cluster.config.set("log.destination", "file");
    assert_eq!(served(&cluster, under_journal(&cluster)).stderr, "");
    assert!(spool_log(&cluster).contains("agent listens"));
}

/// The socket of a syslog; removed when dropped.
struct FakeSyslog(UnixDatagram);

impl FakeSyslog {
    fn listen() -> FakeSyslog {
        let socket = UnixDatagram::bind(SYSLOG).unwrap();
        fs::set_permissions(SYSLOG, fs::Permissions::from_mode(0o666)).unwrap();
        socket.set_nonblocking(true).unwrap();
        FakeSyslog(socket)
    }

    /// The next of the messages so far that has this text.
    fn take(&self, text: &str) -> Option<String> {
        let mut buffer = [0; 8192];
        while let Ok(length) = self.0.recv(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..length]);
            if message.contains(text) {
                return Some(message.into_owned());
            }
        }
        None
    }

    /// Waits for a message with this text.
    fn wait_for(&self, text: &str) -> String {
        wait_for(text, PATIENCE, || self.take(text))
    }
}

impl Drop for FakeSyslog {
    fn drop(&mut self) {
        let _ = fs::remove_file(SYSLOG);
    }
}

/// Removes the socket that a killed test run left.
fn may_be_syslog() -> bool {
    let is_dead = || UnixDatagram::unbound().and_then(|socket| socket.connect(SYSLOG)).is_err();
    if Uid::effective().is_root() && fs::symlink_metadata(SYSLOG).is_ok_and(|_| is_dead()) {
        let _ = fs::remove_file(SYSLOG);
    }
    Uid::effective().is_root() && fs::symlink_metadata(SYSLOG).is_err()
}

#[test]
fn the_syslog_gets_the_log_and_the_file_what_it_does_not_take() {
    if !may_be_syslog() {
        eprintln!("skipped: only root can be the syslog, and only where none is running");
        return;
    }
    let site = Site::without_server();
    let mut cluster = site.cluster("primary");
    cluster.config.set("log.destination", "syslog");
    cluster.config.set("log.level", "debug");
    cluster.push(&segment(&cluster, SEGMENT)).expect(0);
    let early = spool_log(&cluster);
    assert!(early.starts_with("20") && early.contains("Z INFO agent listens"), "{early}");
    let status = cluster.pgark(&["status"]).run().expect(0);
    assert!(status.stdout.contains("log       syslog; while that is unavailable, "), "{status}");

    // A running agent finds a syslog that starts later.
    let syslog = FakeSyslog::listen();
    let process = cluster.agent();
    let answered = wait_for("a message", PATIENCE, || {
        cluster.pgark(&["status"]).run().expect(0);
        syslog.take("answered a request")
    });
    let begin = format!(" pgark[{}]: DEBUG answered a request", process.0);
    assert!(answered.starts_with("<31>") && answered.contains(&begin), "{answered}");
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    assert!(syslog.wait_for("agent stopped").starts_with("<30>"));

    let before = spool_log(&cluster);
    cluster.push(&segment(&cluster, SEGMENT + 1)).expect(0);
    syslog.wait_for("INFO agent listens");
    assert_eq!(spool_log(&cluster), before);

    // The syslog ends.
    drop(syslog);
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    assert!(spool_log(&cluster).ends_with("INFO agent stopped\n"), "{}", spool_log(&cluster));
}

#[test]
fn verbose_shows_what_happens() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    cluster.push(&segment(&cluster, SEGMENT)).expect(0);
    let quiet = cluster.pgark(&["info"]).run();
    assert!(!quiet.stderr.contains("DEBUG"), "{quiet}");
    for arguments in [["info", "-v"], ["-v", "info"], ["info", "--verbose"], ["info", "-vv"]] {
        let outcome = cluster.pgark(&arguments).run();
        assert_eq!((outcome.code, &outcome.stdout), (quiet.code, &quiet.stdout), "{outcome}");
        let outcome =
            outcome.says("DEBUG read the configuration").says(cluster.config.path.to_str().unwrap());
        outcome.says("DEBUG opened the store").says("DEBUG store request").says("duration_ms=");
    }
    let json = cluster.pgark(&["info", "--json", "-v"]).run().says("DEBUG store request");
    assert!(serde_json::from_str::<Value>(&json.stdout).is_ok(), "{json}");
    let repeated: Vec<_> = [["-v", "config", "-v"], ["config", "-v", "-q"]]
        .iter()
        .map(|arguments| cluster.pgark(arguments).run().expect(0).says("DEBUG").stdout)
        .collect();
    assert_eq!(repeated[0], repeated[1]);
}

#[test]
fn verbose_shows_the_log_of_an_agent_in_the_foreground() {
    let site = Site::without_server();
    let cluster = site.cluster("primary");
    let outcome = served(&cluster, cluster.pgark(&["agent", "-v"]));
    outcome.says("DEBUG read the configuration").says("INFO agent listens").says("DEBUG answered a request");
    let log = spool_log(&cluster);
    assert!(log.contains("INFO agent listens") && !log.contains("DEBUG"), "{log}");
}
