//! Selects the steps before which to kill.

use crate::support::{Random, Recording, wants_everything};
use std::collections::BTreeMap;

/// The last steps are decisive: publication, and putting files in place.
const LAST_STEPS: usize = 4;

/// The steps of a recorded program, each with its number, counted from 1. In the long form all of them; otherwise a
/// random one of each kind, and the last ones.
pub fn chosen(recording: &Recording, scenario: &str) -> Vec<(u64, String)> {
    let operations = recording.operations();
    let process = operations.first().expect("something was recorded").process;
    assert!(operations.iter().all(|operation| operation.process == process), "one program was recorded");
    let steps: Vec<(u64, String)> = (1..).zip(operations.iter().map(|operation| operation.kind())).collect();
    if wants_everything() {
        return steps;
    }
    let mut kinds: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (step, kind) in &steps {
        kinds.entry(kind).or_default().push(*step);
    }
    let mut random = Random::seeded(scenario);
    let mut chosen: BTreeMap<u64, String> =
        kinds.iter().map(|(kind, steps)| (*random.choose(steps), (*kind).to_owned())).collect();
    chosen.extend(steps.iter().rev().take(LAST_STEPS).cloned());
    eprintln!("{scenario}: {} of {} steps of {} kinds", chosen.len(), steps.len(), kinds.len());
    chosen.into_iter().collect()
}
