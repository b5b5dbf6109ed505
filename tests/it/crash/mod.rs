//! Kills at every step: a program is started again and again, and killed before its first, second, … step, until it
//! completes. A step is a disk operation, a request to a bucket, or named in the source (`src/failpoint.rs`); the
//! programs count them themselves, so that no list can miss one.
//!
//! After each kill the checker inspects the result, and repeating the operation succeeds.

mod backup;
mod bucket;
mod combine;
mod delta;
mod get;
mod push;
mod recover;
mod steps;

pub use steps::chosen;

use crate::support::checker::{Acknowledged, Tree, expect_sound};
use crate::support::{Cluster, PATIENCE, Run, Running, Site, wait_until};
use nix::sys::signal::Signal;
use std::path::Path;

/// More steps than any of these programs has; a program that exceeds it never ends.
const STEPS_MAX: u64 = 400;

/// A segment number after those that initdb creates.
const SEGMENT: u64 = 0x40;

/// The run that is killed before this step.
fn dying(run: Run, step: u64) -> Run {
    run.env("PGARK_DIE_BEFORE", step.to_string())
}

/// Starts an agent, and waits until it listens or is dead.
fn start_agent(cluster: &Cluster, agent: Run) -> Running {
    let mut agent = agent.spawn();
    wait_until("the agent listens or has died", PATIENCE, || {
        has_socket(cluster) || agent.try_status().is_some()
    });
    agent
}

fn has_socket(cluster: &Cluster) -> bool {
    let mut entries = std::fs::read_dir(cluster.spool()).into_iter().flatten();
    entries.any(|entry| entry.unwrap().file_name().to_string_lossy().ends_with(".sock"))
}

/// Stops the running agent; returns whether `agent` was killed before or meanwhile.
fn stop(cluster: &Cluster, agent: Running) -> bool {
    cluster.pgark(&["agent", "stop"]).run().expect(0);
    let outcome = agent.wait();
    if outcome.signal.is_none() {
        outcome.expect(0);
        return false;
    }
    outcome.killed_by(Signal::SIGKILL);
    true
}

/// Kills the agent and removes the spool, whose content is not needed.
fn forget_spool(cluster: &Cluster) {
    if let Some(agent) = cluster.find_agent() {
        agent.kill();
    }
    clear(&cluster.spool());
    std::fs::remove_dir(cluster.spool()).unwrap();
}

/// Empties a directory.
fn clear(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.unwrap();
    }
}

#[track_caller]
fn expect_repository_sound(site: &Site, acknowledged: &Acknowledged, step: u64) {
    expect_sound(
        &Tree::read(&site.repository()),
        acknowledged,
        &format!("after the death before step {step}"),
    );
}
