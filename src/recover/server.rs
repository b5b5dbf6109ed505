//! Starts the recovered server and watches it until recovery has ended: that it started proves nothing.
//!
//! Owns: calling `pg_ctl`, asking the server how far it came, and comparing that with the plan. A server accepts
//! connections, and `pg_ctl` reports success, long before recovery may fail.

use super::restore::read_restored;
use super::target::ExpectedEnd;
use crate::config::Conninfo;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::monitor::Monitor;
use crate::postgres::wal_header::{LongPageHeader, WAL_PAGE_BYTES, WalPageHeader};
use crate::postgres::{
    ClusterState, ControlFile, Lsn, MajorVersion, PgTimestamp, PostmasterPid, RecoveryTarget, TimelineId,
};
use crate::server::{Connection, Watch};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

/// How long `pg_ctl` waits for the server to accept connections, in seconds: as long as replay takes. It returns at once
/// when the server ends.
const START_WAIT_S: &str = "2000000";
/// How often the server is asked.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a standby may stand still before it is believed not to stream.
const STANDING_MAX: Duration = Duration::from_secs(30);
/// How often it is said how far the server is.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// How much of the server's log is looked through, from its end.
const LOG_BYTES_MAX: u64 = 256 << 10;
/// How many lines of it an error repeats.
const LOG_LINES_MAX: usize = 5;
/// Longer than `postmaster.pid` or `current_logfiles`.
const SMALL_FILE_BYTES_MAX: u64 = 64 << 10;

/// What a shell takes for its own between double quotes: there `pg_ctl` puts the paths of the data directory and the log,
/// as they are. Source: PostgreSQL `bin/pg_ctl/pg_ctl.c`, `start_postmaster`.
const SPOILT_BY_PG_CTL: [u8; 4] = *b"\"$`\\";

/// How to start the recovered server.
#[derive(Clone, Debug)]
pub struct ServerStart {
    /// The program `pg_ctl`, as it is to be called.
    pub pg_ctl: PathBuf,
    /// The data directory.
    pub data_directory: PathBuf,
    /// Where the server writes before it has read its configuration.
    pub log: PathBuf,
    /// The port, where it must be another than the configured one.
    pub port: Option<u16>,
    /// Whether the data directory must be named to the server, too: its configuration names another one.
    pub name_data_directory: bool,
    /// The server's major version.
    pub version: MajorVersion,
    /// As whom to ask it how far it came.
    pub conninfo: Conninfo,
}

/// Where recovery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachedPoint {
    /// What the server does now.
    pub state: ReachedState,
    /// The position after the last record that was replayed; `None` when the server has stopped.
    pub replayed: Option<Lsn>,
    /// When the last transaction that was replayed ended; `None`: none was.
    pub last_transaction: Option<PgTimestamp>,
    /// The timeline on which the server writes now; `None` while it does not.
    pub timeline: Option<TimelineId>,
}

/// What a started server is waited for to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// To reach its target, and wait or open there.
    Target,
    /// To reach its target, and stop there.
    Stop,
    /// To follow the archive, open for reading.
    Following,
    /// To follow its primary by streaming, or else the archive.
    Streaming,
}

/// What the server does after recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReachedState {
    /// It is a standby, open for reading, that finds its WAL in the archive.
    Following,
    /// It is a standby that streams from its primary.
    Streaming,
    /// It waits at the target, open for reading.
    Paused,
    /// It is open for writing, on a new timeline.
    Promoted,
    /// It has stopped at the target.
    ShutDown,
}

/// Finds `pg_ctl` of this major version: in `preferred`, where packages put it, or in one of the directories of `search`.
///
/// # Errors
/// [`ErrorKind::Usage`] when it is not where it was said to be.
pub fn find_pg_ctl(
    preferred: Option<&Path>,
    version: MajorVersion,
    search: &[PathBuf],
) -> Result<Option<PathBuf>> {
    if let Some(directory) = preferred {
        let program = directory.join("pg_ctl");
        return if program.is_file() {
            Ok(Some(program))
        } else {
            Err(Error::usage(format!("there is no pg_ctl in \"{}\"", directory.display()))
                .hint("--pg-bin names the directory of PostgreSQL's programs."))
        };
    }
    let packaged = [format!("/usr/lib/postgresql/{version}/bin"), format!("/usr/pgsql-{version}/bin")];
    let directories = packaged.iter().map(PathBuf::from).chain(search.iter().cloned());
    Ok(directories.map(|directory| directory.join("pg_ctl")).find(|program| program.is_file()))
}

impl ServerStart {
    /// The arguments of `pg_ctl`.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "-D".to_owned(),
            self.data_directory.display().to_string(),
            "-l".to_owned(),
            self.log.display().to_string(),
        ];
        let mut options = Vec::new();
        if let Some(port) = self.port {
            options.push(format!("-p {port}"));
        }
        if self.name_data_directory {
            // pg_ctl hands the options to a shell.
            let path = self.data_directory.display().to_string().replace('\'', "'\\''");
            options.push(format!("-c 'data_directory={path}'"));
        }
        if !options.is_empty() {
            arguments.extend(["-o".to_owned(), options.join(" ")]);
        }
        arguments
    }

    /// Whether `pg_ctl` can start a server in this directory.
    pub fn suits_pg_ctl(&self) -> bool {
        let spoilt = |path: &Path| path.as_os_str().as_bytes().iter().any(|b| SPOILT_BY_PG_CTL.contains(b));
        !spoilt(&self.data_directory) && !spoilt(&self.log)
    }

    /// The command for a person to type.
    pub fn command(&self) -> String {
        let line = |program: &Path, arguments: Vec<String>| {
            let words = std::iter::once(program.display().to_string()).chain(arguments);
            words.map(|word| quoted(&word)).collect::<Vec<_>>().join(" ")
        };
        if self.suits_pg_ctl() {
            let mut arguments = self.arguments();
            arguments.push("start".to_owned());
            return line(&self.pg_ctl, arguments);
        }
        let path = self.data_directory.display().to_string();
        let mut arguments = vec!["-D".to_owned(), path.clone()];
        arguments.extend(self.port.iter().flat_map(|port| ["-p".to_owned(), port.to_string()]));
        if self.name_data_directory {
            arguments.extend(["-c".to_owned(), format!("data_directory={path}")]);
        }
        let log = quoted(&self.log.display().to_string());
        format!("{} </dev/null >>{log} 2>&1 &", line(&self.pg_ctl.with_file_name("postgres"), arguments))
    }

    /// Starts the server and waits until it has ended its recovery, however long that takes.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when it could not be started or asked, [`ErrorKind::Damaged`] when it ended in an error:
    /// with what its log says.
    pub fn run(&self, awaited: Awaited, monitor: &dyn Monitor) -> Result<ReachedPoint> {
        let log_length = fs::metadata(&self.log).map_or(0, |metadata| metadata.len());
        monitor.step("starting the server");
        let started = Command::new(&self.pg_ctl)
            .args(self.arguments())
            .args(["-w", "-t", START_WAIT_S, "start"])
            .env_remove("PGDATA")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context(|| format!("could not call \"{}\"", self.pg_ctl.display()))?;
        if !started.success() {
            return self.ended(awaited, log_length);
        }
        monitor.step("the server replays WAL");
        let mut reported = Instant::now();
        let mut standing = Standing::default();
        loop {
            let Some((directory, port)) = self.socket()? else {
                return self.ended(awaited, log_length);
            };
            match ask(&directory, port, self.version, &self.conninfo) {
                Ok(Answer::Ended(reached)) => return Ok(reached),
                Ok(Answer::Replaying(progress)) => {
                    if let Some(reached) = standing.follows(awaited, &progress, Instant::now()) {
                        return Ok(reached);
                    }
                    if reported.elapsed() >= REPORT_EVERY {
                        let position =
                            progress.replayed.map_or_else(|| "its start".to_owned(), |lsn| lsn.to_string());
                        monitor.step(&format!("the server has replayed up to {position}"));
                        reported = Instant::now();
                    }
                }
                // Between our look and our question it may have ended.
                Err(_) if self.socket()?.is_none() => return self.ended(awaited, log_length),
                Err(error) if error.kind() == ErrorKind::Unavailable => {}
                Err(error) => return Err(error),
            }
            thread::sleep(PAUSE);
        }
    }

    /// Where the server listens, as long as it runs.
    fn socket(&self) -> Result<Option<(String, u16)>> {
        let path = self.data_directory.join("postmaster.pid");
        let Some(content) = read_restored(&path, SMALL_FILE_BYTES_MAX)? else { return Ok(None) };
        let Some(server) = PostmasterPid::parse(&content) else { return Ok(None) };
        // We have started it: what we may not send a signal to is another process.
        if nix::sys::signal::kill(nix::unistd::Pid::from_raw(server.process_id), None).is_err() {
            return Ok(None);
        }
        match (server.socket_directory, server.port) {
            (Some(directory), Some(port)) => Ok(Some((directory, port))),
            _ => Err(Error::usage("the recovered server has no Unix socket by which to ask it")
                .hint("Set unix_socket_directories, or look with psql whether it has reached the target.")),
        }
    }

    /// Judges a server that runs no more.
    ///
    /// Whether it has stopped in order is what `pg_control` says. The log only explains: it may be in another form or
    /// language or elsewhere, and the original's old complaints may be in it, which came with the backup.
    fn ended(&self, awaited: Awaited, log_length: u64) -> Result<ReachedPoint> {
        if awaited == Awaited::Stop && self.state() == Some(ClusterState::ShutDownInRecovery) {
            return Ok(ReachedPoint {
                state: ReachedState::ShutDown,
                replayed: None,
                last_transaction: None,
                timeline: None,
            });
        }
        let lines = self.complaints(log_length);
        let said = if lines.is_empty() { "it said nothing".to_owned() } else { lines.join("; ") };
        Err(Error::damaged(format!("the recovered server has ended without reaching its target: {said}")).hint(format!(
            "Its log is \"{}\". The data directory is as PostgreSQL left it; recover again into an empty one.",
            self.log.display()
        )))
    }

    /// The state in which the server left the cluster, if that can be read.
    fn state(&self) -> Option<ClusterState> {
        let path = self.data_directory.join("global/pg_control");
        let content = read_restored(&path, SMALL_FILE_BYTES_MAX).ok()??;
        ControlFile::parse(&content, Some(self.version)).ok().map(|control| control.state)
    }

    /// The last lines of the server's log that tell why it ended.
    fn complaints(&self, log_length: u64) -> Vec<String> {
        let mut text = tail(&self.log, log_length);
        // With the logging collector, that file says only where the log goes on.
        if let Ok(Some(current)) =
            read_restored(&self.data_directory.join("current_logfiles"), SMALL_FILE_BYTES_MAX)
        {
            for line in String::from_utf8_lossy(&current).lines() {
                if let Some((_, path)) = line.split_once(' ') {
                    text.push_str(&tail(&self.data_directory.join(path), 0));
                }
            }
        }
        let severe = |line: &&str| {
            (line.contains("FATAL:") || line.contains("PANIC:")) && !line.contains("the database system is ")
        };
        let lines: Vec<String> = text.lines().filter(severe).map(str::to_owned).collect();
        lines.into_iter().rev().take(LOG_LINES_MAX).rev().collect()
    }
}

/// A word of a shell's command line.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@,=".contains(&byte);
    if word.bytes().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// The end of a log, from `from` on at most; empty if it cannot be read.
fn tail(path: &Path, from: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(LOG_BYTES_MAX))))?;
        let mut content = Vec::new();
        file.take(LOG_BYTES_MAX).read_to_end(&mut content)?;
        Ok(content)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// What the server answered.
enum Answer {
    /// It is still replaying.
    Replaying(Progress),
    /// It is not.
    Ended(ReachedPoint),
}

/// How far a server has come that replays.
#[derive(Clone, Copy, Debug)]
struct Progress {
    replayed: Option<Lsn>,
    last_transaction: Option<PgTimestamp>,
    streams: bool,
}

/// Since when a server has been standing still.
#[derive(Clone, Copy, Debug, Default)]
struct Standing(Option<(Option<Lsn>, Instant)>);

impl Standing {
    /// Where a standby is, if it does what was waited for: one that has found all that the archive holds and cannot stream
    /// either stands still.
    fn follows(&mut self, awaited: Awaited, progress: &Progress, now: Instant) -> Option<ReachedPoint> {
        let since = match self.0 {
            Some((replayed, since)) if replayed == progress.replayed => since,
            _ => now,
        };
        self.0 = Some((progress.replayed, since));
        let state = match awaited {
            Awaited::Target | Awaited::Stop => return None,
            _ if progress.streams => ReachedState::Streaming,
            Awaited::Following => ReachedState::Following,
            Awaited::Streaming if now.duration_since(since) >= STANDING_MAX => ReachedState::Following,
            Awaited::Streaming => return None,
        };
        let Progress { replayed, last_transaction, .. } = *progress;
        Some(ReachedPoint { state, replayed, last_transaction, timeline: None })
    }
}

/// Asks the server over its local socket, as the user whom the original's configuration names, or else who we are.
fn ask(directory: &str, port: u16, version: MajorVersion, conninfo: &Conninfo) -> Result<Answer> {
    let pause = version.facts().replay_pause_state;
    // pg_walfile_name cannot be called in recovery, and CASE keeps it from being called.
    let query = format!(
        "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN {pause} END, pg_last_wal_replay_lsn(), \
         (extract(epoch FROM pg_last_xact_replay_timestamp() - '2000-01-01 00:00:00+00') * 1000000)::int8, \
         CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END, \
         EXISTS (SELECT FROM pg_stat_wal_receiver WHERE coalesce(status, 'streaming') = 'streaming')"
    );
    let interrupted = AtomicBool::new(false);
    let watch = Watch::new(&interrupted);
    let connection = Connection::open_local(directory, port, conninfo, "pgark recover")
        .map_err(|error| cannot_ask(error, directory, port))?;
    let row = connection.query_row("ask the recovered server", &query, &watch)?;
    let replayed = row.optional(2).and_then(|text| text.parse().ok());
    let last_transaction = row.optional(3).and_then(|text| text.parse().ok()).map(PgTimestamp::new);
    let state = match (row.optional(0), row.optional(1)) {
        (Some("f"), _) => ReachedState::Promoted,
        (_, Some("paused")) => ReachedState::Paused,
        // Whoever may not see the state of the receiver sees that there is one.
        _ => return Ok(Answer::Replaying(Progress { replayed, last_transaction, streams: row.is_true(5) })),
    };
    Ok(Answer::Ended(ReachedPoint {
        state,
        replayed,
        last_transaction,
        timeline: row
            .optional(4)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(TimelineId::new),
    }))
}

/// Asking again does not help if the server does not let us in.
fn cannot_ask(error: Error, directory: &str, port: u16) -> Error {
    if error.kind() != ErrorKind::Usage {
        return error;
    }
    error.hint(format!(
        "The server is running, and pgark cannot tell how far it came: set the user in connection.conninfo. Look yourself: \
         psql -h {directory} -p {port} -c 'SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()'"
    ))
}

/// Compares what was reached with what was promised; what differs, in words.
///
/// A server that stops after a position notes no time of the record there (PostgreSQL `xlogrecovery.c`,
/// `recoveryStopsAfter`), so that with such a target only the position counts.
pub fn deviations(target: &RecoveryTarget, expected: &ExpectedEnd, reached: &ReachedPoint) -> Vec<String> {
    let mut deviations = Vec::new();
    // The archive of a living primary grows while it is recovered: the end is then later than planned, which is as planned.
    if let (RecoveryTarget::Latest, Some(promised), Some(replayed)) = (target, expected.end, reached.replayed)
        && replayed > promised
    {
        return deviations;
    }
    if let (Some(promised), Some(replayed)) = (expected.end, reached.replayed)
        && !is_same_place(promised, replayed)
    {
        deviations.push(format!("it was to end at {promised}, and ended at {replayed}"));
    }
    if let (Some(promised), Some(_)) = (&expected.last_transaction, reached.replayed)
        && !matches!(target, RecoveryTarget::Lsn(_))
        && reached.last_transaction != Some(promised.time)
    {
        let found = reached.last_transaction.map_or_else(|| "no time".to_owned(), |time| time.to_string());
        deviations.push(format!(
            "its last transaction was to be {} of {}, and is of {found}",
            promised.xid, promised.time
        ));
    }
    deviations
}

/// Whether nothing but a page header lies between the end of one record and the beginning of the next.
fn is_same_place(promised: Lsn, replayed: Lsn) -> bool {
    let (promised, replayed) = (promised.as_u64(), replayed.as_u64());
    let header = promised.checked_sub(replayed);
    let at_page = replayed.is_multiple_of(u64::from(WAL_PAGE_BYTES));
    promised == replayed
        || (at_page
            && (header == Some(u64::from(WalPageHeader::BYTES))
                || header == Some(u64::from(LongPageHeader::BYTES))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::Xid;
    use crate::repository::wal::{Outcome, TransactionEnd};

    fn start() -> ServerStart {
        ServerStart {
            pg_ctl: PathBuf::from("/usr/lib/postgresql/15/bin/pg_ctl"),
            data_directory: PathBuf::from("/srv/it's"),
            log: PathBuf::from("/srv/x.log"),
            port: Some(5433),
            name_data_directory: true,
            version: MajorVersion::V15,
            conninfo: Conninfo::new("").unwrap(),
        }
    }

    #[test]
    fn the_command_can_be_typed() {
        assert_eq!(
            start().command(),
            "/usr/lib/postgresql/15/bin/pg_ctl -D '/srv/it'\\''s' -l /srv/x.log -o \
             '-p 5433 -c '\\''data_directory=/srv/it'\\''\\'\\'''\\''s'\\''' start"
        );
        let plain =
            ServerStart { port: None, name_data_directory: false, data_directory: "/d".into(), ..start() };
        assert_eq!(plain.command(), "/usr/lib/postgresql/15/bin/pg_ctl -D /d -l /srv/x.log start");
        let spoilt = ServerStart { port: Some(7), data_directory: "/a \"b\"".into(), ..start() };
        assert!(start().suits_pg_ctl() && !spoilt.suits_pg_ctl());
        assert_eq!(
            spoilt.command(),
            "/usr/lib/postgresql/15/bin/postgres -D '/a \"b\"' -p 7 -c 'data_directory=/a \"b\"' </dev/null \
             >>/srv/x.log 2>&1 &"
        );
    }

    #[test]
    fn what_was_reached_is_held_against_the_promise() {
        let lsn = |text: &str| -> Lsn { text.parse().unwrap() };
        let time = PgTimestamp::new(7);
        let end = TransactionEnd {
            xid: Xid::new(731),
            time,
            outcome: Outcome::Commit,
            start: lsn("0/3000028"),
            end: lsn("0/3000060"),
        };
        let expected =
            ExpectedEnd { end: Some(end.end), last_transaction: Some(end), ..ExpectedEnd::default() };
        let mut reached = ReachedPoint {
            state: ReachedState::Paused,
            replayed: Some(end.end),
            last_transaction: Some(time),
            timeline: None,
        };
        assert_eq!(deviations(&RecoveryTarget::Latest, &expected, &reached), [""; 0]);
        reached.replayed = Some(lsn("0/3000028"));
        assert_eq!(deviations(&RecoveryTarget::Latest, &expected, &reached).len(), 1);
        reached.last_transaction = None;
        assert_eq!(deviations(&RecoveryTarget::Latest, &expected, &reached).len(), 2);
        // More was archived while it recovered.
        let grown = ReachedPoint {
            replayed: Some(lsn("0/4000028")),
            last_transaction: Some(PgTimestamp::new(9)),
            ..reached.clone()
        };
        assert_eq!(deviations(&RecoveryTarget::Latest, &expected, &grown), [""; 0]);
        assert_eq!(deviations(&RecoveryTarget::Immediate, &expected, &grown).len(), 2);
        assert!(
            is_same_place(lsn("0/3000028"), lsn("0/3000000")),
            "a segment's first page has a longer header"
        );
        assert!(is_same_place(lsn("0/3002018"), lsn("0/3002000")));
        assert!(!is_same_place(lsn("0/3002018"), lsn("0/3001FF0")));
    }

    #[test]
    fn a_standby_that_cannot_stream_stands_still() {
        let began = Instant::now();
        let mut standing = Standing::default();
        let mut state = |awaited, replayed: &str, streams, after_s| {
            let progress =
                Progress { replayed: Some(replayed.parse().unwrap()), last_transaction: None, streams };
            let now = began + Duration::from_secs(after_s);
            standing.follows(awaited, &progress, now).map(|reached| reached.state)
        };
        assert_eq!(state(Awaited::Target, "0/1000028", true, 0), None);
        assert_eq!(state(Awaited::Following, "0/1000028", false, 0), Some(ReachedState::Following));
        assert_eq!(state(Awaited::Streaming, "0/1000028", false, 29), None);
        assert_eq!(state(Awaited::Streaming, "0/2000028", false, 31), None, "it has replayed something");
        assert_eq!(state(Awaited::Streaming, "0/2000028", true, 32), Some(ReachedState::Streaming));
        assert_eq!(state(Awaited::Streaming, "0/2000028", false, 61), Some(ReachedState::Following));
    }

    #[test]
    fn the_log_tells_why_a_server_ended() {
        let scratch = tempfile::tempdir().unwrap();
        let log = scratch.path().join("log");
        let start = ServerStart { log: log.clone(), data_directory: scratch.path().to_owned(), ..start() };
        fs::write(&log, "FATAL:  old\nLOG:  x\nFATAL:  the database system is starting up\nFATAL:  new\n")
            .unwrap();
        assert_eq!(start.complaints(12), ["FATAL:  new"]);
        let error = start.ended(Awaited::Stop, 12).unwrap_err();
        assert!(error.to_string().ends_with("without reaching its target: FATAL:  new"), "{error}");
    }

    #[test]
    fn pg_control_tells_whether_a_server_stopped_in_order() {
        let scratch = tempfile::tempdir().unwrap();
        let log = scratch.path().join("log");
        let start = ServerStart { log: log.clone(), data_directory: scratch.path().to_owned(), ..start() };
        fs::create_dir(scratch.path().join("global")).unwrap();
        let set_state = |state: u8| {
            let mut control = include_bytes!("../../tests/fixtures/postgres/15/pg_control").to_vec();
            control[16] = state;
            let checksum = crc32c::crc32c(&control[..288]);
            control[288..292].copy_from_slice(&checksum.to_le_bytes());
            fs::write(scratch.path().join("global/pg_control"), control).unwrap();
        };
        // As a log in another form has it.
        fs::write(&log, "2026-01-15 14:30:00,FATAL,could not restore\n").unwrap();
        assert!(start.ended(Awaited::Stop, 0).is_err(), "there is no pg_control");
        set_state(5);
        assert!(start.ended(Awaited::Stop, 0).is_err(), "it ended in recovery");
        set_state(2);
        fs::write(&log, "FATAL:  of the original\n").unwrap();
        assert_eq!(start.ended(Awaited::Stop, 0).unwrap().state, ReachedState::ShutDown);
        assert!(start.ended(Awaited::Target, 0).is_err());
    }
}
