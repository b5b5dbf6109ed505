//! The server that is backed up, and its primary.

pub mod archiver;
pub mod configuration_files;
pub mod primary;
pub mod session;
pub mod summary_row;
pub mod wal;

use crate::monitor::{CommandWarning, Monitor};
use crate::postgres::ServerVersion;

/// Application name of the connections in the server's views.
pub const APPLICATION_NAME: &str = "pgark base-backup";

/// Warns that pgark has not been tested with this version.
pub fn warn_of_assumption(version: ServerVersion, monitor: &dyn Monitor) {
    if version.is_assumed() {
        monitor.warn(CommandWarning::UnknownVersion { version });
    }
}
