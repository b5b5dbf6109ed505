//! Rows of the server's WAL summaries.

use crate::postgres::{BlockNumber, Lsn, RelFileLocator, TimelineId};

/// A stretch of WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SummaryRange {
    /// Its timeline.
    pub timeline: TimelineId,
    /// Its first position.
    pub start: Lsn,
    /// The position after it.
    pub end: Lsn,
}

/// A row of `pg_wal_summary_contents`, of a main fork.
#[derive(Clone, Copy, Debug)]
pub struct SummaryRow {
    /// The relation; [`RelFileNumber::WHOLE_DATABASE`](crate::postgres::RelFileNumber::WHOLE_DATABASE) denotes the
    /// creation of its database.
    pub relation: RelFileLocator,
    /// The changed block, or the first block removed when the relation was truncated.
    pub block: BlockNumber,
    /// Whether `block` is the limit of a truncation.
    pub is_limit: bool,
}
