//! Waits for WAL to arrive in the repository.

use super::session::{self, Session};
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::postgres::{SegmentName, SegmentSize};
use crate::repository::Repository;
use crate::repository::backup::manifest::BackupPoint;
use crate::server::Watch;
use crate::store::ObjectKey;
use std::time::{Duration, Instant};

/// How often the repository is looked at, and after a while.
const LOOK_AT_FIRST: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_secs(1);
/// How often who waits is told so.
const TELL: Duration = Duration::from_secs(10);
/// When and how often the server is asked how its archiver does.
const ASK_AFTER: Duration = Duration::from_secs(1);
const ASK: Duration = Duration::from_secs(5);

/// Where and how long to wait.
pub struct WalWait<'a> {
    /// Where it must arrive.
    pub repository: &'a Repository,
    /// The server, asked how its archiver does.
    pub session: &'a Session,
    /// The length of a segment.
    pub segment_size: SegmentSize,
    /// How long each segment may take after the one before it.
    pub deadline: Duration,
    /// Who is told.
    pub monitor: &'a dyn Monitor,
    /// Whether to go on.
    pub watch: &'a Watch<'a>,
}

impl WalWait<'_> {
    /// Makes sure that archiving works: the start of a backup has completed the segment before its start point, so that
    /// segment must arrive.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) when it does not.
    pub fn before_copy(&self, start: &BackupPoint) -> Result<()> {
        // A cluster whose start point is in its first segment has completed none; archiving shows at the end.
        let Some(before) = session::segment_before(start, self.segment_size) else { return Ok(()) };
        self.wait(before, &format!("waiting for WAL segment {before}, to see that archiving works"))?;
        self.warn_of_failing_archiver()
    }

    /// The agent may store what the server's archiver fails to hand over. The backup is good then, but WAL piles up.
    fn warn_of_failing_archiver(&self) -> Result<()> {
        if let Some(failing) = self.session.archiver(self.watch)?.failing {
            self.monitor.warning(&format!(
                "the server's archiver fails at {failing}: WAL is kept in pg_wal until that is mended; see the server's log"
            ));
        }
        Ok(())
    }

    /// Waits for every segment from `start` to `stop`; returns how many there are.
    ///
    /// # Errors
    /// As [`WalWait::before_copy`].
    pub fn after_stop(&self, start: &BackupPoint, stop: &BackupPoint) -> Result<u64> {
        let first = start.lsn.segment(self.segment_size).as_u64();
        // The byte at the stop point itself is not needed: a stop point at the beginning of a segment needs the one before.
        let last_byte = stop.lsn.previous().unwrap_or(stop.lsn);
        let last = last_byte.segment(self.segment_size).as_u64();
        let count = last.saturating_sub(first) + 1;
        for number in first..=last {
            let name = SegmentName::new(
                start.timeline,
                crate::postgres::SegmentNumber::new(number),
                self.segment_size,
            )
            .ok_or_else(|| Error::damaged("the backup's WAL ends past the last segment"))?;
            let what = format!("waiting for WAL segment {name} ({} of {count})", number - first + 1);
            self.wait(name, &what)?;
        }
        Ok(count)
    }

    fn wait(&self, name: SegmentName, what: &str) -> Result<()> {
        let key = self.repository.layout().segment(name)?;
        let began = Instant::now();
        let (mut told, mut asked) = (None, None);
        loop {
            if self.repository.store().stat(&key)?.is_some() {
                return Ok(());
            }
            let waited = began.elapsed();
            if waited >= self.deadline {
                return Err(self.too_late(name, waited));
            }
            if told.is_none_or(|told: Instant| told.elapsed() >= TELL) {
                self.monitor.step(what);
                told = Some(Instant::now());
            }
            if waited >= ASK_AFTER && asked.is_none_or(|asked: Instant| asked.elapsed() >= ASK) {
                self.check_archived_elsewhere(name, &key)?;
                asked = Some(Instant::now());
            }
            let look = if waited < LOOK { LOOK_AT_FIRST } else { LOOK };
            self.watch.sleep(look.min(self.deadline.saturating_sub(waited)))?;
        }
    }

    /// Ends the wait for what will never come.
    fn check_archived_elsewhere(&self, name: SegmentName, key: &ObjectKey) -> Result<()> {
        let last = self.session.archiver(self.watch)?.last_archived;
        let done = last.is_some_and(|last| last.timeline() == name.timeline() && last >= name);
        // Looked at in this order: a segment is in the repository before the server learns that it is.
        if !done || self.repository.store().stat(key)?.is_some() {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "the server has archived WAL segment {name}, but not into \"{}\"",
            self.repository.store().location()
        ))
        .hint(
            "Its archive_command must be 'archive-push %p' with this configuration; pgark check tells more. If it was changed \
             just now, SELECT pg_switch_wal() and try again.",
        ))
    }

    fn too_late(&self, name: SegmentName, waited: Duration) -> Error {
        let mut message =
            format!("WAL segment {name} did not arrive in the repository within {} s", waited.as_secs());
        // What the server cannot tell now is only missing from the message.
        if let Ok(state) = self.session.archiver(self.watch)
            && let Some(failing) = state.failing
        {
            message.push_str(&format!(
                ": the server's archiver fails at {failing} ({} failures so far)",
                state.failed_count
            ));
        }
        Error::unavailable(message).hint(
            "Look into the server's log for what archive_command says, and at pgark check. A slow archive needs a larger \
             backup.wal_deadline_s.",
        )
    }
}
