//! Chooses the configuration for the archive programs of a recovered cluster: the host's file or a new one.

use crate::config::Config;
use crate::error::Result;
use crate::postgres::SystemIdentifier;
use crate::recover::server::settings::{Archiving, RecoveredPlace, archive_command};
use std::path::{Path, PathBuf};

/// Destination of the cluster, as the request gives it.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The data directory.
    pub data_directory: &'a Path,
    /// The spool directory, if the request names one.
    pub spool_directory: Option<&'a Path>,
    /// System identifier of the cluster.
    pub system: SystemIdentifier,
}

/// The host's configuration file, if it fits a cluster recovered to this destination without changes. The
/// settings then name that file. This matters because settings are copied to other hosts, for example by
/// `pg_rewind`; those hosts have the same file but no file beside the data directory.
pub fn own_configuration(config: &Config, destination: Destination<'_>) -> Option<PathBuf> {
    let path = config.path.as_ref().filter(|path| path.to_str().is_some())?;
    if !is_own_place(config, destination.data_directory) || destination.spool_directory.is_some() {
        return None;
    }
    // The file does not contain what variables and the command line override.
    let file = config.of_files_alone().ok()??;
    let suits = file.archives_like(config)
        && file.system_identifier.is_none_or(|pinned| pinned == destination.system);
    suits.then(|| path.clone())
}

/// Which place a cluster takes that is recovered to `data_directory`; its archive programs use
/// `configuration`.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for a path that no setting can hold.
pub fn place(
    config: &Config,
    data_directory: &Path,
    archiving: Archiving,
    archive_get: &Path,
    configuration: &Path,
) -> Result<RecoveredPlace> {
    if is_own_place(config, data_directory) {
        return Ok(RecoveredPlace::Own);
    }
    let archive_command = match archiving {
        Archiving::Off => None,
        Archiving::On => Some(archive_command(&archive_get.with_file_name("archive-push"), configuration)?),
    };
    Ok(RecoveredPlace::Other { archive_command })
}

/// A note about the `archive_command` of a cluster in another place.
pub fn archiving_note(place: &RecoveredPlace) -> Option<String> {
    let RecoveredPlace::Other { archive_command: Some(command) } = place else { return None };
    Some(format!(
        "archive_command is adapted to this host and directory, since the original cluster's was set for its own: {command}"
    ))
}

fn is_own_place(config: &Config, data_directory: &Path) -> bool {
    config.path.is_some() && config.data_directory == data_directory
}
