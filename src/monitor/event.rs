//! What can happen during a long command.

use crate::config::Checkpoint;
use crate::error::Error;
use crate::postgres::{BlockNumber, Lsn, SegmentName, ServerVersion};
use std::fmt;
use std::io;
use std::path::Path;

/// An event of a use case.
#[derive(Debug)]
pub enum CommandEvent<'a> {
    /// A step began.
    Step(CommandStep<'a>),
    /// A condition worth reporting that does not stop the command.
    Warning(CommandWarning<'a>),
    /// MeasuredWork began whose progress [`super::Monitor::advance`] reports.
    WorkStarted {
        /// The work.
        work: MeasuredWork<'a>,
        /// Its size in bytes; `None` if it is unknown.
        total_bytes: Option<u64>,
    },
    /// The current work ended, with or without success.
    WorkEnded,
}

/// A step of a command.
#[derive(Debug)]
pub enum CommandStep<'a> {
    /// A backup starts with a checkpoint.
    StartingBackup {
        /// The backup.
        label: &'a str,
        /// How the server takes the checkpoint.
        checkpoint: Checkpoint,
    },
    /// The segment before a backup must arrive in the repository first.
    CheckingArchiving {
        /// The awaited segment.
        segment: SegmentName,
    },
    /// A backup is complete but for its WAL.
    WaitingForWal {
        /// The awaited segment.
        segment: SegmentName,
        /// Its number among the backup's segments, from 1.
        number: u64,
        /// The number of the backup's segments.
        count: u64,
        /// Whether only the primary can complete the segment.
        is_completed_by_primary: bool,
    },
    /// Changes are found with WAL summaries.
    FindingChangesInSummaries {
        /// The number of summaries.
        count: usize,
        /// The backup whose changes are wanted.
        parent: &'a str,
    },
    /// Changes are found by reading all files.
    FindingChangesInFiles {
        /// The backup whose changes are wanted.
        parent: &'a str,
        /// Why WAL summaries cannot be used, if the server has any.
        why: Option<&'a str>,
    },
    /// The server ends its part of the backup.
    StoppingBackup,
    /// The objects of a backup whose process ended are removed.
    RemovingAbandonedBackup {
        /// The backup.
        label: &'a str,
    },
    /// The settings of the recovery are written.
    ConfiguringRecovery,
    /// Restored files are made durable.
    SyncingRestoredFiles,
    /// The recovered server starts.
    StartingServer,
    /// The recovered server accepts connections while it replays WAL.
    ReplayingWal,
    /// The position of the recovered server, reported at intervals; `None` before it replays.
    ServerProgress(Option<ReplayPosition>),
}

/// MeasuredWork whose progress is counted in bytes.
#[derive(Debug)]
pub enum MeasuredWork<'a> {
    /// Files are copied into a backup.
    CopyingFiles {
        /// Their number.
        count: usize,
    },
    /// A backup arrives as a stream.
    ReceivingBackup,
    /// A chain becomes a full backup.
    CombiningBackups {
        /// The backups, from the full one to the newest.
        labels: &'a [&'a str],
    },
    /// A backup is restored.
    RestoringBackup {
        /// The backup.
        label: &'a str,
    },
    /// WAL is read to find where recovery ends.
    ReadingWal,
}

/// A condition worth reporting that does not stop the command.
#[derive(Debug)]
pub enum CommandWarning<'a> {
    /// The priority cannot be lowered.
    PriorityUnchanged {
        /// The failure.
        error: &'a Error,
    },
    /// The server's version is treated as another one.
    UnknownVersion {
        /// The version.
        version: ServerVersion,
    },
    /// The server's archiver fails although the repository holds the WAL.
    ArchiverFails {
        /// The file that it fails to archive.
        file: &'a str,
    },
    /// No backup can be the parent of the new one, so a full backup is taken.
    NoParent {
        /// The reason.
        why: &'a str,
    },
    /// This backup cannot be the parent of the new one, so a full backup is taken.
    ParentUnusable {
        /// The backup.
        label: &'a str,
        /// The reason.
        why: &'a str,
    },
    /// Incremental backups are not possible, so a full backup is taken.
    IncrementalImpossible {
        /// The reason.
        why: &'a str,
    },
    /// An entry of the data directory that is neither file nor directory.
    NotPartOfBackup {
        /// What it is.
        kind: &'a str,
        /// Where it is.
        path: &'a Path,
    },
    /// No configuration file outside the data directory is saved.
    ConfigurationNotSaved(UnsavedConfiguration),
    /// A configuration file outside the data directory is not saved.
    ConfigurationFileNotSaved {
        /// The file.
        path: &'a Path,
        /// The failure.
        error: &'a io::Error,
    },
    /// A block is damaged in the cluster itself.
    DamagedBlock {
        /// Its number within its relation's fork.
        block: BlockNumber,
        /// The file, relative to the data directory.
        path: &'a str,
        /// A description of the damage.
        problem: &'a str,
    },
    /// Damaged blocks beyond those that are listed.
    FurtherDamagedBlocks {
        /// Their number.
        count: u64,
    },
    /// A warning that the server sent with the backup.
    FromServer {
        /// Its text, in the server's language.
        message: &'a str,
    },
    /// The search for abandoned backups failed.
    AbandonedBackupsNotRemoved {
        /// The failure.
        error: &'a Error,
    },
    /// The remains of an abandoned backup stay.
    AbandonedBackupNotRemoved {
        /// The backup.
        label: &'a str,
        /// The failure.
        error: &'a Error,
    },
    /// Temporary files of dead writers stay in the repository.
    AbandonedFilesNotRemoved {
        /// The failure.
        error: &'a Error,
    },
    /// A backup that may be running, so its objects stay.
    BackupStateUnknown {
        /// The backup.
        label: &'a str,
        /// The reason.
        why: &'a str,
    },
}

/// Why configuration files outside the data directory are not saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsavedConfiguration {
    /// The database user may not read their paths.
    PathsHidden,
    /// A streamed backup does not contain them.
    Streamed,
}

/// How far a server has replayed WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayPosition {
    /// It replays or awaits this segment.
    Segment(SegmentName),
    /// It has replayed all records that end before this position.
    ReplayedTo(Lsn),
}

/// The predicate of a sentence about the server.
impl fmt::Display for ReplayPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplayPosition::Segment(segment) => write!(f, "replays WAL segment {segment}"),
            ReplayPosition::ReplayedTo(lsn) => write!(f, "has replayed up to {lsn}"),
        }
    }
}
