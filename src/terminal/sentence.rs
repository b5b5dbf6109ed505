//! The sentences for the events of a command.

use super::table::counted;
use crate::config::Checkpoint;
use crate::monitor::{Step, UnsavedConfiguration, Warning, Work};

/// What a step does, in the present: `waiting for WAL segment …`.
pub(super) fn of_step(step: &Step<'_>) -> String {
    match step {
        Step::StartingBackup { label, checkpoint } => {
            let checkpoint = match checkpoint {
                Checkpoint::Fast => "fast",
                Checkpoint::Spread => "spread",
            };
            format!("starting the backup {label}: waiting for a {checkpoint} checkpoint")
        }
        Step::CheckingArchiving { segment } => {
            format!("waiting for WAL segment {segment}, to check that archiving works")
        }
        Step::WaitingForWal { segment, number, count, is_completed_by_primary } => {
            let how = if *is_completed_by_primary {
                ": the primary archives it when it is full, or after SELECT pg_switch_wal()"
            } else {
                ""
            };
            format!("waiting for WAL segment {segment} ({number} of {count}){how}")
        }
        Step::FindingChangesInSummaries { count, parent } => {
            let summaries = if *count == 1 { "summary" } else { "summaries" };
            format!("using {count} WAL {summaries} to find changes since backup {parent}")
        }
        Step::FindingChangesInFiles { parent, why: None } => {
            format!("finding changes since backup {parent}")
        }
        Step::FindingChangesInFiles { parent, why: Some(why) } => {
            format!("reading all files to find changes since backup {parent}: {why}")
        }
        Step::StoppingBackup => "stopping the backup".to_owned(),
        Step::RemovingAbandonedBackup { label } => {
            format!("removing the remains of the abandoned backup {label}")
        }
        Step::ConfiguringRecovery => "configuring recovery".to_owned(),
        Step::SyncingRestoredFiles => "syncing the restored files to disk".to_owned(),
        Step::StartingServer => "starting the server".to_owned(),
        Step::ReplayingWal => "the server replays WAL".to_owned(),
        Step::ServerProgress(None) => "the server starts".to_owned(),
        Step::ServerProgress(Some(position)) => format!("the server {position}"),
    }
}

/// The name of work in progress, before its figures.
pub(super) fn of_work(work: &Work<'_>) -> String {
    match work {
        Work::CopyingFiles { count } => format!("copying {}", counted(*count as u64, "file")),
        Work::ReceivingBackup => "receiving".to_owned(),
        Work::CombiningBackups { labels } => format!("combining {}", labels.join(", ")),
        Work::RestoringBackup { label } => format!("restoring backup {label}"),
        Work::ReadingWal => "reading WAL to determine where recovery ends".to_owned(),
    }
}

/// A warning, without the word in front.
pub(super) fn of_warning(warning: &Warning<'_>) -> String {
    match warning {
        Warning::PriorityUnchanged { error } => format!("{error}; continuing with the current priority"),
        Warning::UnknownVersion { version } => {
            format!("pgark does not know this version: PostgreSQL {version}")
        }
        Warning::ArchiverFails { file } => format!(
            "the server's archiver fails at {file}: the server keeps WAL in pg_wal until this is fixed; see the server's log"
        ),
        Warning::NoParent { why } => {
            format!("no backup can be used as a parent ({why}); taking a full backup")
        }
        Warning::ParentUnusable { label, why } => {
            format!("backup {label} cannot be used as a parent: {why}; taking a full backup")
        }
        Warning::IncrementalImpossible { why } => format!("{why}; taking a full backup"),
        Warning::NotPartOfBackup { kind, path } => {
            format!("the {kind} \"{}\" is not part of the backup", path.display())
        }
        Warning::ConfigurationNotSaved(why) => {
            let why = match why {
                UnsavedConfiguration::PathsHidden => {
                    "only a superuser or a member of pg_read_all_settings can see their paths"
                }
                UnsavedConfiguration::Streamed => "a stream does not contain them",
            };
            format!("configuration files outside the data directory are not saved: {why}")
        }
        Warning::ConfigurationFileNotSaved { path, error } => {
            format!("the configuration file \"{}\" is not saved: {error}", path.display())
        }
        Warning::DamagedBlock { block, path, problem } => {
            format!("block {block} of \"{path}\" is damaged: {problem}")
        }
        Warning::FurtherDamagedBlocks { count } => {
            if *count == 1 {
                "1 further block is damaged".to_owned()
            } else {
                format!("{count} further blocks are damaged")
            }
        }
        Warning::FromServer { message } => format!("the server reports: {message}"),
        Warning::AbandonedBackupsNotRemoved { error } => {
            format!("could not remove the remains of an abandoned backup: {error}")
        }
        Warning::AbandonedBackupNotRemoved { label, error } => {
            format!("could not remove the remains of the abandoned backup {label}: {error}")
        }
        Warning::AbandonedFilesNotRemoved { error } => {
            format!("could not remove abandoned files of dead writers from the repository: {error}")
        }
        Warning::BackupStateUnknown { label, why } => {
            format!("could not determine whether backup {label} is running, so its objects are kept: {why}")
        }
    }
}
