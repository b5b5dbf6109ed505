//! Rows of the server's WAL summaries.

use crate::postgres::{Lsn, TimelineId};

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

/// A relation's files in one tablespace: tablespace, database, number.
pub type Place = (u32, u32, u32);

/// A row of `pg_wal_summary_contents`, of a main fork.
#[derive(Clone, Copy, Debug)]
pub struct SummaryRow {
    /// Tablespace, database and number of the relation; number 0 denotes the creation of the database.
    pub place: Place,
    /// The changed page, or the length in pages to which the relation was truncated.
    pub page: u64,
    /// Whether `page` is a length.
    pub is_limit: bool,
}
