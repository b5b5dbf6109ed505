//! What the archived WAL proves about a recovery target: that the server will reach it, and where.
//!
//! Owns: which records are read as evidence. Reads one segment at a time and keeps only the matching record.
//! Source of the rules: PostgreSQL `access/transam/xlogrecovery.c`, `recoveryStopsBefore` and
//! `recoveryStopsAfter`.

use super::replay_survey::ReplaySurvey;
use crate::error::Result;
use crate::postgres::{Lsn, PgTimestamp, SegmentNumber, TargetBound};
use crate::repository::wal::{Archive, PathRun, PathWal, TransactionEnd, WalEvent, WalMark};
use std::ops::ControlFlow;

/// Where the readable WAL ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadableWalEnd {
    /// The last transaction that ended after the backup's stop point, if there is one.
    pub last_transaction: Option<TransactionEnd>,
    /// The start of the last complete record: the last position that a target can name.
    pub last_record: Option<Lsn>,
    /// The position after that record.
    pub end: Option<Lsn>,
}

impl ReadableWalEnd {
    /// The end that a forward read reached.
    pub fn of(survey: &ReplaySurvey) -> ReadableWalEnd {
        ReadableWalEnd {
            last_transaction: survey.last_transaction,
            last_record: survey.last_record,
            end: survey.end,
        }
    }
}

/// Where a server stops when it recovers to a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeEvidence {
    /// The last recovered transaction that ended after the backup's stop point, if there is one.
    pub last: Option<TransactionEnd>,
    /// The first transaction that is not recovered. Without it the server could not recognize that it has
    /// reached the time.
    pub beyond: Option<TransactionEnd>,
}

/// Finds the end of the readable WAL and the last transaction in it that ended at or after `floor`.
///
/// Searches backwards from the end, one segment at a time.
///
/// # Errors
/// Those of the archive.
pub fn wal_end(archive: &dyn Archive, wal: &PathWal, floor: Lsn) -> Result<ReadableWalEnd> {
    let mut found = ReadableWalEnd { last_transaction: None, last_record: None, end: None };
    let Some(run) = wal.readable() else { return Ok(found) };
    let first = wal.path().segment_at(floor).max(run.first);
    let mut segment = run.last;
    loop {
        let mut last_record = None;
        let end = archive.visit_records(wal, segment, segment, &mut |mark| {
            last_record = Some(mark.start);
            found.last_transaction =
                mark.transaction_end().filter(|end| end.start >= floor).or(found.last_transaction);
            ControlFlow::Continue(())
        })?;
        if found.end.is_none() {
            (found.end, found.last_record) = (end, last_record);
        }
        if found.last_transaction.is_some() || segment <= first {
            return Ok(found);
        }
        match segment.previous() {
            Some(previous) => segment = previous,
            None => return Ok(found),
        }
    }
}

/// Finds where a recovery to `time` ends, if the WAL at or after `floor` proves it. For WAL that is too long
/// to read in full.
///
/// Commit times increase along the WAL apart from short inversions, so a binary search finds the segment and
/// only the last two are read in full. The result is wrong if a clock was set back.
///
/// # Errors
/// Those of the archive.
pub fn time(
    archive: &dyn Archive,
    wal: &PathWal,
    floor: Lsn,
    time: PgTimestamp,
    bound: TargetBound,
) -> Result<TimeEvidence> {
    let nothing = TimeEvidence { last: None, beyond: None };
    let Some(run) = wal.readable() else { return Ok(nothing) };
    let is_beyond = |end: &TransactionEnd| match bound {
        TargetBound::Inclusive => end.time > time,
        TargetBound::Exclusive => end.time >= time,
    };
    let first = wal.path().segment_at(floor).max(run.first);
    // Invariant: below `low` the first transaction is not beyond the time; from `high` on it is, or there is none.
    let (mut low, mut high) = (first.as_u64(), run.last.as_u64() + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let from = SegmentNumber::new(middle);
        match first_transaction(archive, wal, PathRun { first: from, last: run.last }, floor)? {
            Some(end) if !is_beyond(&end) => low = middle + 1,
            _ => high = middle,
        }
    }
    let from = SegmentNumber::new(low.saturating_sub(1)).max(first);
    let mut found = nothing;
    archive.visit_records(wal, from, run.last, &mut |mark| {
        match mark.transaction_end().filter(|end| end.start >= floor) {
            Some(end) if is_beyond(&end) => found.beyond = Some(end),
            Some(end) => found.last = Some(end),
            None => {}
        }
        if found.beyond.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(found)
}

/// The first transaction in these segments that ends at or after `floor`.
fn first_transaction(
    archive: &dyn Archive,
    wal: &PathWal,
    segments: PathRun,
    floor: Lsn,
) -> Result<Option<TransactionEnd>> {
    let mut found = None;
    archive.visit_records(wal, segments.first, segments.last, &mut |mark| {
        found = mark.transaction_end().filter(|end| end.start >= floor);
        if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(found)
}

/// The first record that begins at or after `position`: where a recovery to that position ends.
///
/// # Errors
/// Those of the archive.
pub fn record_from(archive: &dyn Archive, wal: &PathWal, position: Lsn) -> Result<Option<WalMark>> {
    first_record(archive, wal, position, wal.readable().map(|run| run.last), &mut |_| true)
}

/// The first record at or after `from`, in segments up to `last`, that `wanted` accepts.
///
/// # Errors
/// Those of the archive.
pub fn first_record(
    archive: &dyn Archive,
    wal: &PathWal,
    from: Lsn,
    last: Option<SegmentNumber>,
    wanted: &mut dyn FnMut(&WalEvent) -> bool,
) -> Result<Option<WalMark>> {
    let Some(run) = wal.readable() else { return Ok(None) };
    let mut found = None;
    let first = wal.path().segment_at(from);
    archive.visit_records(wal, first, last.map_or(run.last, |last| last.min(run.last)), &mut |mark| {
        if mark.start >= from && wanted(&mark.event) {
            found = Some(mark.clone());
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}
