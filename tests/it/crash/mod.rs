//! Death at every step: a program is started again and again, and dies before its first, second, … step, until it has come
//! to its end. A step is an operation of the disk, a request to a bucket, or has a name in the source (`src/failpoint.rs`);
//! the programs count them themselves, so that there is no list in which one could be missing.
//!
//! After each death the checker looks at what is there, and the same thing done again succeeds.

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

/// More than anything takes that is counted up here: whoever passes it never ends.
const STEPS_MAX: u64 = 400;

/// A segment's number past those that initdb made.
const SEGMENT: u64 = 0x40;

/// The run that dies before this step.
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

/// Has whichever agent runs end; whether `agent` died before, or on the way.
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

/// The agent dies, and nothing is left of the spool: what it keeps there matters to nobody.
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
