//! The server session of a running backup. The backup ends with the session.
//!
//! Owns: every SQL statement. Source: PostgreSQL's manual, "Making a Base Backup Using the Low Level API" and
//! "Backup Control Functions".

use super::archiver;
use super::summary_row::{SummaryRange, SummaryRow};
use crate::config::Checkpoint;
use crate::data_directory::DataDirectory;
use crate::error::{Error, ErrorKind, Result};
use crate::interruption::Interruption;
use crate::postgres::backup::label::BackupSource;
use crate::postgres::version::facts::VersionFacts;
use crate::postgres::{
    ControlFile, DatabaseDirectory, Lsn, MajorVersion, Oid, RelFileLocator, SegmentName, ServerVersion,
    SystemIdentifier, TimelineId, Xid,
};
use crate::repository::backup::Label;
use crate::repository::backup::manifest::{BackupPoint, RecordedCollation, StoredCollations, StoredDatabase};
use crate::server::Connection;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Settings that end an idle or slow session.
const TIMEOUTS: &str = "'statement_timeout', 'lock_timeout', 'transaction_timeout', 'idle_session_timeout', \
     'idle_in_transaction_session_timeout'";

/// Settings that a recovery must respect, or that an operator will need to know.
const RECORDED_SETTINGS: [&str; 27] = [
    "allow_in_place_tablespaces",
    "archive_mode",
    "cluster_name",
    "config_file",
    "data_checksums",
    "data_directory",
    "data_directory_mode",
    "full_page_writes",
    "hba_file",
    "hosts_file",
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

/// Upper limit for the number of collation versions recorded: usually one for each library.
const RECORDED_COLLATIONS_MAX: usize = 100;

/// Permitted difference between the start times in `postmaster.pid` and of the server, in seconds; the file is written
/// first.
const START_DIFFERENCE_MAX_S: i64 = 60;

/// The session.
pub struct Session {
    connection: Connection,
    version_num: u32,
    version: MajorVersion,
    assumed_version: Option<MajorVersion>,
    source: BackupSource,
}

/// The facts about the server that a backup records when the copy begins.
#[derive(Debug)]
pub struct ServerFacts {
    /// The databases.
    pub databases: Vec<StoredDatabase>,
    /// Names of tablespaces by object identifier.
    pub tablespace_names: BTreeMap<Oid, String>,
    /// The collation versions that the server reports.
    pub collations: StoredCollations,
    /// Settings by name.
    pub settings: BTreeMap<String, String>,
    /// Configuration files that the server has read; `None` if the user may not see them.
    pub configuration_files: Option<Vec<PathBuf>>,
}

/// The server's response to the end of the backup.
#[derive(Debug)]
pub struct StoppedBackup {
    /// The position after the last WAL that the backup needs.
    pub stop: BackupPoint,
    /// The content of `backup_label`.
    pub label: Vec<u8>,
    /// The content of `tablespace_map`; empty if there are no tablespaces, and then the file does not exist.
    pub tablespace_map: Vec<u8>,
}

impl Session {
    /// Prepares the session so that no timeout ends it before the backup does. Treats an unknown server version as
    /// `assumed_version`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an unknown version if none is assumed; those of [`Connection::query`].
    pub fn begin(
        connection: Connection,
        assumed_version: Option<MajorVersion>,
        interruption: &Interruption<'_>,
    ) -> Result<Session> {
        connection.query(
            "prepare the session",
            &format!(
                "SELECT pg_catalog.set_config('search_path', 'pg_catalog', false);\
                 SELECT set_config('datestyle', 'ISO', false), set_config('timezone', 'UTC', false);\
                 SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ({TIMEOUTS})"
            ),
            interruption,
        )?;
        let sql = "SELECT current_setting('server_version_num'), pg_is_in_recovery()";
        let row = connection.query_row("query the server's version", sql, interruption)?;
        let version_num = row.parsed(0)?;
        let version = MajorVersion::of_server(version_num, assumed_version)?;
        let source = if row.is_true(1) { BackupSource::Standby } else { BackupSource::Primary };
        Ok(Session { version_num, version, assumed_version, source, connection })
    }

    /// The server's major version, or the assumed one if it is unknown.
    pub fn version(&self) -> MajorVersion {
        self.version
    }

    /// The server's version with its catalog version.
    ///
    /// # Errors
    /// Those of [`ServerVersion::of`].
    pub fn server_version(&self, catalog_version: u32) -> Result<ServerVersion> {
        ServerVersion::of(self.version_num, catalog_version, self.assumed_version)
    }

    /// The connection, for queries from other modules.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whether the server was a primary or a standby when the session began.
    pub fn source(&self) -> BackupSource {
        self.source
    }

    /// `server_version_num`, such as 150014.
    pub fn version_num(&self) -> u32 {
        self.version_num
    }

    /// Checks that this server runs in the data directory, and that a backup of it can be recovered.
    ///
    /// # Errors
    /// [`ErrorKind::Foreign`] if it is another server; [`ErrorKind::Usage`] if it does not archive.
    pub fn check(
        &self,
        data_directory: &DataDirectory,
        system: SystemIdentifier,
        version: MajorVersion,
        interruption: &Interruption<'_>,
    ) -> Result<()> {
        let row = self.connection.query_row(
            "identify the server",
            "SELECT (SELECT system_identifier FROM pg_control_system()),\
             (SELECT setting FROM pg_settings WHERE name = 'data_directory'),\
             extract(epoch FROM pg_postmaster_start_time())::bigint, current_setting('port')",
            interruption,
        )?;
        let foreign = |why: String| {
            Err(Error::new(ErrorKind::Foreign, why)
                .hint("Check that data_directory and connection.conninfo in the configuration belong to the same server."))
        };
        let found: SystemIdentifier = row.parsed(0)?;
        if found != system || self.version != version {
            return foreign(format!(
                "the connected server has system identifier {found} and version {}, but \"{}\" belongs to {system} of version \
                 {version}",
                self.version,
                data_directory.path().display()
            ));
        }
        let same = match row.optional(1) {
            Some(path) => data_directory.is(path.as_ref()),
            // The user lacks pg_read_all_settings. Copies of a cluster share its identifier, but not its port and start
            // time.
            None => started_here(data_directory, row.parsed(2)?, row.text(3)?),
        };
        if !same {
            return foreign(format!(
                "the connected server does not run in \"{}\"{}",
                data_directory.path().display(),
                row.optional(1).map(|path| format!(", but in \"{path}\"")).unwrap_or_default()
            ));
        }
        match self.source {
            BackupSource::Primary => archiver::check_settings(&self.connection, interruption),
            // Its own settings do not describe the WAL that it replays.
            BackupSource::Standby => Ok(()),
        }
    }

    /// Starts the backup and returns its start point. May take as long as a checkpoint.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if the user lacks the permission.
    pub fn start(
        &self,
        label: &Label,
        checkpoint: Checkpoint,
        interruption: &Interruption<'_>,
    ) -> Result<BackupPoint> {
        let fast = checkpoint == Checkpoint::Fast;
        // Labels need no quoting.
        let VersionFacts { start_backup, backup_options, .. } = self.version.facts();
        let call = format!("{start_backup}(label => '{label}', fast => {fast}{backup_options})");
        let started = self.connection.query_row("start a backup", &format!("SELECT {call}"), interruption);
        let lsn: Lsn = started.map_err(may_not)?.parsed(0)?;
        let timeline = match self.source {
            BackupSource::Primary => self.timeline_of(lsn, interruption)?,
            // A backup of a standby starts at its last restartpoint. If a newer one has completed by now,
            // `backup_label` shows it.
            BackupSource::Standby => {
                let sql = "SELECT timeline_id FROM pg_control_checkpoint()";
                self.connection.query_row("query the timeline", sql, interruption)?.parsed(0)?
            }
        };
        self.point(lsn, timeline, interruption)
    }

    /// Stops the backup that began at `start`; `control` is its copy of `pg_control`.
    ///
    /// # Errors
    /// Those of [`Session::stop_point`]; the server reports an error if it was promoted meanwhile.
    pub fn stop(
        &self,
        start: &BackupPoint,
        control: &ControlFile,
        interruption: &Interruption<'_>,
    ) -> Result<StoppedBackup> {
        // The server does not wait for archiving, because pgark waits for the WAL in the repository.
        let VersionFacts { stop_backup, backup_options, .. } = self.version.facts();
        let sql = format!(
            "SELECT lsn, labelfile, spcmapfile FROM {stop_backup}(wait_for_archive => false{backup_options})"
        );
        let row = self.connection.query_row("stop the backup", &sql, interruption).map_err(may_not)?;
        Ok(StoppedBackup {
            stop: self.stop_point(row.parsed(0)?, start, control, interruption)?,
            label: row.text(1)?.as_bytes().to_vec(),
            tablespace_map: row.optional(2).unwrap_or_default().as_bytes().to_vec(),
        })
    }

    /// The point at which the backup that began at `start` is consistent; `lsn` is the end reported by the server.
    ///
    /// The copy of a standby is consistent at the minimum recovery point in its `pg_control`, which was read last. The
    /// server reports a later position, which is not needed.
    ///
    /// Source: PostgreSQL `access/transam/xlogrecovery.c`, `InitWalRecovery` and `CheckRecoveryConsistency`.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if `control` is no longer that of a standby, or is older than the start point:
    /// recovery would then declare the copy consistent too early. Those of [`Connection::query`].
    pub fn stop_point(
        &self,
        lsn: Lsn,
        start: &BackupPoint,
        control: &ControlFile,
        interruption: &Interruption<'_>,
    ) -> Result<BackupPoint> {
        match (self.source, control.min_recovery_point, control.min_recovery_timeline) {
            (BackupSource::Primary, _, _) => self.point(lsn, self.timeline_of(lsn, interruption)?, interruption),
            (BackupSource::Standby, Some(consistent), Some(_)) if consistent <= start.lsn => {
                Err(Error::unavailable(format!(
                    "the copy of the standby's pg_control is consistent at {consistent}, but the backup begins only at {}",
                    start.lsn
                ))
                .hint("The copy is older than the standby's last restartpoint. Take the backup again."))
            }
            (BackupSource::Standby, Some(consistent), Some(timeline)) if consistent <= lsn => {
                self.point(consistent, timeline, interruption)
            }
            (BackupSource::Standby, ..) => {
                Err(Error::unavailable("the standby's pg_control is not that of a server in recovery")
                    .hint("It was promoted during the backup. Take the backup again."))
            }
        }
    }

    /// Checks that the session is alive and that the server has not changed its role.
    ///
    /// # Errors
    /// Those of [`Connection::ping`]: a restart, crash or disconnect of the server also ends the backup;
    /// [`ErrorKind::Unavailable`] if a standby was promoted.
    pub fn ping(&self, interruption: &Interruption<'_>) -> Result<()> {
        let sql = "SELECT pg_is_in_recovery()";
        let row = self.connection.ping("reach the server during the backup", sql, interruption)?;
        if self.source == BackupSource::Standby && !row.is_true(0) {
            return Err(Error::unavailable("the standby was promoted during the backup")
                .hint("The server is a primary now. Take the backup again."));
        }
        Ok(())
    }

    /// Queries the facts about the server that a backup records.
    ///
    /// # Errors
    /// Those of [`Connection::query`].
    pub fn facts(&self, interruption: &Interruption<'_>) -> Result<ServerFacts> {
        let mut databases = Vec::new();
        let sql = "SELECT oid, datname, dattablespace, xmin FROM pg_database ORDER BY oid";
        for row in self.connection.query("list the databases", sql, interruption)? {
            databases.push(StoredDatabase {
                oid: row.parsed(0)?,
                name: row.text(1)?.to_owned(),
                tablespace: row.parsed(2)?,
                xmin: Xid::new(row.parsed(3)?),
            });
        }
        let mut tablespace_names = BTreeMap::new();
        let sql = "SELECT oid, spcname FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')";
        for row in self.connection.query("list the tablespaces", sql, interruption)? {
            tablespace_names.insert(row.parsed(0)?, row.text(1)?.to_owned());
        }
        let collations = self.collations(interruption)?;
        let mut settings = BTreeMap::new();
        let names = RECORDED_SETTINGS.map(|name| format!("'{name}'")).join(", ");
        // pg_settings omits settings that the user may not read.
        let sql = format!(
            "SELECT lower(name), current_setting(name) FROM pg_settings WHERE lower(name) IN ({names})"
        );
        for row in self.connection.query("read the settings", &sql, interruption)? {
            settings.insert(row.text(0)?.to_owned(), row.text(1)?.to_owned());
        }
        let configuration_files = match settings.contains_key("config_file") {
            true => Some(self.configuration_files(interruption)?),
            false => None,
        };
        Ok(ServerFacts { databases, tablespace_names, collations, settings, configuration_files })
    }

    /// Queries the versions of the collation libraries. The server reports that of the C library only if it has a
    /// versioned libc collation; C and POSIX have no version.
    fn collations(&self, interruption: &Interruption<'_>) -> Result<StoredCollations> {
        let what = "query the collation versions";
        let sql = "SELECT (SELECT version FROM (\
             SELECT pg_collation_actual_version(oid) FROM pg_collation WHERE collprovider = 'c'\
             ) AS libc(version) WHERE version IS NOT NULL LIMIT 1),\
             (SELECT pg_collation_actual_version(oid) FROM pg_collation \
             WHERE collprovider = 'i' AND collname IN ('unicode', 'und-x-icu') LIMIT 1)";
        let row = self.connection.query_row(what, sql, interruption)?;
        let (libc_version, icu_version) =
            (row.optional(0).map(str::to_owned), row.optional(1).map(str::to_owned));
        let mut databases = BTreeMap::new();
        if self.version.facts().has_database_collation_version {
            let sql = "SELECT datname, datcollversion FROM pg_database WHERE datcollversion IS NOT NULL";
            for row in self.connection.query(what, sql, interruption)? {
                databases.insert(row.text(0)?.to_owned(), row.text(1)?.to_owned());
            }
        }
        let sql = format!(
            "SELECT DISTINCT collprovider, collversion FROM pg_collation WHERE collversion IS NOT NULL \
             ORDER BY 1, 2 LIMIT {RECORDED_COLLATIONS_MAX}"
        );
        let rows = self.connection.query(what, &sql, interruption)?;
        let recorded = rows.iter().map(|row| {
            Ok(RecordedCollation { provider: row.text(0)?.to_owned(), version: row.text(1)?.to_owned() })
        });
        Ok(StoredCollations {
            libc_version,
            icu_version,
            databases,
            recorded: recorded.collect::<Result<_>>()?,
        })
    }

    /// Whether the server keeps WAL summaries (version 17 and later).
    ///
    /// # Errors
    /// Those of [`Connection::query`], also for the next four functions.
    pub fn summarizes_wal(&self, interruption: &Interruption<'_>) -> Result<bool> {
        let row = self.connection.query_row("query summarize_wal", "SHOW summarize_wal", interruption)?;
        Ok(row.text(0)? == "on")
    }

    /// The end of the summarized WAL; `None` if nothing is summarized.
    pub fn summarized_to(&self, interruption: &Interruption<'_>) -> Result<Option<Lsn>> {
        let sql = "SELECT nullif(summarized_lsn, '0/0') FROM pg_get_wal_summarizer_state()";
        let row = self.connection.query_row("query the state of the WAL summarizer", sql, interruption)?;
        row.optional(0).map(str::parse).transpose()
    }

    /// The available summaries.
    pub fn wal_summaries(&self, interruption: &Interruption<'_>) -> Result<Vec<SummaryRange>> {
        let sql = "SELECT tli, start_lsn, end_lsn FROM pg_available_wal_summaries()";
        let rows = self.connection.query("list the WAL summaries", sql, interruption)?;
        let number = |text: &str| text.parse::<TimelineId>();
        rows.iter()
            .map(|row| {
                Ok(SummaryRange {
                    timeline: number(row.text(0)?)?,
                    start: row.parsed(1)?,
                    end: row.parsed(2)?,
                })
            })
            .collect()
    }

    /// Whether the user may read their content, which requires more privileges than listing them.
    pub fn may_read_wal_summaries(&self, interruption: &Interruption<'_>) -> Result<bool> {
        let sql =
            "SELECT has_function_privilege('pg_wal_summary_contents(bigint, pg_lsn, pg_lsn)', 'execute')";
        Ok(self
            .connection
            .query_row("query the privilege to read WAL summaries", sql, interruption)?
            .is_true(0))
    }

    /// Visits the rows of a summary that concern main forks, `rows_max` rows at a time.
    pub fn visit_wal_summary(
        &self,
        summary: SummaryRange,
        rows_max: usize,
        interruption: &Interruption<'_>,
        visit: &mut dyn FnMut(SummaryRow),
    ) -> Result<()> {
        let what = "read a WAL summary";
        let SummaryRange { timeline, start, end } = summary;
        let begin = format!(
            "BEGIN; DECLARE summary NO SCROLL CURSOR FOR SELECT reltablespace, reldatabase, relfilenode, relblocknumber,\
             is_limit_block FROM pg_wal_summary_contents({timeline}, '{start}', '{end}') WHERE relforknumber = 0"
        );
        let visited = self.connection.query(what, &begin, interruption).and_then(|_| {
            loop {
                let rows =
                    self.connection.query(what, &format!("FETCH {rows_max} FROM summary"), interruption)?;
                if rows.is_empty() {
                    return Ok(());
                }
                for row in rows {
                    let directory =
                        DatabaseDirectory { tablespace: row.parsed(0)?, database: row.parsed(1)? };
                    let relation = RelFileLocator { directory, number: row.parsed(2)? };
                    visit(SummaryRow { relation, block: row.parsed(3)?, is_limit: row.is_true(4) });
                }
            }
        });
        // Also after an error, because the session continues.
        let ended = self.connection.query(what, "ROLLBACK", interruption);
        visited.and(ended.map(drop))
    }

    /// The timeline on which a primary writes this position.
    fn timeline_of(&self, lsn: Lsn, interruption: &Interruption<'_>) -> Result<TimelineId> {
        let sql = format!("SELECT pg_walfile_name('{lsn}')");
        let row = self.connection.query_row("query the timeline", &sql, interruption)?;
        Ok(row.parsed::<SegmentName>(0)?.timeline())
    }

    /// This position, with the current time and snapshot.
    ///
    /// # Errors
    /// Those of [`Connection::query`].
    pub fn point(
        &self,
        lsn: Lsn,
        timeline: TimelineId,
        interruption: &Interruption<'_>,
    ) -> Result<BackupPoint> {
        let row = self.connection.query_row(
            "query the time",
            "SELECT to_char(clock_timestamp(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
             CASE WHEN NOT pg_is_in_recovery() THEN pg_current_snapshot() END",
            interruption,
        )?;
        let snapshot = row.optional(1).map(str::to_owned);
        Ok(BackupPoint { time: row.parsed::<Timestamp>(0)?, lsn, timeline, snapshot })
    }

    fn configuration_files(&self, interruption: &Interruption<'_>) -> Result<Vec<PathBuf>> {
        let sql = "SELECT DISTINCT path FROM (\
             SELECT setting FROM pg_settings WHERE name IN ('config_file', 'hba_file', 'hosts_file', 'ident_file')\
             UNION SELECT sourcefile FROM pg_settings WHERE sourcefile IS NOT NULL) AS files(path) \
             WHERE path <> '' ORDER BY path";
        let rows = self.connection.query("query the paths of the configuration files", sql, interruption)?;
        rows.iter().map(|row| Ok(PathBuf::from(row.text(0)?))).collect()
    }
}

/// Whether `postmaster.pid` in the data directory describes the connected server.
fn started_here(data_directory: &DataDirectory, started_unix_s: i64, port: &str) -> bool {
    let Some(server) = data_directory.postmaster_pid() else { return false };
    let near = |start: i64| start.abs_diff(started_unix_s) <= START_DIFFERENCE_MAX_S.unsigned_abs();
    server.port.is_some_and(|ours| ours.to_string() == port) && server.started_unix_s.is_some_and(near)
}

/// Adds a hint on how to grant a user the permission to take backups.
fn may_not(error: Error) -> Error {
    if error.kind() != ErrorKind::Usage {
        return error;
    }
    error.hint(
        "Connect as a superuser, or run: GRANT EXECUTE ON FUNCTION pg_backup_start, pg_backup_stop TO <user>; (before version \
         15: pg_start_backup(text, boolean, boolean), pg_stop_backup(boolean, boolean))",
    )
}
