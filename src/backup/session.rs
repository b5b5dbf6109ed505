//! The session in which the server knows that a backup is being taken. When it ends, so does the backup.
//!
//! Owns: every SQL statement. Source: PostgreSQL's manual, "Making a Base Backup Using the Low Level API" and "Backup
//! Control Functions".

use crate::config::{Checkpoint, Conninfo};
use crate::data_directory::DataDirectory;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{Lsn, MajorVersion, SegmentName, SegmentSize, SystemIdentifier};
use crate::repository::backup::Label;
use crate::repository::backup::manifest::{BackupPoint, StoredDatabase};
use crate::server::Connection;
use crate::server::Watch;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Settings that end a session which is idle or slow.
const TIMEOUTS: &str = "'statement_timeout', 'lock_timeout', 'transaction_timeout', 'idle_session_timeout', \
     'idle_in_transaction_session_timeout'";

/// Settings that whoever recovers the backup must respect, or will ask for.
const RECORDED_SETTINGS: [&str; 26] = [
    "allow_in_place_tablespaces",
    "archive_mode",
    "cluster_name",
    "config_file",
    "data_checksums",
    "data_directory",
    "data_directory_mode",
    "full_page_writes",
    "hba_file",
    "hot_standby",
    "huge_pages",
    "ident_file",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
    "port",
    "server_encoding",
    "server_version",
    "shared_preload_libraries",
    "timezone",
    "track_commit_timestamp",
    "unix_socket_directories",
    "wal_level",
    "wal_log_hints",
];

/// How far the server's start may be from what `postmaster.pid` says of it, in seconds: the file is written first.
const START_DIFFERENCE_MAX_S: i64 = 60;

/// The session.
pub struct Session {
    connection: Connection,
    version_num: u32,
}

/// What is known of the server when the copy begins.
#[derive(Debug)]
pub struct ServerFacts {
    /// The databases.
    pub databases: Vec<StoredDatabase>,
    /// Names of tablespaces by object identifier.
    pub tablespace_names: BTreeMap<u32, String>,
    /// Settings by name.
    pub settings: BTreeMap<String, String>,
    /// Configuration files that the server has read; `None` when the user may not know.
    pub configuration_files: Option<Vec<PathBuf>>,
}

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

/// What the server returned when the backup ended.
#[derive(Debug)]
pub struct StoppedBackup {
    /// The position after the last WAL that the backup needs.
    pub stop: BackupPoint,
    /// The content of `backup_label`.
    pub label: Vec<u8>,
    /// The content of `tablespace_map`; empty: there are no tablespaces, and no such file.
    pub tablespace_map: Vec<u8>,
}

impl Session {
    /// Connects, and makes sure that nothing but the end of the backup ends the session.
    ///
    /// # Errors
    /// As [`Connection::open`] and [`Connection::query`].
    pub fn open(conninfo: &Conninfo, data_directory: &DataDirectory, watch: &Watch<'_>) -> Result<Session> {
        let connection = Connection::open(conninfo, data_directory, "pgark base-backup")?;
        connection.query(
            "prepare the session",
            &format!(
                "SELECT pg_catalog.set_config('search_path', 'pg_catalog', false);\
                 SELECT set_config('datestyle', 'ISO', false), set_config('timezone', 'UTC', false);\
                 SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ({TIMEOUTS})"
            ),
            watch,
        )?;
        let row = connection.query_row("ask for the version", "SHOW server_version_num", watch)?;
        Ok(Session { version_num: row.parsed(0)?, connection })
    }

    /// `server_version_num`, such as 150014.
    pub fn version_num(&self) -> u32 {
        self.version_num
    }

    /// Makes sure that this server runs in the data directory, and that a backup of it is worth something.
    ///
    /// # Errors
    /// [`ErrorKind::Foreign`] when it is another server; [`ErrorKind::Usage`] when it does not archive, is a standby, or
    /// has a version that pgark does not know.
    pub fn check(
        &self,
        data_directory: &DataDirectory,
        system: SystemIdentifier,
        version: MajorVersion,
        watch: &Watch<'_>,
    ) -> Result<()> {
        let row = self.connection.query_row(
            "ask the server what it is",
            "SELECT (SELECT system_identifier FROM pg_control_system()), pg_is_in_recovery(),\
             current_setting('wal_level'), current_setting('archive_mode'),\
             (SELECT setting FROM pg_settings WHERE name = 'data_directory'),\
             extract(epoch FROM pg_postmaster_start_time())::bigint, current_setting('port')",
            watch,
        )?;
        let foreign = |why: String| {
            Err(Error::new(ErrorKind::Foreign, why)
                .hint("Compare data_directory and connection.conninfo in the configuration."))
        };
        let found: SystemIdentifier = row.parsed(0)?;
        if found != system || self.version_num / 10_000 != version.as_u32() {
            return foreign(format!(
                "the server that answers has system identifier {found} and version {}, but \"{}\" belongs to {system} \
                 of version {version}",
                self.version_num / 10_000,
                data_directory.path().display()
            ));
        }
        let same = match row.optional(4) {
            Some(path) => data_directory.is(path.as_ref()),
            // A user without pg_read_all_settings. Copies of a cluster share its identifier, but not port and start.
            None => started_here(data_directory, row.parsed(5)?, row.text(6)?),
        };
        if !same {
            return foreign(format!(
                "the server that answers does not run in \"{}\"{}",
                data_directory.path().display(),
                row.optional(4).map(|path| format!(", but in \"{path}\"")).unwrap_or_default()
            ));
        }
        if row.is_true(1) {
            return Err(Error::usage("the server is a standby, from which pgark does not take backups yet")
                .hint("Take the backup on the primary."));
        }
        if row.text(2)? == "minimal" {
            return Err(Error::usage(
                "the server runs with wal_level = minimal, which is not enough to recover from",
            )
            .hint("Set wal_level = replica, and restart the server."));
        }
        if row.text(3)? == "off" {
            return Err(Error::usage(
                "the server does not archive its WAL, and a backup is worth nothing without it",
            )
            .hint("Set archive_mode = on and archive_command = 'archive-push %p', and restart the server."));
        }
        Ok(())
    }

    /// Begins the backup; returns its start point. May take as long as a checkpoint does.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when the user may not.
    pub fn start(&self, label: &Label, checkpoint: Checkpoint, watch: &Watch<'_>) -> Result<BackupPoint> {
        let fast = checkpoint == Checkpoint::Fast;
        // Labels need no quoting.
        let call = if self.version_num >= 150_000 {
            format!("pg_backup_start('{label}', {fast})")
        } else {
            format!("pg_start_backup('{label}', {fast}, false)")
        };
        let started = self.connection.query_row("start a backup", &format!("SELECT {call}"), watch);
        let lsn: Lsn = started.map_err(may_not)?.parsed(0)?;
        self.point(lsn, watch)
    }

    /// Ends the backup.
    ///
    /// # Errors
    /// As [`Connection::query`]; the server refuses when it was promoted meanwhile.
    pub fn stop(&self, watch: &Watch<'_>) -> Result<StoppedBackup> {
        // The WAL is waited for in the repository itself, which the server knows nothing of.
        let call = if self.version_num >= 150_000 {
            "pg_backup_stop(wait_for_archive => false)"
        } else {
            "pg_stop_backup(exclusive => false, wait_for_archive => false)"
        };
        let sql = format!("SELECT lsn, labelfile, spcmapfile FROM {call}");
        let row = self.connection.query_row("stop the backup", &sql, watch).map_err(may_not)?;
        Ok(StoppedBackup {
            stop: self.point(row.parsed(0)?, watch)?,
            label: row.text(1)?.as_bytes().to_vec(),
            tablespace_map: row.optional(2).unwrap_or_default().as_bytes().to_vec(),
        })
    }

    /// Whether the session lives; returns the end of the WAL that the server has inserted.
    ///
    /// # Errors
    /// As [`Connection::query`]: the server was restarted or crashed, and with it the backup ended.
    pub fn ping(&self, watch: &Watch<'_>) -> Result<Lsn> {
        let sql = "SELECT pg_current_wal_insert_lsn()";
        let row = self.connection.query_row("reach the server during the backup", sql, watch)?;
        row.parsed(0)
    }

    /// What is worth recording of the server.
    ///
    /// # Errors
    /// As [`Connection::query`].
    pub fn facts(&self, watch: &Watch<'_>) -> Result<ServerFacts> {
        let mut databases = Vec::new();
        let sql = "SELECT oid, datname, dattablespace, xmin FROM pg_database ORDER BY oid";
        for row in self.connection.query("list the databases", sql, watch)? {
            databases.push(StoredDatabase {
                oid: row.parsed(0)?,
                name: row.text(1)?.to_owned(),
                tablespace: row.parsed(2)?,
                xmin: row.parsed(3)?,
            });
        }
        let mut tablespace_names = BTreeMap::new();
        let sql = "SELECT oid, spcname FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')";
        for row in self.connection.query("list the tablespaces", sql, watch)? {
            tablespace_names.insert(row.parsed(0)?, row.text(1)?.to_owned());
        }
        let mut settings = BTreeMap::new();
        let names = RECORDED_SETTINGS.map(|name| format!("'{name}'")).join(", ");
        // pg_settings leaves out what the user may not see.
        let sql = format!(
            "SELECT lower(name), current_setting(name) FROM pg_settings WHERE lower(name) IN ({names})"
        );
        for row in self.connection.query("read the settings", &sql, watch)? {
            settings.insert(row.text(0)?.to_owned(), row.text(1)?.to_owned());
        }
        let configuration_files = match settings.contains_key("config_file") {
            true => Some(self.configuration_files(watch)?),
            false => None,
        };
        Ok(ServerFacts { databases, tablespace_names, settings, configuration_files })
    }

    /// How the archiver does.
    ///
    /// # Errors
    /// As [`Connection::query`].
    pub fn archiver(&self, watch: &Watch<'_>) -> Result<ArchiverState> {
        let row = self.connection.query_row(
            "ask for the state of the archiver",
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

    /// The name of the segment that the server writes this position to.
    ///
    /// # Errors
    /// As [`Connection::query`].
    fn segment_of(&self, lsn: Lsn, watch: &Watch<'_>) -> Result<SegmentName> {
        let row = self.connection.query_row(
            "ask for the timeline",
            &format!("SELECT pg_walfile_name('{lsn}')"),
            watch,
        )?;
        row.parsed(0)
    }

    /// This position, with the time and the snapshot of now.
    fn point(&self, lsn: Lsn, watch: &Watch<'_>) -> Result<BackupPoint> {
        let row = self.connection.query_row(
            "ask for the time",
            "SELECT to_char(clock_timestamp(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), pg_current_snapshot()",
            watch,
        )?;
        Ok(BackupPoint {
            time: row.parsed::<Timestamp>(0)?,
            lsn,
            timeline: self.segment_of(lsn, watch)?.timeline(),
            snapshot: Some(row.text(1)?.to_owned()),
        })
    }

    fn configuration_files(&self, watch: &Watch<'_>) -> Result<Vec<PathBuf>> {
        let sql = "SELECT DISTINCT path FROM (\
             SELECT setting FROM pg_settings WHERE name IN ('config_file', 'hba_file', 'ident_file')\
             UNION SELECT sourcefile FROM pg_settings WHERE sourcefile IS NOT NULL) AS files(path) \
             WHERE path <> '' ORDER BY path";
        let rows = self.connection.query("ask for the configuration files", sql, watch)?;
        rows.iter().map(|row| Ok(PathBuf::from(row.text(0)?))).collect()
    }
}

/// Whether `postmaster.pid` in the data directory speaks of the server that answers.
///
/// Source: PostgreSQL `utils/pidfile.h`: the third line is the start in seconds since 1970, the fourth the port.
fn started_here(data_directory: &DataDirectory, started_unix_s: i64, port: &str) -> bool {
    let Ok(text) = fs::read_to_string(data_directory.path().join("postmaster.pid")) else { return false };
    let line = |number| text.lines().nth(number).map(str::trim).unwrap_or_default();
    let started = line(2).parse::<i64>().ok();
    let near = |start: i64| start.abs_diff(started_unix_s) <= START_DIFFERENCE_MAX_S.unsigned_abs();
    line(3) == port && started.is_some_and(near)
}

/// Says how a user comes to be allowed to take backups.
fn may_not(error: Error) -> Error {
    if error.kind() != ErrorKind::Usage {
        return error;
    }
    error.hint(
        "Connect as a superuser, or: GRANT EXECUTE ON FUNCTION pg_backup_start, pg_backup_stop TO <user>; \
         (before version 15: pg_start_backup(text, boolean, boolean), pg_stop_backup(boolean, boolean))",
    )
}

/// The segment before the one that a backup starts in; `None` when that is the very first one, or the position is
/// nonsense.
pub fn segment_before(start: &BackupPoint, size: SegmentSize) -> Option<SegmentName> {
    let number = start.lsn.segment(size).as_u64().checked_sub(1)?;
    // Segment 0 is never written: position 0/0 is invalid, and initdb begins with segment 1.
    if number == 0 {
        return None;
    }
    SegmentName::new(start.timeline, crate::postgres::SegmentNumber::new(number), size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::TimelineId;

    #[test]
    fn a_new_cluster_has_no_segment_before_its_first() {
        let before = |lsn: &str| {
            let point = BackupPoint {
                time: Timestamp::UNIX_EPOCH,
                lsn: lsn.parse().unwrap(),
                timeline: TimelineId::FIRST,
                snapshot: None,
            };
            segment_before(&point, SegmentSize::DEFAULT).map(|name| name.to_string())
        };
        assert_eq!(before("0/1000028"), None);
        assert_eq!(before("0/2000028").unwrap(), "000000010000000000000001");
        assert_eq!(before("1/28").unwrap(), "0000000100000000000000FF");
    }
}
