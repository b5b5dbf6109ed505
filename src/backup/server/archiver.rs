//! The archiver of the server that writes the WAL: its settings and its state.

use crate::error::{Error, Result};
use crate::interruption::Interruption;
use crate::postgres::SegmentName;
use crate::server::Connection;

/// State of the server's archiver.
#[derive(Debug)]
pub struct ArchiverState {
    /// The last archived segment; archiving is in order, so earlier segments are archived too.
    pub last_archived: Option<SegmentName>,
    /// The file whose archiving failed last, if nothing has been archived since.
    pub failing: Option<String>,
    /// Number of failed archiving attempts.
    pub failed_count: u64,
}

/// Checks that the server archives, and writes WAL that recovery can use.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if it does not; those of [`Connection::query`].
pub fn check_settings(connection: &Connection, interruption: &Interruption<'_>) -> Result<()> {
    let sql = "SELECT current_setting('wal_level'), current_setting('archive_mode')";
    let row = connection.query_row("query the archiving settings", sql, interruption)?;
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

/// Queries the state of the archiver.
///
/// # Errors
/// Those of [`Connection::query`].
pub fn state(connection: &Connection, interruption: &Interruption<'_>) -> Result<ArchiverState> {
    let row = connection.query_row(
        "query the state of the archiver",
        "SELECT CASE WHEN last_failed_time >= coalesce(last_archived_time, last_failed_time) THEN last_failed_wal END,\
         failed_count, last_archived_wal FROM pg_stat_archiver",
        interruption,
    )?;
    Ok(ArchiverState {
        failing: row.optional(0).map(str::to_owned),
        failed_count: row.parsed(1)?,
        // History, partial and backup history files say nothing about segments.
        last_archived: row.optional(2).and_then(|name| name.parse().ok()),
    })
}
