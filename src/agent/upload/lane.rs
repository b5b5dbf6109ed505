//! The transfers to one repository, and its outages.

use crate::error::Error;
use std::time::{Duration, Instant};

/// The pause after a failure, doubled each time up to `agent.retry_max`.
const RETRY_FIRST: Duration = Duration::from_millis(500);

/// A period in which the repository cannot be reached or written to.
#[derive(Debug)]
pub struct UploadOutage {
    /// The last error.
    pub error: Error,
    /// When the first attempt failed.
    pub since: Instant,
    pause: Duration,
    retry_at: Instant,
}

/// The way to one repository.
#[derive(Debug)]
pub struct Lane {
    transfers: usize,
    outage: Option<UploadOutage>,
    retry_max: Duration,
}

impl Lane {
    /// A lane without transfers.
    pub fn new(retry_max: Duration) -> Lane {
        Lane { transfers: 0, outage: None, retry_max }
    }

    /// Number of transfers that run.
    pub fn transfers(&self) -> usize {
        self.transfers
    }

    /// Counts a transfer that begins.
    pub fn transfer_begins(&mut self) {
        self.transfers += 1;
    }

    /// Counts a transfer that has ended.
    pub fn transfer_ended(&mut self) {
        self.transfers = self.transfers.saturating_sub(1);
    }

    /// The current outage.
    pub fn outage(&self) -> Option<&UploadOutage> {
        self.outage.as_ref()
    }

    /// Begins or continues the outage; returns the pause before the next attempt.
    pub fn fail(&mut self, error: Error, now: Instant) -> Duration {
        let (since, pause) = match &self.outage {
            None => (now, RETRY_FIRST),
            Some(outage) => (outage.since, (outage.pause * 2).min(self.retry_max)),
        };
        self.outage = Some(UploadOutage { error, since, pause, retry_at: now + pause });
        pause
    }

    /// Ends the outage, because a file was stored.
    pub fn end_outage(&mut self) -> Option<UploadOutage> {
        self.outage.take()
    }

    /// Whether a file may be tried that nothing waits for: during an outage one at a time, after the pause.
    pub fn may_try(&self, now: Instant) -> bool {
        self.outage.as_ref().is_none_or(|outage| now >= outage.retry_at && self.transfers == 0)
    }

    /// When the next attempt is due during an outage; `None` while one runs.
    pub fn retry_at(&self) -> Option<Instant> {
        self.outage.as_ref().map(|outage| outage.retry_at).filter(|_| self.transfers == 0)
    }

    /// Postpones the next attempt if it is due, so that the machine is not woken for it again and again.
    pub fn nothing_to_retry(&mut self, now: Instant) {
        if let Some(outage) = self.outage.as_mut().filter(|outage| now >= outage.retry_at) {
            outage.retry_at = now + outage.pause;
        }
    }
}
