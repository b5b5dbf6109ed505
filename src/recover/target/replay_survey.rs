//! Reads the WAL from a backup to a target forward, in the order in which the server will replay it.
//!
//! Commit times do not strictly increase along the WAL: they vary by milliseconds, and by hours if a clock
//! was set back. Only a forward read shows where a server stops that searches for a time, and finds the
//! records that prevent a server from continuing.

use crate::error::{Error, Result};
use crate::postgres::cluster::control_file::ServerLimits;
use crate::postgres::{Lsn, SegmentNumber};
use crate::repository::wal::{Archive, PathWal, TransactionEnd, WalEvent, WalMark};
use std::ops::ControlFlow;

/// Upper limit for the number of new tablespaces listed.
const TABLESPACES_MAX: usize = 100;

/// How many segments are read between two checks of the limit; a record that continues beyond them is read
/// twice.
const SEGMENTS_AT_A_TIME: u64 = 64;

/// Result of reading the WAL between a backup and a target.
#[derive(Debug)]
pub struct ReplaySurvey {
    /// Why reading stopped.
    pub ended: SurveyEnd,
    /// The last transaction at or after the floor that ended before that point.
    pub last_transaction: Option<TransactionEnd>,
    /// The start of the last complete record before that point.
    pub last_record: Option<Lsn>,
    /// The position after that record.
    pub end: Option<Lsn>,
    /// The highest values of the limited server settings along the way, if they changed.
    pub limits: Option<ServerLimits>,
    /// The directories of tablespaces created along the way; the server creates them in the same places.
    pub new_tablespaces: Vec<String>,
    /// Whether an in-place tablespace was created along the way.
    pub new_in_place: bool,
    /// The damage at the point where reading stopped, if any.
    pub damage: Option<Error>,
    /// The state at the start of the segment that holds the last record.
    before_segment: Option<Seen>,
}

/// The records read so far that determine where recovery can end.
#[derive(Clone, Copy, Debug)]
struct Seen {
    segment: SegmentNumber,
    last_transaction: Option<TransactionEnd>,
    last_record: Option<Lsn>,
    end: Option<Lsn>,
}

/// Why reading stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SurveyEnd {
    /// At the wanted record.
    Found(WalMark),
    /// At the end of the readable WAL.
    ReadableWalEnd,
    /// At a record after which WAL was written with `wal_level = minimal`; the server stops there with an
    /// error.
    Minimal(Lsn),
    /// At the limit.
    Limit,
}

/// Reads forward from `from` to the first record that is `wanted`; transactions before `floor` do not count
/// as recovered.
///
/// Reads at most `limit_bytes` of stored WAL, plus the rest of the last portion.
///
/// # Errors
/// Those of the archive.
pub fn survey(
    archive: &dyn Archive,
    wal: &PathWal,
    from: Lsn,
    floor: Lsn,
    limit_bytes: u64,
    wanted: &mut dyn FnMut(&WalMark) -> bool,
) -> Result<ReplaySurvey> {
    let mut survey = ReplaySurvey {
        ended: SurveyEnd::ReadableWalEnd,
        last_transaction: None,
        last_record: None,
        end: None,
        limits: None,
        new_tablespaces: Vec::new(),
        new_in_place: false,
        damage: None,
        before_segment: None,
    };
    let Some(run) = wal.readable() else { return Ok(survey) };
    let read_before = archive.read_bytes();
    let mut first = wal.path().segment_at(from).max(run.first);
    while first <= run.last {
        if archive.read_bytes().saturating_sub(read_before) >= limit_bytes {
            survey.ended = SurveyEnd::Limit;
            return Ok(survey);
        }
        let last = SegmentNumber::new(first.as_u64().saturating_add(SEGMENTS_AT_A_TIME - 1)).min(run.last);
        let visited = archive.visit_records(wal, first, last, &mut |mark| {
            if mark.start < from {
                return ControlFlow::Continue(());
            }
            survey.begin_segment(wal.path().segment_at(mark.start));
            survey.take(mark, floor, wanted)
        });
        match visited {
            Err(error) if !error.kind().is_transient() => {
                survey.forget_segment();
                survey.damage = Some(error);
                return Ok(survey);
            }
            visited => visited?,
        };
        if survey.ended != SurveyEnd::ReadableWalEnd {
            return Ok(survey);
        }
        first = last.next();
    }
    Ok(survey)
}

impl ReplaySurvey {
    fn begin_segment(&mut self, segment: SegmentNumber) {
        if self.before_segment.is_none_or(|seen| seen.segment != segment) {
            let (last_transaction, last_record, end) = (self.last_transaction, self.last_record, self.end);
            self.before_segment = Some(Seen { segment, last_transaction, last_record, end });
        }
    }

    /// Discards what was read of a segment that proves to be damaged at its end: it is not served and cannot
    /// be recovered.
    fn forget_segment(&mut self) {
        if let Some(seen) = self.before_segment {
            self.last_transaction = seen.last_transaction;
            (self.last_record, self.end) = (seen.last_record, seen.end);
        }
    }

    fn take(
        &mut self,
        mark: &WalMark,
        floor: Lsn,
        wanted: &mut dyn FnMut(&WalMark) -> bool,
    ) -> ControlFlow<()> {
        if let WalEvent::ParameterChange { limits, is_minimal } = mark.event {
            if is_minimal {
                self.ended = SurveyEnd::Minimal(mark.start);
                return ControlFlow::Break(());
            }
            self.limits = Some(self.limits.map_or(limits, |known| known.max(limits)));
        }
        if let WalEvent::NewTablespace(path) = &mark.event {
            self.new_in_place |= path.is_empty();
            if !path.is_empty() && self.new_tablespaces.len() < TABLESPACES_MAX {
                self.new_tablespaces.push(path.clone());
            }
        }
        if wanted(mark) {
            self.ended = SurveyEnd::Found(mark.clone());
            return ControlFlow::Break(());
        }
        self.last_transaction =
            mark.transaction_end().filter(|end| end.start >= floor).or(self.last_transaction);
        (self.last_record, self.end) = (Some(mark.start), Some(mark.end));
        ControlFlow::Continue(())
    }
}
