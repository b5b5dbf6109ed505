//! A file that is known: what is done about it, who waits for it, and how long they may.

use crate::error::{Error, Result};
use crate::postgres::WalFileName;
use crate::repository::wal::FileIdentity;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A file of the server's that is to be stored, or was.
#[derive(Debug)]
pub struct Entry {
    pub state: State,
    pub waiters: Vec<oneshot::Sender<Result<()>>>,
    /// When the first of those asked who have not been told what became of the file.
    asked_since: Option<Instant>,
    /// When the first of them gives up.
    overdue_at: Option<Instant>,
    /// When the waiters are told why they wait, if there is still a reason to.
    pub patience_ends: Option<Instant>,
}

/// What is done about a file.
#[derive(Debug)]
pub enum State {
    Waiting,
    Running,
    /// The file with this identity is stored, under this name.
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

    /// Somebody asks, and can wait so long; whether an earlier asker has waited so long in vain.
    pub fn asked(&mut self, now: Instant, deadline: Duration, waiter: oneshot::Sender<Result<()>>) -> bool {
        let gives_up_at = *self.asked_since.get_or_insert(now) + deadline;
        self.overdue_at = Some(self.overdue_at.map_or(gives_up_at, |at| at.min(gives_up_at)));
        self.waiters.push(waiter);
        self.is_overdue(now)
    }

    /// Whether somebody has asked, and given up.
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.overdue_at.is_some_and(|at| now >= at)
    }

    /// What is said of a file that takes longer than whoever asks can wait.
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

    /// What became of the file.
    pub fn answer(&mut self, result: &Result<()>) {
        self.asked_since = None;
        self.overdue_at = None;
        self.patience_ends = None;
        self.tell(result);
    }

    /// Something to those who wait now; what becomes of the file is not known yet, unless [`Entry::answer`] says so.
    pub fn tell(&mut self, result: &Result<()>) {
        for waiter in self.waiters.drain(..) {
            // Whoever has gone does not need it.
            let _ = waiter.send(match result {
                Ok(()) => Ok(()),
                Err(error) => Err(error.replica()),
            });
        }
    }
}
