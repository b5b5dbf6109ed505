//! The state of one tracked file: its upload, its requests, and their deadlines.

use super::messages::{Action, RequestId, StoredAs};
use crate::error::{Error, Result};
use std::time::{Duration, Instant};

/// A file of the server that is to be stored, or was.
#[derive(Debug)]
pub struct TrackedFile {
    /// The state of its upload.
    pub state: UploadState,
    /// The unanswered requests.
    pub waiters: Vec<RequestId>,
    /// When the first unanswered request arrived.
    asked_since: Option<Instant>,
    /// The deadline of that request.
    overdue_at: Option<Instant>,
    /// When waiting requests are told the reason for the delay, if there still is one.
    pub patience_ends: Option<Instant>,
}

/// The state of a file's upload.
#[derive(Debug)]
pub enum UploadState {
    /// It has not started, or waits for the end of an outage.
    Waiting,
    /// The file is being stored, or a stored file is being confirmed.
    Running,
    /// The file is stored.
    Stored(StoredAs),
    /// The file cannot be stored.
    Failed(Error),
}

impl TrackedFile {
    /// A file that is to be stored, without a request.
    pub fn waiting() -> TrackedFile {
        TrackedFile {
            state: UploadState::Waiting,
            waiters: Vec::new(),
            asked_since: None,
            overdue_at: None,
            patience_ends: None,
        }
    }

    /// Whether the file is neither being stored nor requested.
    pub fn is_idle(&self) -> bool {
        !matches!(self.state, UploadState::Running) && self.waiters.is_empty()
    }

    /// Adds a request with its deadline; returns whether an earlier request has timed out.
    pub fn asked(&mut self, now: Instant, deadline: Duration, request: RequestId) -> bool {
        let gives_up_at = *self.asked_since.get_or_insert(now) + deadline;
        self.overdue_at = Some(self.overdue_at.map_or(gives_up_at, |at| at.min(gives_up_at)));
        self.waiters.push(request);
        self.is_overdue(now)
    }

    /// Whether a request has timed out.
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.overdue_at.is_some_and(|at| now >= at)
    }

    /// The error for a file whose upload takes longer than the deadline of its request.
    pub fn delay(&self, now: Instant) -> Error {
        let since = self.asked_since.unwrap_or(now);
        let state = match self.state {
            UploadState::Running => "is still being stored",
            UploadState::Waiting | UploadState::Stored(_) | UploadState::Failed(_) => {
                "is still waiting to be stored"
            }
        };
        Error::unavailable(format!("it {state} after {} s", now.duration_since(since).as_secs())).hint(
            "The repository is slow. The agent continues, and PostgreSQL retries: \"pgark status\" shows the progress.",
        )
    }

    /// Answers all requests with the final result of the upload.
    pub fn answer(&mut self, result: &Result<()>, actions: &mut Vec<Action>) {
        self.asked_since = None;
        self.overdue_at = None;
        self.patience_ends = None;
        self.tell(result, actions);
    }

    /// Answers the waiting requests. The upload has no final result yet, unless [`TrackedFile::answer`] calls this.
    pub fn tell(&mut self, result: &Result<()>, actions: &mut Vec<Action>) {
        actions.extend(self.waiters.drain(..).map(|request| {
            let result = match result {
                Ok(()) => Ok(()),
                Err(error) => Err(error.replica()),
            };
            Action::Answer(request, result)
        }));
    }
}
