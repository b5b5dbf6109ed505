//! A recovery is killed again and again in the same directory: no server can be started from the result unless it is
//! complete, and the same command completes it.

use super::dying;
use super::steps::chosen;
use crate::support::checker::Tree;
use crate::support::{Recording, Run, Site, Stop, Tally};
use nix::sys::signal::Signal;

/// Without this file, no server starts from a directory.
const CONTROL_FILE: &str = "global/pg_control";

/// Number of consecutive kills before the command may complete.
const DEATHS_IN_A_ROW: usize = 6;

#[test]
fn a_recovery_that_dies_at_any_step_leaves_nothing_to_start_or_everything() {
    let site = Site::with_servers(1);
    let mut primary = site.cluster("primary");
    primary.config.set("recover.workers", 1); // the same steps in the same order
    primary.archive();
    primary.start();
    primary.back_up("one");
    let last = primary.switch_wal();
    primary.wait_archived(&last);
    primary.stop(Stop::Fast);
    let target = site.directory().join("target");
    let recover = || -> Run { primary.recover(&target, &["--latest"]) };

    let recording = Recording::new(&site, "record");
    recording.of(recover()).run().expect(0);
    let whole = Tree::read(&target);
    std::fs::remove_dir_all(&target).unwrap();
    let mut tally = Tally::of("recover");
    let steps = chosen(&recording, "steps of a recovery");
    for (number, (step, kind)) in steps.iter().enumerate() {
        // A restart after a kill has other steps; this count begins with an empty directory.
        if number % DEATHS_IN_A_ROW == 0 {
            let _ = std::fs::remove_dir_all(&target);
        }
        let outcome = dying(recover(), *step).run();
        if outcome.signal.is_none() {
            panic!("it did not die before step {step} ({kind}):\n{outcome}");
        }
        outcome.killed_by(Signal::SIGKILL);
        tally.kills += 1;
        if target.join(CONTROL_FILE).exists() {
            expect_whole(&Tree::read(&target), &whole, *step);
        }
        if number % DEATHS_IN_A_ROW == DEATHS_IN_A_ROW - 1 || number == steps.len() - 1 {
            let again = recover().run();
            if target.join(super::recover::CONTROL_FILE).exists() && again.code == Some(4) {
                // Only the final message was missing.
                again.says("holds a data directory");
            } else {
                again.expect(0);
            }
            expect_whole(&Tree::read(&target), &whole, *step);
            tally.recoveries += 1;
            std::fs::remove_dir_all(&target).unwrap();
        }
    }
}

/// Every file has its content; the marker file may exist as well.
#[track_caller]
fn expect_whole(found: &Tree, whole: &Tree, step: u64) {
    for (path, content) in whole.files() {
        assert!(found.get(path) == Some(content), "after the death before step {step}: {path}");
    }
}
