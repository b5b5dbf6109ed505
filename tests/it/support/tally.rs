//! What the suites of crashes and faults have done, for `scripts/soak` to add up.

use std::fs::OpenOptions;
use std::io::Write;

/// Counts, and says them when it is dropped: on stderr, and as a line of the file that `PGARK_TEST_TALLY` names.
#[derive(Debug)]
pub struct Tally {
    scenario: &'static str,
    /// Files and backups that were acknowledged and then found whole.
    pub acknowledged: usize,
    /// Processes that died on purpose.
    pub kills: usize,
    /// Operations that failed on purpose, and power cuts that were played.
    pub faults: usize,
    /// Clusters that were recovered and compared.
    pub recoveries: usize,
}

impl Tally {
    pub fn of(scenario: &'static str) -> Tally {
        Tally { scenario, acknowledged: 0, kills: 0, faults: 0, recoveries: 0 }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        // A scenario that fails has found something that was lost, or at least not as it must be.
        let failures = usize::from(std::thread::panicking());
        let line = format!(
            "{} acknowledged={} kills={} faults={} recoveries={} failures={failures}",
            self.scenario, self.acknowledged, self.kills, self.faults, self.recoveries
        );
        eprintln!("tally: {line}");
        if let Some(path) = std::env::var_os("PGARK_TEST_TALLY") {
            let file = OpenOptions::new().append(true).create(true).open(path);
            let _ = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        }
    }
}
