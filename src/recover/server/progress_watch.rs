//! Monitors a server's progress, so that every wait is bounded.

use crate::error::{Error, Result};
use crate::monitor::{CommandStep, Monitor, ReplayPosition};
use std::time::{Duration, Instant};

/// Interval between checks of the server.
pub(super) const PAUSE: Duration = Duration::from_millis(200);
/// Longest interval between queries while the server does not respond.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a running server may neither respond nor replay.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a server may replay nothing on the way to its target. One record can take minutes (copying a
/// database), and a WAL file can take as long as `get.deadline`.
const STANDSTILL_MAX: Duration = Duration::from_secs(1800);
/// Interval between progress reports.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// How long a server has made no progress and has not responded.
pub(super) struct ProgressWatch<'a> {
    monitor: &'a dyn Monitor,
    position: Option<ReplayPosition>,
    there_since: Instant,
    silent_since: Option<Instant>,
    reported: Instant,
    /// Wait before the next check.
    pub(super) pause: Duration,
}

impl ProgressWatch<'_> {
    pub(super) fn begin(monitor: &dyn Monitor) -> ProgressWatch<'_> {
        let now = Instant::now();
        ProgressWatch {
            monitor,
            position: None,
            there_since: now,
            silent_since: None,
            reported: now,
            pause: PAUSE,
        }
    }

    /// Records the server's position and reports it at intervals.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) if it has not changed for too long.
    pub(super) fn look(&mut self, position: Option<ReplayPosition>) -> Result<()> {
        if position != self.position {
            self.position = position;
            self.there_since = Instant::now();
        }
        if self.reported.elapsed() >= REPORT_EVERY {
            self.monitor.step(CommandStep::ServerProgress(self.position));
            self.reported = Instant::now();
        }
        if self.there_since.elapsed() < STANDSTILL_MAX {
            return Ok(());
        }
        let position = self.position.map(|position| format!(", which {position}")).unwrap_or_default();
        Err(Error::unavailable(format!(
            "the recovered server{position}, has made no progress for {} minutes",
            self.there_since.elapsed().as_secs() / 60
        )))
    }

    /// Records the position from a response of the server.
    ///
    /// # Errors
    /// As [`ProgressWatch::look`].
    pub(super) fn record_response(&mut self, position: Option<ReplayPosition>) -> Result<()> {
        self.pause = PAUSE;
        self.silent_since = None;
        self.look(position)
    }

    /// Records that the running server did not respond, because of `error`. This may be temporary as long as
    /// it replays.
    ///
    /// # Errors
    /// `error`, if the server has neither responded nor replayed for too long.
    pub(super) fn record_failure(&mut self, position: Option<ReplayPosition>, error: Error) -> Result<()> {
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        if position != self.position {
            self.silent_since = None;
        }
        self.look(position)?;
        let since = *self.silent_since.get_or_insert_with(Instant::now);
        if since.elapsed() < SILENCE_MAX { Ok(()) } else { Err(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::monitor::RecordingMonitor;
    use crate::postgres::Lsn;

    fn ago(duration: Duration) -> Instant {
        Instant::now().checked_sub(duration).unwrap()
    }

    #[test]
    fn a_server_that_stands_still_is_given_up() {
        let monitor = RecordingMonitor::default();
        let mut watch = ProgressWatch::begin(&monitor);
        let replayed = |lsn: u64| Some(ReplayPosition::ReplayedTo(Lsn::new(lsn).unwrap()));
        watch.record_response(replayed(1)).unwrap();
        watch.there_since = ago(STANDSTILL_MAX);
        watch.record_response(replayed(2)).unwrap();
        watch.there_since = ago(STANDSTILL_MAX);
        let error = watch.record_response(replayed(2)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(
            error.to_string().contains("which has replayed up to 0/2, has made no progress for 30"),
            "{error}"
        );
    }

    #[test]
    fn silence_is_given_up_unless_the_server_replays_meanwhile() {
        let monitor = RecordingMonitor::default();
        let mut watch = ProgressWatch::begin(&monitor);
        let silent = |watch: &mut ProgressWatch<'_>, lsn: u64| {
            let position = Some(ReplayPosition::ReplayedTo(Lsn::new(lsn).unwrap()));
            let result = watch.record_failure(position, Error::unavailable("refused"));
            watch.silent_since = Some(ago(SILENCE_MAX));
            result
        };
        silent(&mut watch, 1).unwrap();
        silent(&mut watch, 2).unwrap();
        assert_eq!(silent(&mut watch, 2).unwrap_err().to_string(), "refused");
        assert_eq!(watch.pause, PAUSE * 8, "it is asked less and less often");
        watch.record_response(None).unwrap();
        assert_eq!(watch.pause, PAUSE);
        watch.reported = ago(REPORT_EVERY);
        watch.record_response(Some(ReplayPosition::ReplayedTo(Lsn::new(3).unwrap()))).unwrap();
        assert_eq!(monitor.events().len(), 1, "{:?}", monitor.events());
    }
}
