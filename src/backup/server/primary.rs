//! The primary of a standby that is backed up: it writes and archives the WAL that the backup needs.

use super::session::Session;
use super::{APPLICATION_NAME, archiver};
use crate::config::Conninfo;
use crate::error::{Error, ErrorKind, Result};
use crate::interruption::Interruption;
use crate::postgres::backup::label::BackupSource;
use crate::postgres::{Lsn, SegmentSize, SystemIdentifier};
use crate::server::Connection;

/// A connection to the primary.
pub struct Primary {
    connection: Connection,
}

impl Primary {
    /// Checks that this is the standby's primary, and that it archives.
    ///
    /// # Errors
    /// [`ErrorKind::Foreign`] if it belongs to another system. [`ErrorKind::Usage`] if it is a standby itself, does not
    /// archive, or has `full_page_writes` off: unlike a backup of the primary, a backup of a standby cannot force
    /// full-page writes.
    pub fn begin(
        connection: Connection,
        system: SystemIdentifier,
        interruption: &Interruption<'_>,
    ) -> Result<Primary> {
        let sql = "SELECT (SELECT system_identifier FROM pg_control_system()), pg_is_in_recovery(), \
                   current_setting('full_page_writes')";
        let row = connection.query_row("identify the primary", sql, interruption)?;
        let found: SystemIdentifier = row.parsed(0)?;
        if found != system {
            return Err(Error::new(
                ErrorKind::Foreign,
                format!("the server of connection.conninfo has system identifier {found}, but the standby has {system}"),
            )
            .hint("Set connection.conninfo to the primary of the server in connection.standby."));
        }
        if row.is_true(1) {
            return Err(Error::usage("the server of connection.conninfo is also a standby").hint(
                "Set it to the primary, or remove it: the backup then waits until the primary archives its WAL.",
            ));
        }
        if row.text(2)? != "on" {
            return Err(Error::usage("the primary runs with full_page_writes = off")
                .hint("Set full_page_writes = on at the primary while its standby is backed up."));
        }
        archiver::check_settings(&connection, interruption)?;
        Ok(Primary { connection })
    }

    /// The connection, for queries from other modules.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Makes the primary complete the segment that holds the byte before `end`, unless it is already
    /// complete.
    ///
    /// # Errors
    /// Those of [`Connection::query`]; [`ErrorKind::Usage`] if the user lacks the permission.
    pub fn complete_segment(
        &self,
        end: Lsn,
        size: SegmentSize,
        interruption: &Interruption<'_>,
    ) -> Result<()> {
        let what = "query the primary's WAL position";
        let row = self.connection.query_row(what, "SELECT pg_current_wal_lsn()", interruption)?;
        let current: Lsn = row.parsed(0)?;
        let last_byte = end.previous().unwrap_or(end);
        if current.segment(size) > last_byte.segment(size) {
            return Ok(());
        }
        let switch = "SELECT pg_switch_wal()";
        self.connection.query_row("switch the primary to a new WAL segment", switch, interruption).map(drop)
    }
}

/// Connects to the primary if the server is a standby and its primary is configured.
///
/// # Errors
/// Those of [`Connection::open_remote`] and [`Primary::begin`].
pub fn primary_of(
    conninfo: Option<&Conninfo>,
    session: &Session,
    system: SystemIdentifier,
    interruption: &Interruption<'_>,
) -> Result<Option<Primary>> {
    match (session.source(), conninfo) {
        (BackupSource::Standby, Some(conninfo)) => {
            let connection = Connection::open_remote(conninfo, APPLICATION_NAME)?;
            Primary::begin(connection, system, interruption).map(Some)
        }
        // Promoted since the configuration was written: it is its own primary.
        _ => Ok(None),
    }
}

/// The connection to the server that archives the WAL of the backup, if there is one.
pub fn archiving_server<'a>(session: &'a Session, primary: Option<&'a Primary>) -> Option<&'a Connection> {
    match session.source() {
        BackupSource::Primary => Some(session.connection()),
        BackupSource::Standby => primary.map(Primary::connection),
    }
}
