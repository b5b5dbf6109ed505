//! Waits for WAL to arrive in the repository.

use super::archiver;
use crate::error::{Error, Result};
use crate::interruption::Interruption;
use crate::monitor::{CommandStep, CommandWarning, Monitor};
use crate::postgres::backup::label::BackupSource;
use crate::postgres::{SegmentName, SegmentNumber, SegmentSize, TimelineHistory};
use crate::repository::Repository;
use crate::repository::backup::manifest::BackupPoint;
use crate::server::Connection;
use crate::store::ObjectKey;
use std::time::{Duration, Instant};

/// Interval between checks of the repository, at first and later.
const LOOK_AT_FIRST: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_secs(1);
/// Interval between progress messages.
const TELL: Duration = Duration::from_secs(10);
/// Delay before, and interval between, queries of the archiver's state.
const ASK_AFTER: Duration = Duration::from_secs(1);
const ASK: Duration = Duration::from_secs(5);

/// Parameters of a wait for WAL.
pub struct WalWait<'a> {
    /// The repository in which the WAL must arrive.
    pub repository: &'a Repository,
    /// Connection to the archiving server, to query its archiver; `None` if it cannot be reached.
    pub archiving: Option<&'a Connection>,
    /// Whether a primary or a standby is backed up.
    pub source: BackupSource,
    /// The size of a segment.
    pub segment_size: SegmentSize,
    /// Time limit for each segment, from the arrival of the previous one.
    pub deadline: Duration,
    /// Receives the progress.
    pub monitor: &'a dyn Monitor,
    /// Interruption of the wait.
    pub interruption: &'a Interruption<'a>,
}

impl WalWait<'_> {
    /// Checks that archiving works. The start of a backup completes the segment before its start point, so that segment
    /// must arrive. A standby completes no segment: if archiving began only with the segment of its start point, that
    /// segment is accepted too.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) if it does not arrive.
    pub fn before_copy(&self, start: &BackupPoint, history: Option<&TimelineHistory>) -> Result<()> {
        // In the first segment of a cluster there is no earlier one; the wait after the stop checks archiving.
        let Some(before) = segment_before(start, history, self.segment_size) else { return Ok(()) };
        let mut names = vec![before];
        if self.source == BackupSource::Standby {
            names.push(SegmentName::holding(start.timeline, start.lsn, self.segment_size));
        }
        self.wait(&names, &|| CommandStep::CheckingArchiving { segment: before })?;
        self.warn_of_failing_archiver()
    }

    /// Warns if the server's archiver fails although the agent stores the WAL. The backup is valid, but WAL piles up in
    /// `pg_wal`.
    fn warn_of_failing_archiver(&self) -> Result<()> {
        let Some(connection) = self.archiving else { return Ok(()) };
        if let Some(failing) = archiver::state(connection, self.interruption)?.failing {
            self.monitor.warn(CommandWarning::ArchiverFails { file: &failing });
        }
        Ok(())
    }

    /// Waits for every segment from `start` to `stop`; returns their number.
    ///
    /// # Errors
    /// Those of [`WalWait::before_copy`].
    pub fn after_stop(&self, start: &BackupPoint, stop: &BackupPoint) -> Result<u64> {
        let first = start.lsn.segment(self.segment_size).as_u64();
        // The byte at the stop point itself is not needed: a stop point at the beginning of a segment needs the one
        // before.
        let last_byte = stop.lsn.previous().unwrap_or(stop.lsn);
        let last = last_byte.segment(self.segment_size).as_u64();
        let count = last.saturating_sub(first) + 1;
        for number in first..=last {
            let name = SegmentName::new(start.timeline, SegmentNumber::new(number), self.segment_size)
                .ok_or_else(|| Error::damaged("the backup's WAL ends past the last segment"))?;
            self.wait(&[name], &|| CommandStep::WaitingForWal {
                segment: name,
                number: number - first + 1,
                count,
                is_completed_by_primary: self.archiving.is_none() && number == last,
            })?;
        }
        Ok(count)
    }

    /// Waits for any of these segments; errors name the first.
    fn wait(&self, names: &[SegmentName], step: &dyn Fn() -> CommandStep<'static>) -> Result<()> {
        let Some(&name) = names.first() else { return Ok(()) };
        let keys = names.iter().map(|name| self.repository.layout().segment(*name));
        let keys: Vec<ObjectKey> = keys.collect::<Result<_>>()?;
        let began = Instant::now();
        let (mut told, mut asked) = (None, None);
        loop {
            if self.any_is_there(&keys)? {
                return Ok(());
            }
            let waited = began.elapsed();
            if waited >= self.deadline {
                return Err(self.too_late(name, waited));
            }
            if told.is_none_or(|told: Instant| told.elapsed() >= TELL) {
                self.monitor.step(step());
                told = Some(Instant::now());
            }
            if waited >= ASK_AFTER && asked.is_none_or(|asked: Instant| asked.elapsed() >= ASK) {
                self.check_archived_elsewhere(name, &keys)?;
                asked = Some(Instant::now());
            }
            let look = if waited < LOOK { LOOK_AT_FIRST } else { LOOK };
            self.interruption.sleep(look.min(self.deadline.saturating_sub(waited)))?;
        }
    }

    fn any_is_there(&self, keys: &[ObjectKey]) -> Result<bool> {
        for key in keys {
            if self.repository.store().stat(key)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Fails if the server has archived the segment elsewhere, so that it will never arrive.
    fn check_archived_elsewhere(&self, name: SegmentName, keys: &[ObjectKey]) -> Result<()> {
        let Some(connection) = self.archiving else { return Ok(()) };
        let last = archiver::state(connection, self.interruption)?.last_archived;
        let done = last.is_some_and(|last| last.timeline() == name.timeline() && last >= name);
        // In this order, because a segment is in the repository before the server learns of it.
        if !done || self.any_is_there(keys)? {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "the server has archived WAL segment {name}, but not into \"{}\"",
            self.repository.store().location()
        ))
        .hint(
            "Set its archive_command to 'archive-push %p' with this configuration; pgark check reports more. If it has just \
             been changed, run SELECT pg_switch_wal() and try again.",
        ))
    }

    fn too_late(&self, name: SegmentName, waited: Duration) -> Error {
        let mut message =
            format!("WAL segment {name} did not arrive in the repository within {} s", waited.as_secs());
        // If the server cannot respond now, only the message lacks this detail.
        if let Some(Ok(state)) =
            self.archiving.map(|connection| archiver::state(connection, self.interruption))
            && let Some(failing) = state.failing
        {
            message.push_str(&format!(
                ": the server's archiver fails at {failing} ({} failures so far)",
                state.failed_count
            ));
        }
        Error::unavailable(message).hint(if self.archiving.is_some() {
            "Check the server's log for messages of archive_command, and run pgark check. For a slow archive, raise \
             backup.wal_deadline."
        } else {
            "Run SELECT pg_switch_wal() on the primary to complete the segment; the primary then archives it. If \
             connection.conninfo names the primary and connection.standby the standby, pgark does this itself."
        })
    }
}

/// The segment before the one with the start point, on the timeline to which it belongs on the way there; `None` if the
/// start point lies in the first segment, or is invalid.
fn segment_before(
    start: &BackupPoint,
    history: Option<&TimelineHistory>,
    size: SegmentSize,
) -> Option<SegmentName> {
    let number = start.lsn.segment(size).previous()?;
    // Segment 0 is never written: position 0/0 is invalid, and initdb begins with segment 1.
    if number.as_u64() == 0 {
        return None;
    }
    let timeline = history.map_or(start.timeline, |history| history.timeline_of_segment(number, size));
    SegmentName::new(timeline, number, size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::TimelineId;
    use jiff::Timestamp;

    #[test]
    fn the_segment_before_the_start_may_be_of_an_ancestor() {
        let second = TimelineId::new(2).unwrap();
        let history = TimelineHistory::parse(second, b"1\t0/2000100\tx\n").unwrap();
        let before = |lsn: &str, history: Option<&TimelineHistory>| {
            let timeline = history.map_or(TimelineId::FIRST, TimelineHistory::timeline);
            let point = BackupPoint {
                time: Timestamp::UNIX_EPOCH,
                lsn: lsn.parse().unwrap(),
                timeline,
                snapshot: None,
            };
            segment_before(&point, history, SegmentSize::DEFAULT).map(|name| name.to_string())
        };
        assert_eq!(before("0/1000028", None), None, "a new cluster has no segment before its first");
        assert_eq!(before("0/2000028", None).unwrap(), "000000010000000000000001");
        assert_eq!(before("1/28", None).unwrap(), "0000000100000000000000FF");
        assert_eq!(before("0/2000128", Some(&history)).unwrap(), "000000010000000000000001");
        assert_eq!(before("0/3000028", Some(&history)).unwrap(), "000000020000000000000002");
    }
}
