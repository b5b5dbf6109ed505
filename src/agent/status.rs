//! The state of the agent, for `pgark status`.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// The complete state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The agent's process.
    pub process_id: u32,
    /// Its version of pgark.
    pub version: String,
    /// Its log.
    pub log: String,
    /// The upload of WAL to the repository.
    pub upload: UploadStatus,
    /// The download of WAL from the repository.
    pub fetch: FetchStatus,
}

/// The upload of WAL to the repository.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UploadStatus {
    /// Ready files whose upload has not started.
    pub waiting_files: usize,
    /// Files being stored.
    pub running_files: usize,
    /// Files stored that PostgreSQL has not requested yet.
    pub stored_ahead_files: usize,
    /// Files stored since the agent started.
    pub stored_files: u64,
    /// The last of them.
    pub last_stored: Option<String>,
    /// The current outage of the repository.
    pub outage: Option<FailureStatus>,
    /// The current error of the store while it still retries.
    pub trouble: Option<FailureStatus>,
    /// The first file that cannot be stored at all.
    pub refused: Option<FailureStatus>,
    /// The segments whose absence prevents recovery across the last timeline switch.
    pub missing: Option<MissingStatus>,
    /// Another timeline in use beside this server's.
    pub rival: Option<CompetingTimelineStatus>,
}

/// Another timeline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CompetingTimelineStatus {
    /// Its number.
    pub timeline: u32,
    /// The position at which it branched off this server's timeline, as an LSN.
    pub left_at: String,
}

/// Missing segments.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MissingStatus {
    /// The first.
    pub first: String,
    /// The last.
    pub last: String,
    /// How many.
    pub segments: u64,
}

/// The download of WAL from the repository.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FetchStatus {
    /// Files fetched ahead and not handed out yet.
    pub ready_files: usize,
    /// Files handed out since the agent started.
    pub fetched_files: u64,
    /// Of these, the ones that had been fetched ahead.
    pub fetched_ahead_files: u64,
    /// The file with the longest wait, and the reason.
    pub waiting: Option<FailureStatus>,
    /// Why the last file was not fetched into the spool.
    pub spool: Option<FailureStatus>,
}

/// A failure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailureStatus {
    /// The file concerned, if any.
    pub file: Option<String>,
    /// The kind of the error, as in `--json` everywhere.
    pub kind: String,
    /// The error.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Since when, in seconds since 1970.
    pub since_unix_s: Option<u64>,
}

impl FailureStatus {
    /// An error, about a file or not.
    pub fn new(file: Option<String>, error: &Error, since: Option<SystemTime>) -> FailureStatus {
        FailureStatus {
            file,
            kind: error.kind().name().to_owned(),
            message: error.to_string(),
            hint: error.hint_text().map(str::to_owned),
            since_unix_s: since
                .and_then(|since| since.duration_since(UNIX_EPOCH).ok())
                .map(|since| since.as_secs()),
        }
    }
}
