//! Starts the recovered server and monitors it until recovery ends, because a successful start proves
//! nothing.
//!
//! Owns: calling `pg_ctl`, querying the server's progress, and judging the outcome. A server accepts
//! connections, and `pg_ctl` reports success, long before recovery may fail. Every wait is bounded: a server
//! that neither progresses nor responds is left running, and an error reports it.

mod collations;
mod deviations;
mod log;
mod point;
mod process;
mod programs;
mod progress_watch;
mod queries;
pub mod settings;
pub mod standby;
mod start;

pub use collations::{CollationMismatch, MismatchedCollations};
pub use deviations::deviations;
pub use point::{Awaited, ReachedPoint, ReachedState};
pub use programs::{find_pg_ctl, who_listens};
pub use start::ServerStart;

use crate::error::{Context, Error, Result};
use crate::monitor::{CommandStep, Monitor, ReplayPosition};
use crate::postgres::cluster::control_file::ServerLimits;
use crate::postgres::{ClusterState, ControlFile, PostmasterPid};
use crate::recover::place::read_restored;
use crate::server::{LocalPlace, LocalServer};
use log::{LogMark, indented};
use process::{is_running, replayed_segment};
use progress_watch::{PAUSE, ProgressWatch};
use queries::{RecoveryQueries, RecoveryStatus, StandbyProgress};
use start::quoted;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

/// How long `pg_ctl` waits for the server to accept connections, in seconds: longer than this module does.
/// `pg_ctl` returns at once when the server exits.
const START_WAIT_S: &str = "2000000";
/// Upper limit for the size of `postmaster.pid`, in bytes.
const SMALL_FILE_BYTES_MAX: u64 = 64 << 10;
/// How many bytes of `pg_ctl`'s output an error repeats.
const PG_CTL_BYTES_MAX: u64 = 1000;

impl ServerStart {
    /// Starts the server and waits for the end of its recovery, as long as replay progresses.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) if the server could not be started,
    /// or runs without responding or progressing; [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if
    /// it exited with an error or waits in an unexpected place. The error quotes the server's log.
    pub fn run(&self, awaited: Awaited, monitor: &dyn Monitor) -> Result<ReachedPoint> {
        let log = LogMark::set(&self.data_directory, &self.log);
        monitor.step(CommandStep::StartingServer);
        let mut pg_ctl = Some(self.start()?);
        let mut queries = RecoveryQueries::new(self.version, &self.conninfo);
        let mut standby_progress = StandbyProgress::default();
        let mut watch = ProgressWatch::begin(monitor);
        loop {
            if let Some(child) = &mut pg_ctl {
                // Until pg_ctl returns, the server refuses connections and logs each attempt.
                match child.try_wait().context(|| "could not wait for pg_ctl")? {
                    Some(status) if status.success() => {
                        pg_ctl = None;
                        monitor.step(CommandStep::ReplayingWal);
                    }
                    Some(_) => return self.ended(awaited, &log, pg_ctl_output(child)),
                    None => {
                        let segment =
                            self.postmaster()?.and_then(|server| replayed_segment(server.process_id));
                        if let Err(error) = watch.look(segment.map(ReplayPosition::Segment)) {
                            // It only waits for the server, which keeps running without it.
                            let _ = child.kill().and_then(|()| child.wait());
                            return Err(self.stalled_error(error, &log));
                        }
                        thread::sleep(PAUSE);
                    }
                }
                continue;
            }
            let Some(server) = self.postmaster()? else { return self.ended(awaited, &log, String::new()) };
            let place = self.place(&server)?;
            match queries.query(&place) {
                Ok(status) => {
                    if let Some(reached) = self.judge(awaited, &status, &mut standby_progress, &log)? {
                        return Ok(reached);
                    }
                    let replayed = status.progress.replayed.map(ReplayPosition::ReplayedTo);
                    watch.record_response(replayed).map_err(|error| self.stalled_error(error, &log))?;
                }
                // The server may have exited between the check and the query.
                Err(_) if self.postmaster()?.is_none() => continue,
                // A missing role or database may still arrive with the WAL, as long as replay progresses.
                Err(error) => {
                    let segment = replayed_segment(server.process_id);
                    watch
                        .record_failure(segment.map(ReplayPosition::Segment), error)
                        .map_err(|error| self.query_error(error, &psql_options(&server)))?;
                }
            }
            thread::sleep(watch.pause);
        }
    }

    fn start(&self) -> Result<Child> {
        Command::new(&self.pg_ctl)
            .args(self.arguments())
            .args(["-w", "-t", START_WAIT_S, "start"])
            .env_remove("PGDATA")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context(|| format!("could not call \"{}\"", self.pg_ctl.display()))
    }

    /// The server's `postmaster.pid`, as long as the server runs.
    fn postmaster(&self) -> Result<Option<PostmasterPid>> {
        let path = self.data_directory.join("postmaster.pid");
        let content = read_restored(&path, SMALL_FILE_BYTES_MAX)?;
        let server = content.and_then(|content| PostmasterPid::parse(&content));
        Ok(server.filter(|server| is_running(server.process_id)))
    }

    /// The address of the server: its Unix socket, or else its first TCP address.
    fn place(&self, server: &PostmasterPid) -> Result<LocalServer> {
        let place = match (&server.socket_directory, &server.listen_address) {
            (Some(directory), _) => Some(LocalPlace::Socket(directory.clone())),
            (None, Some(address)) => Some(LocalPlace::Address(match address.as_str() {
                "*" | "0.0.0.0" => "127.0.0.1".to_owned(),
                "::" => "::1".to_owned(),
                other => other.to_owned(),
            })),
            (None, None) => None,
        };
        match (place, server.port) {
            (Some(place), Some(port)) => Ok(LocalServer { place, port }),
            _ => Err(Error::usage("the recovered server does not listen on any socket, so its state is unknown").hint(
                "Recovery continues. Check the server's log to see whether it has reached the target. To give the server a \
                 socket, set unix_socket_directories in its configuration.",
            )),
        }
    }

    /// Judges a response: where recovery ended, or `None` while it continues.
    fn judge(
        &self,
        awaited: Awaited,
        status: &RecoveryStatus,
        standby_progress: &mut StandbyProgress,
        log: &LogMark,
    ) -> Result<Option<ReachedPoint>> {
        match status.state {
            Some(ReachedState::Paused) => {
                let needed = status.limits.map(|set| self.raised_limits(set)).unwrap_or_default();
                if !needed.is_empty() || awaited != Awaited::Target {
                    return Err(self.paused(status, &needed, log));
                }
                Ok(Some(status.reached(ReachedState::Paused)))
            }
            Some(state) => Ok(Some(status.reached(state))),
            None => Ok(standby_progress
                .follows(awaited, &status.progress, Instant::now())
                .map(|state| status.reached(state))),
        }
    }

    /// The settings that are too low for the WAL replayed so far, with the values in `pg_control` that they
    /// must reach.
    fn raised_limits(&self, set: ServerLimits) -> Vec<(&'static str, u32, u32)> {
        let Some(control) = self.control_file() else { return Vec::new() };
        let pairs = set.named().into_iter().zip(control.limits.named());
        pairs
            .filter(|((_, is), (_, needed))| is < needed)
            .map(|((name, is), (_, needed))| (name, is, needed))
            .collect()
    }

    /// The error for a server that paused without a request to do so.
    fn paused(&self, status: &RecoveryStatus, needed: &[(&str, u32, u32)], log: &LogMark) -> Error {
        let replayed = status.progress.replayed;
        let at = replayed.map_or_else(|| "its start".to_owned(), |lsn| lsn.to_string());
        let reasons: Vec<String> = needed
            .iter()
            .map(|(name, is, needed)| format!("{name} is {is}, and the WAL needs {needed}"))
            .collect();
        let reason = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join(", ")) };
        let error = Error::damaged(format!(
            "the recovered server paused at {at}, which is not its target{reason}{}",
            log_excerpt(&log.reason())
        ));
        if needed.is_empty() {
            return error.hint(
                "The server is running and accepts read-only connections. Check its log for the reason, and continue with \
                 SELECT pg_wal_replay_resume().",
            );
        }
        let lines: Vec<String> =
            needed.iter().map(|(name, _, needed)| format!("{name} = {needed}")).collect();
        error.hint(format!(
            "Stop it, append this to \"{}\", and start it again; it continues from there:\n{}\n{} -D {} stop -m fast\n{}",
            self.data_directory.join("postgresql.auto.conf").display(),
            lines.join("\n"),
            quoted(&self.pg_ctl.display().to_string()),
            quoted(&self.data_directory.display().to_string()),
            self.command(),
        ))
    }

    /// Judges a server that no longer runs.
    ///
    /// `pg_control` tells whether it shut down cleanly. The log only explains the reason: it may have another
    /// format or language, or be elsewhere.
    fn ended(&self, awaited: Awaited, log: &LogMark, output: String) -> Result<ReachedPoint> {
        let state = self.control_file().map(|control| control.state);
        if awaited == Awaited::Stop && state == Some(ClusterState::ShutDownInRecovery) {
            return Ok(ReachedPoint {
                state: ReachedState::ShutDown,
                replayed: None,
                last_transaction: None,
                timeline: None,
            });
        }
        let mut reason = log.reason();
        if reason.is_empty() {
            reason.extend(output.lines().map(str::to_owned));
        }
        let signals = ["recovery.signal", "standby.signal"];
        let in_recovery = signals.iter().any(|name| self.data_directory.join(name).exists());
        let next = if in_recovery {
            "Remove the cause (a setting goes to the end of postgresql.auto.conf in the data directory), then start the server \
             again, and recovery continues"
        } else {
            "Its recovery had already ended. Remove the cause, then start the server again"
        };
        Err(Error::damaged(format!(
            "the recovered server exited without reaching its target{}",
            log_excerpt(&reason)
        ))
        .hint(format!(
            "Its log is \"{}\". {next}: {}\nFor another target, recover again into an empty directory.",
            self.log.display(),
            self.command()
        )))
    }

    /// The server's `pg_control`, if it can be read.
    fn control_file(&self) -> Option<ControlFile> {
        let path = self.data_directory.join("global/pg_control");
        let content = read_restored(&path, SMALL_FILE_BYTES_MAX).ok()??;
        ControlFile::parse(&content, Some(self.version)).ok()
    }

    fn stalled_error(&self, error: Error, log: &LogMark) -> Error {
        Error::new(error.kind(), format!("{error}{}", log_excerpt(&log.reason()))).hint(format!(
            "The server was not stopped and may still continue. Check its log \"{}\".",
            self.log.display()
        ))
    }

    /// The error for a server that rejects every known user; retrying does not help.
    fn query_error(&self, error: Error, place: &str) -> Error {
        error.context("the recovered server is running, but its progress cannot be queried").hint(format!(
            "The server was not stopped. Set the user in connection.conninfo, or check the progress yourself: psql {place} -c \
             'SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()'. Its log is \"{}\".",
            self.log.display()
        ))
    }
}

/// The `psql` options that connect to a server.
fn psql_options(server: &PostmasterPid) -> String {
    let host = server.socket_directory.as_deref().unwrap_or("localhost");
    let port = server.port.map(|port| format!(" -p {port}")).unwrap_or_default();
    format!("-h {}{port} -d postgres", quoted(host))
}

/// Formats log lines for an error.
fn log_excerpt(lines: &[String]) -> String {
    if lines.is_empty() {
        return "; its log gives no reason".to_owned();
    }
    format!("; the end of its log:{}", indented(lines))
}

/// The output of `pg_ctl` before it failed.
fn pg_ctl_output(pg_ctl: &mut Child) -> String {
    let mut content = Vec::new();
    if let Some(output) = pg_ctl.stderr.take() {
        let _ = output.take(PG_CTL_BYTES_MAX).read_to_end(&mut content);
    }
    String::from_utf8_lossy(&content).into_owned()
}

#[cfg(test)]
mod tests {
    use super::start::tests::start;
    use super::*;
    use std::fs;

    #[test]
    fn pg_control_tells_whether_a_server_stopped_in_order() {
        let scratch = tempfile::tempdir().unwrap();
        let log = scratch.path().join("log");
        let start = ServerStart { log: log.clone(), data_directory: scratch.path().to_owned(), ..start() };
        fs::create_dir(scratch.path().join("global")).unwrap();
        let set_state = |state: u8| {
            let mut control = include_bytes!("../../../tests/fixtures/postgres/15/pg_control").to_vec();
            control[16] = state;
            let checksum = crc32c::crc32c(&control[..288]);
            control[288..292].copy_from_slice(&checksum.to_le_bytes());
            fs::write(scratch.path().join("global/pg_control"), control).unwrap();
        };
        let ended = |awaited| start.ended(awaited, &LogMark::set(scratch.path(), &log), String::new());
        // A log in another format.
        fs::write(&log, "2026-01-15 14:30:00,FATAL,could not restore\n").unwrap();
        assert!(ended(Awaited::Stop).is_err(), "there is no pg_control");
        set_state(5);
        assert!(ended(Awaited::Stop).is_err(), "it ended in recovery");
        set_state(2);
        fs::write(&log, "FATAL:  of the original\n").unwrap();
        assert_eq!(ended(Awaited::Stop).unwrap().state, ReachedState::ShutDown);
        assert!(ended(Awaited::Target).is_err());
    }
}
