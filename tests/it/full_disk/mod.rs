//! Full disks, failing ones, and files that are not as they should be: the right error at once, no debris that is in the way
//! of the next run, and all is well again when there is room.

mod broken_files;
mod delta;
mod faults;
mod small;

use crate::support::Outcome;

/// What is wrong with how `archive-get` ended for an object that is there and cannot be read: it must stop the recovery.
pub fn complaint_about_unreadable(outcome: &Outcome) -> Option<String> {
    (outcome.code != Some(126)).then(|| format!("recovery is not stopped by\n{outcome}"))
}
