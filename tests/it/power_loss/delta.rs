//! A recovery with `--delta` overwrites durable files: simulates power failures there too.

use super::{cuts_per_operation, put_in_place};
use crate::support::{DeltaScene, PowerCuts, Random, Recording, Tally};

/// Records a recovery with `--delta` that has this defect, and simulates a power failure after every operation. Returns
/// the first state from which a server could start although it is neither the old cluster nor the new one, or another
/// problem.
pub fn delta_and_cut(mutant: Option<&str>) -> Option<String> {
    let scene = DeltaScene::tell();
    scene.begin_anew();
    let before = scene.files();
    let recording = Recording::new(&scene.site, "power");
    let mut run = recording.of(scene.recover());
    if let Some(mutant) = mutant {
        run = run.env("PGARK_MUTANT", mutant);
    }
    run.run().expect(0);
    let mut random = Random::seeded("power cuts of a recovery with --delta");
    let mut tally = Tally::of("delta-power");
    let mut cuts = PowerCuts::of(&recording).beginning_with(&before);
    let operations = recording.operations().len();
    let resumed = operations / 4 + random.below(operations / 2);
    let mut left_to_resume = None;
    for number in 0.. {
        for _ in 0..cuts_per_operation().min(20) {
            let left = cuts.cut(&mut random, &scene.home);
            let complaint = if number == operations { scene.differs(&left) } else { scene.complaint(&left) };
            if let Some(complaint) = complaint {
                return Some(format!("after {number} operations of {operations}: {complaint}"));
            }
            tally.faults += 1;
        }
        if number == resumed {
            left_to_resume = Some(cuts.cut(&mut random, &scene.home));
        }
        if cuts.step().is_none() {
            break;
        }
    }
    assert_eq!(scene.differs(&cuts.uncut(&scene.home)), None, "the record tells all of it");
    let left = left_to_resume.expect("somewhere on the way");
    for name in ["data", "space"] {
        put_in_place(&left.below(name), &scene.home.join(name));
    }
    scene.expect_harmless("after a power cut");
    scene.expect_converges("after a power cut");
    tally.recoveries = 1;
    None
}

#[test]
fn a_power_cut_in_a_delta_leaves_the_old_cluster_or_the_new_one_or_nothing_to_start() {
    assert_eq!(delta_and_cut(None), None);
}
