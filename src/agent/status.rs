//! What goes on in the agent, for `pgark status`.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// Everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The agent's process.
    pub process_id: u32,
    /// Its version of pgark.
    pub version: String,
    /// Its log.
    pub log: String,
    /// The WAL on its way into the repository.
    pub upload: UploadStatus,
    /// The WAL on its way out.
    pub fetch: FetchStatus,
}

/// The WAL on its way into the repository.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UploadStatus {
    /// Files known to be ready and not begun.
    pub waiting_files: usize,
    /// Files being stored.
    pub running_files: usize,
    /// Files stored before PostgreSQL has asked for them.
    pub stored_ahead_files: usize,
    /// Files stored since the agent began.
    pub stored_files: u64,
    /// The last of them.
    pub last_stored: Option<String>,
    /// Why nothing can be stored now.
    pub outage: Option<FailureStatus>,
    /// What the repository keeps from being stored at this moment, while the store still tries.
    pub trouble: Option<FailureStatus>,
    /// The first file that cannot be stored at all.
    pub refused: Option<FailureStatus>,
    /// What recovery across the last switch of timelines lacks.
    pub missing: Option<MissingStatus>,
    /// A timeline that is in use beside this server's.
    pub rival: Option<RivalStatus>,
}

/// Another timeline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RivalStatus {
    /// Its number.
    pub timeline: u32,
    /// Where it left this server's.
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

/// The WAL on its way out of the repository.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FetchStatus {
    /// Files fetched ahead and not taken.
    pub ready_files: usize,
    /// Files handed out since the agent began.
    pub fetched_files: u64,
    /// Of these, the ones that had been fetched ahead.
    pub fetched_ahead_files: u64,
    /// The file that has been waited for longest, and why.
    pub waiting: Option<FailureStatus>,
    /// Why the last file was not fetched into the spool.
    pub spool: Option<FailureStatus>,
}

/// Something that does not work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailureStatus {
    /// The file, where it is about one.
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
