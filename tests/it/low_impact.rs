//! The limits on a command's impact on a busy server: its rate, and its priority.

use crate::support::{Cluster, PATIENCE, Run, Site, pgark_program, wait_until};
use nix::sys::signal::Signal;
use std::fs;
use std::time::Duration;

fn primary(site: &Site) -> Cluster {
    let mut primary = site.cluster("primary");
    primary.archive();
    primary.start();
    primary
}

/// The niceness of each thread of a process. Source: `proc_pid_stat(5)`, field 19.
fn niceness_of_threads(process: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("stat")).ok());
    stats
        .map(|stat| {
            let after_name = stat.rsplit_once(')').unwrap().1;
            after_name.split_whitespace().nth(16).unwrap().parse().unwrap()
        })
        .collect()
}

#[test]
fn keeps_to_the_rate_that_is_asked_for() {
    let site = Site::with_servers(1);
    let primary = primary(&site);
    let backup = primary.pgark(&["--json", "base-backup", "--checkpoint", "fast", "--max-rate", "16MB"]);
    let outcome = backup.run().expect(0);
    let summary: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let bytes = summary["file_bytes"].as_u64().unwrap();
    // Minus the unused time that may be made up for, and the last piece of each thread.
    let least = Duration::from_secs_f64((bytes as f64 - 2_000_000.0) / f64::from(16 << 20));
    assert!(outcome.took >= least, "{bytes} bytes took {:?}", outcome.took);

    primary.pgark(&["base-backup", "--max-rate", "fast"]).run().expect(2).says("500kB, 50MB or 1GB");
}

#[test]
fn stands_behind_the_server_and_does_not_push_it_back() {
    let site = Site::with_servers(1);
    let mut primary = primary(&site);
    primary.config.set("backup.nice", 7);
    primary.config.set("backup.max_rate", "1MB");
    let backup = primary.pgark(&["base-backup", "--checkpoint", "fast"]).spawn();
    let process = backup.process().0;
    wait_until("the workers to give way", PATIENCE, || {
        niceness_of_threads(process).iter().filter(|nice| **nice == 7).count() == 2
    });
    backup.signal(Signal::SIGINT);
    backup.wait().expect(3);
}

/// As in a container whose rules do not know the system call.
#[test]
fn goes_on_where_the_priority_may_not_be_lowered() {
    let site = Site::with_servers(1);
    let primary = primary(&site);
    let refused =
        ["-f", "-qq", "-o", "/dev/null", "-e", "trace=ioprio_set", "-e", "inject=ioprio_set:error=EPERM"];
    let backup = Run::new("/usr/bin/strace").args(refused).arg(pgark_program("pgark"));
    let backup = backup.args(["base-backup", "--checkpoint", "fast", "--config"]).arg(&primary.config.path);
    let outcome = backup.run().expect(0);
    let warnings = outcome.stderr.matches("could not set the I/O priority").count();
    assert_eq!(warnings, 1, "{}", outcome.stderr);
    outcome.says("continuing with the current priority");
}
