//! The requests that wait, and how long the repository has been unavailable.
//!
//! Outages are remembered across calls. A standby requests one file after the other, and its promotion must
//! not wait for each as long as for the first. Nothing is remembered about files.

use crate::agent::status::FailureStatus;
use crate::error::{Error, RecoveryMode};
use crate::postgres::WalFileName;
use crate::spool::GetRequest;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// The shortest time that a request of a standby waits.
const PATIENCE_MIN: Duration = Duration::from_secs(1);
/// An outage that was last observed longer ago says nothing about the present.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The current requests, and the current outage.
#[derive(Debug, Default)]
pub struct Waits(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    asked: Vec<Asked>,
    numbers: u64,
    outage: Option<Outage>,
}

#[derive(Debug)]
struct Asked {
    number: u64,
    name: WalFileName,
    since: SystemTime,
    started: Instant,
    /// The result of the last attempt.
    last: Option<Error>,
}

#[derive(Clone, Copy, Debug)]
struct Outage {
    since: Instant,
    last: Instant,
}

/// One request, until it is dropped.
#[derive(Debug)]
pub struct Wait {
    waits: Arc<Waits>,
    number: u64,
}

impl Waits {
    /// Records a request for a file.
    pub fn begin(self: &Arc<Self>, name: WalFileName) -> Wait {
        let mut state = self.state();
        state.numbers += 1;
        let number = state.numbers;
        let (since, started) = (SystemTime::now(), Instant::now());
        state.asked.push(Asked { number, name, since, started, last: None });
        Wait { waits: self.clone(), number }
    }

    /// How long to try. On a standby, later requests of an outage are charged with the time that its first
    /// request waited. A one-shot recovery would fail, so it always has the full deadline.
    pub fn patience(&self, request: &GetRequest) -> Duration {
        match request.mode {
            RecoveryMode::OneShot => request.deadline,
            RecoveryMode::Standby => patience(request.deadline, self.state().outage, Instant::now()),
        }
    }

    /// Records that the repository has answered.
    pub fn answered(&self) {
        self.state().outage = None;
    }

    /// Why a request for this file waits; `None` if none does.
    pub fn reason(&self, name: WalFileName) -> Option<Error> {
        self.state().asked.iter().find(|asked| asked.name == name).map(Asked::reason)
    }

    /// The file with the longest wait, if the wait is long.
    pub fn status(&self) -> Option<FailureStatus> {
        let state = self.state();
        let asked = state.asked.first().filter(|asked| asked.started.elapsed() >= PATIENCE_MIN)?;
        Some(FailureStatus::new(Some(asked.name.to_string()), &asked.reason(), Some(asked.since)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    fn reason(&self) -> Error {
        match &self.last {
            Some(error) => error.replica(),
            None => Error::unavailable(format!(
                "the repository has not responded for {} s",
                self.started.elapsed().as_secs()
            )),
        }
    }
}

impl Wait {
    /// Records that an attempt failed because of the repository.
    pub fn failed(&self, error: &Error) {
        let mut state = self.waits.state();
        let now = Instant::now();
        let known = state.outage.filter(|outage| now < outage.last + REMEMBERED);
        let asked = state.asked.iter_mut().find(|asked| asked.number == self.number);
        let started = asked.as_ref().map_or(now, |asked| asked.started);
        if let Some(asked) = asked {
            asked.last = Some(error.replica());
        }
        state.outage = Some(Outage { since: known.map_or(started, |outage| outage.since), last: now });
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.waits.state().asked.retain(|asked| asked.number != self.number);
    }
}

fn patience(deadline: Duration, outage: Option<Outage>, now: Instant) -> Duration {
    match outage.filter(|outage| now < outage.last + REMEMBERED) {
        Some(outage) => {
            deadline.saturating_sub(now.duration_since(outage.since)).max(PATIENCE_MIN.min(deadline))
        }
        None => deadline,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_waited_for_once_and_forgotten_when_nothing_is_heard_of_it() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let outage = |last: u32| Some(Outage { since: start, last: start + last * second });
        let deadline = 30 * second;
        assert_eq!(patience(deadline, None, start), deadline);
        assert_eq!(patience(deadline, outage(0), start + 10 * second), 20 * second);
        assert_eq!(patience(deadline, outage(40), start + 45 * second), second);
        assert_eq!(patience(second / 2, outage(40), start + 45 * second), second / 2);
        assert_eq!(patience(deadline, outage(40), start + 101 * second), deadline);
    }

    #[test]
    fn what_is_waited_for_is_known_until_it_comes() {
        let waits = Arc::new(Waits::default());
        let name = "00000002.history".parse().unwrap();
        let wait = waits.begin(name);
        assert!(waits.reason(name).unwrap().to_string().contains("has not responded"));
        wait.failed(&Error::unavailable("connection refused"));
        assert_eq!(waits.reason(name).unwrap().to_string(), "connection refused");
        drop(wait);
        assert!(waits.reason(name).is_none());
        assert!(waits.state().outage.is_some());
        waits.answered();
        assert!(waits.state().outage.is_none());
    }
}
