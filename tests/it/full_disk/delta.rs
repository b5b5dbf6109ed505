//! A recovery with `--delta` meets a full disk, or a broken one.

use super::faults::{ERRORS, failing};
use crate::crash::chosen;
use crate::support::{DeltaScene, Tally, wants_everything};

#[test]
fn a_delta_tells_of_every_operation_that_fails_and_goes_on_when_none_does() {
    let scene = DeltaScene::tell();
    let mut tally = Tally::of("delta-faults");
    for (number, (step, kind)) in
        chosen(&scene.recording, "faults of a recovery with --delta").into_iter().enumerate()
    {
        if number % 5 != 0 && !wants_everything() {
            continue; // the deaths have been at all of them
        }
        let (error, text) = ERRORS[number % 2];
        let when = format!("{error} at step {step} ({kind})");
        scene.begin_anew();
        let outcome = failing(scene.recover(), &step.to_string(), error).run();
        tally.faults += 1;
        if outcome.code == Some(0) {
            // The failed operation was not essential.
            scene.expect_done(&when);
        } else {
            outcome.expect(3).says(text);
        }
        scene.expect_harmless(&when);
        scene.expect_converges(&when);
        tally.recoveries += 1;
    }
}
