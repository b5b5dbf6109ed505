//! A recovery dies, again and again in the same directory; no server could be started from what is left, unless it is all
//! there, and the same command goes on.

use super::dying;
use super::steps::chosen;
use crate::support::checker::Tree;
use crate::support::{Recording, Run, Site, Stop, Tally};
use nix::sys::signal::Signal;

/// What makes a directory one that a server starts from.
const CONTROL_FILE: &str = "global/pg_control";

/// How many deaths follow each other before the command is let go to its end.
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
        // From what the death before has left, there are other steps on the way: these are counted from an empty place.
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
                // Nothing was left to do but to say so.
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

/// Every file is there with its content; the marker may be as well.
#[track_caller]
fn expect_whole(found: &Tree, whole: &Tree, step: u64) {
    for (path, content) in whole.files() {
        assert!(found.get(path) == Some(content), "after the death before step {step}: {path}");
    }
}
