//! What the operator requests of a recovery.

use crate::config::Config;
use crate::recover::place::tablespaces::TablespaceMapping;
use crate::recover::server::settings::Archiving;
use crate::recover::server::standby::Role;
use crate::recover::target::TargetRequest;
use std::path::PathBuf;

/// A recovery as the operator requests it.
#[derive(Clone, Debug)]
pub struct RecoverRequest {
    /// The recovery target.
    pub target: TargetRequest,
    /// The configuration of the original, or what is known of it.
    pub config: Config,
    /// The destination of the cluster, an absolute path.
    pub data_directory: PathBuf,
    /// The spool of its agent; `None` places it beside the data directory.
    pub spool_directory: Option<PathBuf>,
    /// The destinations of tablespaces.
    pub mappings: Vec<TablespaceMapping>,
    /// Role of the server after recovery.
    pub role: Role,
    /// What may already exist at the destination.
    pub mode: Mode,
    /// The databases to restore besides the system databases; empty means all.
    pub databases: Vec<String>,
    /// Whether the cluster archives after recovery.
    pub archiving: Archiving,
    /// The program that its `restore_command` calls, an absolute path.
    pub archive_get: PathBuf,
}

/// What may exist in the destination directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: the directories must be empty or absent.
    Fresh,
    /// A cluster of the same system, whose matching content is kept.
    Delta,
}
