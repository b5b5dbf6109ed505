//! A complete plan, which [`restore`](crate::recover::restore) carries out.

use super::databases::OmittedDatabases;
use crate::config::Config;
use crate::error::Result;
use crate::postgres::{RecoveryTarget, SystemIdentifier};
use crate::recover::place::destinations::Destinations;
use crate::recover::place::staging::{DIRECTORY_MODE, Found, GROUP_DIRECTORY_MODE};
use crate::recover::server::settings::{RecoveryPath, RecoverySettings, restore_command};
use crate::recover::server::standby::{Role, StandbySettings};
use crate::recover::target::TargetPlan;
use crate::repository::backup::Chain;
use crate::repository::backup::manifest::StoredBackup;
use std::path::{Path, PathBuf};

/// A complete recovery plan.
#[derive(Clone, Debug)]
pub struct RecoveryPlan {
    /// The backup, and where recovery ends.
    pub target: TargetPlan,
    /// The backup's manifest and what it refers to.
    pub backup: StoredBackup,
    /// The backup with the earlier ones that it depends on.
    pub chain: Chain,
    /// The databases that are not restored.
    pub left_out: OmittedDatabases,
    /// System identifier of the cluster.
    pub system: SystemIdentifier,
    /// The destination of every path.
    pub destinations: Destinations,
    /// What the data directory contains now.
    pub found: Found,
    /// What the tablespaces' directories contain now, in the same order.
    pub tablespaces_found: Vec<Found>,
    /// The settings for the server.
    pub settings: RecoverySettings,
    /// The configuration of the recovered cluster, not written yet.
    pub config: Config,
    /// The file that the archive programs of the recovered cluster read.
    pub config_path: PathBuf,
    /// Whether that file is the host's own, or one written beside the data directory.
    pub config_file: ConfigFile,
    /// The directory for copies of configuration files that lay outside the original's data directory.
    pub configuration_copies: PathBuf,
    /// Warnings to show before the recovery starts.
    pub warnings: Vec<String>,
}

/// Origin of a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigFile {
    /// The host's own file, which stays unchanged.
    OfHost,
    /// A file of the recovered cluster, which will be written.
    OfCopy,
}

impl RecoveryPlan {
    /// The `restore_command` for a standby in this place.
    ///
    /// # Errors
    /// As [`restore_command`].
    pub fn restore_command_of_standby(&self, archive_get: &Path) -> Result<String> {
        let role = Role::Standby(StandbySettings { primary: None, apply_delay: None });
        let path = RecoveryPath { timeline: self.target.history.timeline(), proven_end: None };
        restore_command(archive_get, &self.config_path, &role, &RecoveryTarget::Latest, path)
    }

    /// The permissions of the data directory and the tablespaces' directories. The group may read if it could
    /// in the original (`initdb --allow-group-access`), because the modes of all other files follow from
    /// these.
    pub fn directory_mode(&self) -> u32 {
        match self.backup.settings.get("data_directory_mode").map(String::as_str) {
            Some("0750") => GROUP_DIRECTORY_MODE,
            _ => DIRECTORY_MODE,
        }
    }
}
