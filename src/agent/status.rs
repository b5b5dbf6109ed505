//! What goes on in the agent, for `pgark status`.

use serde::{Deserialize, Serialize};

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
    /// Why the repository is asked again at this moment, before anybody has given up.
    pub trouble: Option<FailureStatus>,
    /// The first file that cannot be stored at all.
    pub refused: Option<FailureStatus>,
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
