//! The sentences for the events of a command.

use super::table::counted;
use crate::config::Checkpoint;
use crate::monitor::{CommandStep, CommandWarning, MeasuredWork, UnsavedConfiguration};

/// What a step does, in the present: `waiting for WAL segment …`.
pub(super) fn of_step(step: &CommandStep<'_>) -> String {
    match step {
        CommandStep::StartingBackup { label, checkpoint } => {
            let checkpoint = match checkpoint {
                Checkpoint::Fast => "fast",
                Checkpoint::Spread => "spread",
            };
            format!("starting the backup {label}: waiting for a {checkpoint} checkpoint")
        }
        CommandStep::CheckingArchiving { segment } => {
            format!("waiting for WAL segment {segment}, to check that archiving works")
        }
        CommandStep::WaitingForWal { segment, number, count, is_completed_by_primary } => {
            let how = if *is_completed_by_primary {
                ": the primary archives it when it is full, or after SELECT pg_switch_wal()"
            } else {
                ""
            };
            format!("waiting for WAL segment {segment} ({number} of {count}){how}")
        }
        CommandStep::FindingChangesInSummaries { count, parent } => {
            let summaries = if *count == 1 { "summary" } else { "summaries" };
            format!("using {count} WAL {summaries} to find changes since backup {parent}")
        }
        CommandStep::FindingChangesInFiles { parent, why: None } => {
            format!("finding changes since backup {parent}")
        }
        CommandStep::FindingChangesInFiles { parent, why: Some(why) } => {
            format!("reading all files to find changes since backup {parent}: {why}")
        }
        CommandStep::StoppingBackup => "stopping the backup".to_owned(),
        CommandStep::RemovingAbandonedBackup { label } => {
            format!("removing the remains of the abandoned backup {label}")
        }
        CommandStep::ConfiguringRecovery => "configuring recovery".to_owned(),
        CommandStep::SyncingRestoredFiles => "syncing the restored files to disk".to_owned(),
        CommandStep::StartingServer => "starting the server".to_owned(),
        CommandStep::ReplayingWal => "the server replays WAL".to_owned(),
        CommandStep::ServerProgress(None) => "the server starts".to_owned(),
        CommandStep::ServerProgress(Some(position)) => format!("the server {position}"),
    }
}

/// The name of work in progress, before its figures.
pub(super) fn of_work(work: &MeasuredWork<'_>) -> String {
    match work {
        MeasuredWork::CopyingFiles { count } => format!("copying {}", counted(*count as u64, "file")),
        MeasuredWork::ReceivingBackup => "receiving".to_owned(),
        MeasuredWork::CombiningBackups { labels } => format!("combining {}", labels.join(", ")),
        MeasuredWork::RestoringBackup { label } => format!("restoring backup {label}"),
        MeasuredWork::ReadingWal => "reading WAL to determine where recovery ends".to_owned(),
    }
}

/// A warning, without the word in front.
pub(super) fn of_warning(warning: &CommandWarning<'_>) -> String {
    match warning {
        CommandWarning::PriorityUnchanged { error } => {
            format!("{error}; continuing with the current priority")
        }
        CommandWarning::UnknownVersion { version } => {
            format!("pgark does not know this version: PostgreSQL {version}")
        }
        CommandWarning::ArchiverFails { file } => format!(
            "the server's archiver fails at {file}: the server keeps WAL in pg_wal until this is fixed; see the server's log"
        ),
        CommandWarning::NoParent { why } => {
            format!("no backup can be used as a parent ({why}); taking a full backup")
        }
        CommandWarning::ParentUnusable { label, why } => {
            format!("backup {label} cannot be used as a parent: {why}; taking a full backup")
        }
        CommandWarning::IncrementalImpossible { why } => format!("{why}; taking a full backup"),
        CommandWarning::NotPartOfBackup { kind, path } => {
            format!("the {kind} \"{}\" is not part of the backup", path.display())
        }
        CommandWarning::ConfigurationNotSaved(why) => {
            let why = match why {
                UnsavedConfiguration::PathsHidden => {
                    "only a superuser or a member of pg_read_all_settings can see their paths"
                }
                UnsavedConfiguration::Streamed => "a stream does not contain them",
            };
            format!("configuration files outside the data directory are not saved: {why}")
        }
        CommandWarning::ConfigurationFileNotSaved { path, error } => {
            format!("the configuration file \"{}\" is not saved: {error}", path.display())
        }
        CommandWarning::DamagedBlock { block, path, problem } => {
            format!("block {block} of \"{path}\" is damaged: {problem}")
        }
        CommandWarning::FurtherDamagedBlocks { count } => {
            if *count == 1 {
                "1 further block is damaged".to_owned()
            } else {
                format!("{count} further blocks are damaged")
            }
        }
        CommandWarning::FromServer { message } => format!("the server reports: {message}"),
        CommandWarning::AbandonedBackupsNotRemoved { error } => {
            format!("could not remove the remains of an abandoned backup: {error}")
        }
        CommandWarning::AbandonedBackupNotRemoved { label, error } => {
            format!("could not remove the remains of the abandoned backup {label}: {error}")
        }
        CommandWarning::AbandonedFilesNotRemoved { error } => {
            format!("could not remove abandoned files of dead writers from the repository: {error}")
        }
        CommandWarning::BackupStateUnknown { label, why } => {
            format!("could not determine whether backup {label} is running, so its objects are kept: {why}")
        }
    }
}
