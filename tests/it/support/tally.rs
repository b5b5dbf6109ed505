//! Statistics of the crash and fault suites, which `scripts/soak` adds up.

use std::fs::OpenOptions;
use std::io::Write;

/// Counters that are printed when dropped: on stderr, and as a line in the file named by `PGARK_TEST_TALLY`.
#[derive(Debug)]
pub struct Tally {
    scenario: &'static str,
    /// Files and backups that were acknowledged and verified intact.
    pub acknowledged: usize,
    /// Processes that were killed on purpose.
    pub kills: usize,
    /// Operations that failed on purpose, and simulated power failures.
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
        // A failing scenario has found a loss, or another defect.
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
