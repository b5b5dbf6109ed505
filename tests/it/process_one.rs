//! PostgreSQL as process 1, as in a container without an init process: every orphan becomes its child, and it treats
//! the death of a child by a signal as a crash, which ends all sessions.

use crate::support::{
    Cluster, PATIENCE, Process, Run, Running, Site, postgres_program, wait_until, wants_everything,
};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use std::time::Duration;

/// Longer than any session here is needed.
const SESSION: &str = "SELECT pg_sleep(3600)";

/// Message of a server that ends all sessions.
const CRASH: &str = "terminating any other active server processes";

/// Delay of each disk operation, so that a signal can arrive in the middle of a call.
const SLOW_MS: &str = "60";

/// A server in a PID namespace of its own, with a session.
struct Container {
    cluster: Cluster,
    server: Running,
    session: Running,
}

impl Container {
    /// Starts it; `None`, with a message, without the privileges.
    fn start(cluster: Cluster) -> Option<Container> {
        let isolated = ["--pid", "--fork", "--kill-child", "--mount-proc"];
        let unshare = || Run::as_caller("/usr/bin/unshare").args(isolated);
        if !Uid::effective().is_root() || unshare().arg("true").run().code != Some(0) {
            eprintln!("skipped: only root can make a PID namespace");
            return None;
        }
        let server = unshare()
            .args(["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"])
            .arg(postgres_program("postgres"))
            .arg("-D")
            .arg(cluster.data())
            .env("PGARK_SLOW_MS", SLOW_MS)
            .spawn();
        wait_until("the server takes connections", PATIENCE, || cluster.try_psql("SELECT 1").code == Some(0));
        let pid = String::from_utf8(cluster.read("postmaster.pid")).unwrap();
        assert_eq!(pid.lines().next(), Some("1"));
        let session = Container::open_session(&cluster);
        Some(Container { cluster, server, session })
    }

    fn open_session(cluster: &Cluster) -> Running {
        let session =
            Run::new(postgres_program("psql")).args(["-X", "-d", &cluster.conninfo(), "-c", SESSION]).spawn();
        let count = format!("SELECT count(*) FROM pg_stat_activity WHERE query = '{SESSION}'");
        cluster.wait_for_row(&count, "1");
        session
    }

    /// A pgark process in the container with this text in its command line.
    fn find(&self, what: &str) -> Option<Process> {
        let program = format!("/{what} ");
        let is_it = |process: &Process| {
            let command = process.command_line();
            process.is_alive() && command.contains(&program) && !command.contains("sh -c")
        };
        Process::all_of(self.cluster.data().parent().unwrap()).into_iter().find(is_it)
    }

    fn process(&self, what: &str) -> Process {
        let mut found = None;
        wait_until(what, PATIENCE, || {
            found = self.find(what);
            found.is_some()
        });
        found.unwrap()
    }

    fn archive(&self) {
        self.cluster.wait_archived(&self.cluster.switch_wal());
    }

    /// Sends a signal to a pgark process, waits for its end, and asserts that the server did not notice.
    fn meet(&mut self, what: &str, signal: Signal) {
        let process = self.process(what);
        process.signal(signal);
        wait_until("it is gone", PATIENCE, || !process.is_alive());
        self.archive();
        self.expect_unharmed(&format!("{signal} of {what}"));
    }

    fn expect_unharmed(&mut self, after: &str) {
        let log = self.log();
        assert!(!log.contains(CRASH), "{after} ended the sessions:\n{log}");
        assert!(self.session.try_status().is_none(), "{after} ended the session:\n{log}");
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.server.output_paths()[1]).unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        // Outside the container, the server is the child of unshare, which ends with it.
        let parent = self.server.process();
        let is_server = |process: &Process| process.parent() == Some(parent);
        Process::all().into_iter().filter(is_server).for_each(|server| server.signal(Signal::SIGINT));
        wait_until("the end of the server", PATIENCE, || !parent.is_alive());
    }
}

fn rounds() -> usize {
    if wants_everything() { 20 } else { 1 }
}

const GENTLE: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP];

/// Out of memory ends a process by SIGKILL from the kernel, or by its own abort.
const HARD: [Signal; 2] = [Signal::SIGKILL, Signal::SIGABRT];

#[test]
fn sessions_survive_what_happens_to_a_resident_agent() {
    let site = Site::with_servers(1);
    let cluster = site.cluster("primary");
    cluster.archive();
    let Some(mut container) = Container::start(cluster) else { return };
    for _ in 0..rounds() {
        container.archive();
        for signal in GENTLE.into_iter().chain(HARD) {
            container.meet("pgark agent --announce", signal);
        }
        for signal in GENTLE {
            // It takes its agent along.
            let agent = container.process("pgark agent --announce");
            container.meet("pgark agent --detach", signal);
            assert!(!agent.is_alive());
        }
        container.cluster.switch_wal();
        container.meet("archive-push", Signal::SIGKILL);
        // Also just after it began to start an agent.
        container.meet("pgark agent --announce", Signal::SIGKILL);
        let agent = container.process("pgark agent --announce");
        agent.kill();
        container.cluster.switch_wal();
        container.process("pgark agent --detach");
        if let Some(push) = container.find("archive-push") {
            push.kill();
        }
        container.archive();
        container.expect_unharmed("SIGKILL of an archive-push that starts an agent");
    }
    // The remaining case, which happens once: the agent ends with its parent process.
    let agent = container.process("pgark agent --announce");
    container.process("pgark agent --detach").kill();
    wait_until("the agent is gone", PATIENCE, || !agent.is_alive());
    wait_until("the server has noticed", PATIENCE, || container.log().contains(CRASH));
    wait_until("it takes connections", PATIENCE, || container.cluster.try_psql("SELECT 1").code == Some(0));
    container.session = Container::open_session(&container.cluster);
    container.archive();
    assert_eq!(container.log().matches(CRASH).count(), 1, "the agent's end was a second crash");
}

#[test]
fn sessions_survive_what_happens_to_an_agent_that_is_not_resident() {
    let site = Site::with_servers(1);
    let mut cluster = site.cluster("primary");
    cluster.config.set("agent.resident", false);
    cluster.archive();
    let Some(mut container) = Container::start(cluster) else { return };
    for _ in 0..rounds() {
        for signal in GENTLE.into_iter().chain(HARD) {
            container.cluster.switch_wal();
            container.meet("pgark agent --announce", signal);
        }
        container.cluster.switch_wal();
        container.meet("archive-push", Signal::SIGKILL);
    }
    // None outlives its call.
    let outlives = || container.find("pgark agent --announce").is_some();
    wait_until("no agent is left", Duration::from_secs(5), || !outlives());
    assert!(container.find("pgark agent --detach").is_none());
}
