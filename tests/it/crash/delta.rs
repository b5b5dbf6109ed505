//! A recovery with `--delta` is killed once or twice: no server starts from the result unless it is the old cluster or
//! the new one, and the same command completes it.

use super::dying;
use super::steps::chosen;
use crate::support::{DeltaScene, Random, Tally, wants_everything};
use nix::sys::signal::Signal;

#[test]
fn a_delta_that_dies_at_any_step_leaves_nothing_to_start_or_everything() {
    let scene = DeltaScene::tell();
    let mut random = Random::seeded("second deaths");
    let mut tally = Tally::of("delta");
    let steps = chosen(&scene.recording, "steps of a recovery with --delta");
    let all = scene.recording.operations().len();
    // Many kinds of steps differ only in the file.
    let stride = if wants_everything() { 1 } else { 3 };
    for (step, kind) in steps.into_iter().rev().step_by(stride) {
        let when = format!("after the death before step {step} ({kind})");
        scene.begin_anew();
        dying(scene.recover(), step).run().killed_by(Signal::SIGKILL);
        tally.kills += 1;
        scene.expect_harmless(&when);
        if random.percent(30) {
            // Fewer steps than that may remain.
            let next = 1 + random.below(all) as u64;
            let outcome = dying(scene.recover(), next).run();
            if outcome.signal.is_some() {
                outcome.killed_by(Signal::SIGKILL);
                tally.kills += 1;
                scene.expect_harmless(&format!("{when} and another before step {next}"));
            }
        }
        scene.expect_converges(&when);
        tally.recoveries += 1;
    }
}
