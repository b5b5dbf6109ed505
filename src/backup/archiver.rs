//! The archiver of the server that writes the WAL: whether it is set up, and how it does.

use crate::error::{Error, Result};
use crate::postgres::SegmentName;
use crate::server::{Connection, Watch};

/// How the server's archiver does.
#[derive(Debug)]
pub struct ArchiverState {
    /// The segment that was archived last; it archives in order, so that those before were archived too.
    pub last_archived: Option<SegmentName>,
    /// The file whose archiving failed last, if nothing has been archived since.
    pub failing: Option<String>,
    /// How often archiving has failed.
    pub failed_count: u64,
}

/// That the server writes WAL that can be recovered from, and archives it.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) when it does not, and as [`Connection::query`].
pub fn check_settings(connection: &Connection, watch: &Watch<'_>) -> Result<()> {
    let sql = "SELECT current_setting('wal_level'), current_setting('archive_mode')";
    let row = connection.query_row("query the archiving settings", sql, watch)?;
    if row.text(0)? == "minimal" {
        return Err(Error::usage("the server runs with wal_level = minimal, which does not allow recovery")
            .hint("Set wal_level = replica, and restart the server."));
    }
    if row.text(1)? == "off" {
        return Err(Error::usage("the server does not archive its WAL, which every backup requires")
            .hint("Set archive_mode = on and archive_command = 'archive-push %p', and restart the server."));
    }
    Ok(())
}

/// How the archiver does.
///
/// # Errors
/// As [`Connection::query`].
pub fn state(connection: &Connection, watch: &Watch<'_>) -> Result<ArchiverState> {
    let row = connection.query_row(
        "query the state of the archiver",
        "SELECT CASE WHEN last_failed_time >= coalesce(last_archived_time, last_failed_time) THEN last_failed_wal END,\
         failed_count, last_archived_wal FROM pg_stat_archiver",
        watch,
    )?;
    Ok(ArchiverState {
        failing: row.optional(0).map(str::to_owned),
        failed_count: row.parsed(1)?,
        // History, partial and backup history files tell nothing of segments.
        last_archived: row.optional(2).and_then(|name| name.parse().ok()),
    })
}
