//! The state of one tracked file: its upload, its requests, and their deadlines.

use crate::error::{Error, Result};
use crate::postgres::WalFileName;
use crate::repository::wal::FileIdentity;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A file of the server that is to be stored, or was.
#[derive(Debug)]
pub struct Entry {
    pub state: State,
    pub waiters: Vec<oneshot::Sender<Result<()>>>,
    /// When the first unanswered request arrived.
    asked_since: Option<Instant>,
    /// The deadline of that request.
    overdue_at: Option<Instant>,
    /// When waiting requests are told the reason for the delay, if there still is one.
    pub patience_ends: Option<Instant>,
}

/// The state of a file's upload.
#[derive(Debug)]
pub enum State {
    Waiting,
    Running,
    /// The file with this identity is stored under this name.
    Stored(FileIdentity, WalFileName),
    Failed(Error),
}

impl Entry {
    pub fn waiting() -> Entry {
        Entry {
            state: State::Waiting,
            waiters: Vec::new(),
            asked_since: None,
            overdue_at: None,
            patience_ends: None,
        }
    }

    /// Adds a request with its deadline, and whether an earlier request has timed out.
    pub fn asked(&mut self, now: Instant, deadline: Duration, waiter: oneshot::Sender<Result<()>>) -> bool {
        let gives_up_at = *self.asked_since.get_or_insert(now) + deadline;
        self.overdue_at = Some(self.overdue_at.map_or(gives_up_at, |at| at.min(gives_up_at)));
        self.waiters.push(waiter);
        self.is_overdue(now)
    }

    /// Whether a request has timed out.
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.overdue_at.is_some_and(|at| now >= at)
    }

    /// The error for a file whose upload takes longer than the deadline of its request.
    pub fn delay(&self, now: Instant) -> Error {
        let since = self.asked_since.unwrap_or(now);
        let goes_on = match self.state {
            State::Running => "is still being stored",
            State::Waiting | State::Stored(..) | State::Failed(_) => "is still waiting to be stored",
        };
        Error::unavailable(format!("it {goes_on} after {} s", now.duration_since(since).as_secs())).hint(
            "The repository is slow. The agent continues, and PostgreSQL retries: \"pgark status\" shows the progress.",
        )
    }

    /// Answers all requests with the final result of the upload.
    pub fn answer(&mut self, result: &Result<()>) {
        self.asked_since = None;
        self.overdue_at = None;
        self.patience_ends = None;
        self.tell(result);
    }

    /// Answers the waiting requests. The upload has no final result yet, unless [`Entry::answer`] calls this.
    pub fn tell(&mut self, result: &Result<()>) {
        for waiter in self.waiters.drain(..) {
            // A client that has disconnected does not need the answer.
            let _ = waiter.send(match result {
                Ok(()) => Ok(()),
                Err(error) => Err(error.replica()),
            });
        }
    }
}
