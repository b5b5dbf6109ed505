//! Full disks, failing disks, and damaged files: the right error at once, no remains that obstruct the next run, and
//! normal operation once there is space.

mod broken_files;
mod delta;
mod faults;
mod small;

use crate::support::Outcome;

/// The problem, if any, of the outcome of `archive-get` for a stored but unreadable object: it must stop the recovery.
pub fn complaint_about_unreadable(outcome: &Outcome) -> Option<String> {
    (outcome.code != Some(126)).then(|| format!("recovery is not stopped by\n{outcome}"))
}
