//! What the server says of its WAL summaries.

use crate::postgres::{Lsn, TimelineId};

/// A stretch of WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Its timeline.
    pub timeline: TimelineId,
    /// Its first position.
    pub start: Lsn,
    /// The position after it.
    pub end: Lsn,
}

/// A relation's files in one tablespace: tablespace, database, number.
pub type Place = (u32, u32, u32);

/// A row of `pg_wal_summary_contents`, of a main fork.
#[derive(Clone, Copy, Debug)]
pub struct SummaryRow {
    /// Tablespace, database and number of the relation; number 0: the database was made.
    pub place: Place,
    /// The changed page, or the length to which the relation was truncated.
    pub page: u64,
    /// Which of the two.
    pub is_limit: bool,
}
