//! `archive-push`: asks the agent to store one WAL file, and waits for the result.
//!
//! During a shutdown, the server waits for its archiver, and the archiver for this program. A single file therefore
//! gets little time, and all files together little more, whatever the state of the repository.

use crate::config::Config;
use crate::data_directory::{DataDirectory, lies_in_pg_wal};
use crate::error::{Context, Error, Result};
use crate::postgres::{ClusterState, ControlFile, WalFileName};
use crate::spool::{self, Answer, Patience, PushRequest, Request, Waiting};
use std::path::{Component, Path};
use std::time::{Duration, Instant, SystemTime};

/// Time limit for a file while the server shuts down. A working agent is faster.
const SHUTDOWN_FILE_MAX: Duration = Duration::from_secs(5);
/// Time limit for all files from the shutdown request on: `pg_ctl stop` gives up after 60 s.
const SHUTDOWN_MAX: Duration = Duration::from_secs(30);
/// Minimum time for all files after the server's last checkpoint, which may have used up the time.
const AFTER_CHECKPOINT_MAX: Duration = Duration::from_secs(10);

/// Archives the file at `path`, which is `%p` of `archive_command`: relative to `working_directory`, the data
/// directory.
///
/// On success, the file is durable in the repository, and its checksum was verified there.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for a call that PostgreSQL would not make, the agent's verdict,
/// and [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) after `push.deadline`, or sooner while the
/// server shuts down.
pub fn archive(config: &Config, path: &Path, working_directory: &Path) -> Result<()> {
    let started = Instant::now();
    let name = wal_file_name(path)?;
    let what = || format!("could not archive {name}");
    let data_directory =
        DataDirectory::open(&config.data_directory).context(what)?.assuming(config.assumed_version);
    let path = working_directory.join(path);
    if !data_directory.is(&crate::data_directory::data_directory_of(&path)) {
        return Err(Error::usage(format!(
            "\"{}\" is not in the configured data directory \"{}\"",
            path.display(),
            config.data_directory.display()
        ))
        .hint("PostgreSQL runs archive-push in its data directory. Set data_directory to the directory of the same server.")
        .context(what()));
    }
    let control = data_directory.control_file().context(what)?;
    check_finished(&data_directory, &control, name).context(what)?;
    let mut verdict = PushWait {
        data_directory: &data_directory,
        deadline: started + config.push.deadline,
        shutdown: None,
    };
    let deadline = verdict.deadline().saturating_duration_since(Instant::now());
    if deadline.is_zero() {
        return Err(too_late_for_shutdown().context(what()));
    }
    let request = Request::Push(PushRequest {
        system: control.system,
        segment_size: control.segment_size,
        version: control.known_version(),
        name,
        path,
        deadline,
    });
    let asked = spool::ask(config, &request, Patience::Brief, &mut verdict);
    match asked.map(|conversation| conversation.answer) {
        Ok(Answer::Stored) => Ok(()),
        Err(error) if verdict.shutdown.is_some() => {
            Err(error.context("the server is shutting down and no longer waits").context(what()))
        }
        Ok(Answer::Failed(error)) | Err(error) => Err(error).context(what),
        Ok(other) => {
            Err(Error::unavailable(format!("unexpected response from the agent: {other:?}")).context(what()))
        }
    }
}

/// Rejects the segment to which a running server still writes, which has neither a `.ready` nor a `.done` mark. If it
/// were stored now, the complete segment would be rejected forever. PostgreSQL itself only passes marked files. A
/// segment before the last checkpoint is complete: an operator may restore a lost one.
fn check_finished(data_directory: &DataDirectory, control: &ControlFile, name: WalFileName) -> Result<()> {
    let WalFileName::Segment(segment) = name else { return Ok(()) };
    let status = data_directory.path().join("pg_wal/archive_status");
    let is_marked = |mark: &str| status.join(format!("{name}.{mark}")).exists();
    let checkpoint = control.redo.segment(control.segment_size);
    let is_below_checkpoint = segment.timeline() <= control.timeline
        && segment.number(control.segment_size).is_some_and(|number| number < checkpoint);
    if is_marked("ready")
        || is_marked("done")
        || is_below_checkpoint
        || data_directory.server_process_id().is_none()
    {
        return Ok(());
    }
    Err(Error::usage("the server is running and has not marked this segment as complete").hint(
        "The server may still be writing to it. Run SELECT pg_switch_wal() to complete the segment; PostgreSQL then archives it.",
    ))
}

/// Waits for the agent's result, and watches the server meanwhile.
struct PushWait<'a> {
    data_directory: &'a DataDirectory,
    deadline: Instant,
    /// When the shutdown of the server was noticed.
    shutdown: Option<Instant>,
}

impl Waiting for PushWait<'_> {
    fn deadline(&mut self) -> Instant {
        if let Some(since) = self.data_directory.stopping_since() {
            let now = Instant::now();
            let seen = *self.shutdown.get_or_insert(now);
            self.deadline = self.deadline.min(seen + SHUTDOWN_FILE_MAX);
            let control = self.data_directory.control_file().ok();
            let left = control.and_then(|control| {
                shutdown_left(control.state, control.written_unix_s, since, SystemTime::now())
            });
            if let Some(left) = left {
                self.deadline = self.deadline.min(now + left);
            }
        }
        self.deadline
    }
}

/// The remaining time for all files while the server shuts down, as requested at `since`. `None` while the server also
/// waits for other processes, according to the state in its `pg_control` and the time of its last write.
///
/// Once the last checkpoint is written, the server waits only for its archiver. Before that, sessions may
/// continue for hours (a smart shutdown), and their WAL has to be archived.
fn shutdown_left(
    state: ClusterState,
    written_unix_s: i64,
    since: SystemTime,
    now: SystemTime,
) -> Option<Duration> {
    if !matches!(state, ClusterState::ShutDown | ClusterState::ShutDownInRecovery) {
        return None;
    }
    let written = Duration::from_secs(u64::try_from(written_unix_s).unwrap_or_default());
    let ends = (since + SHUTDOWN_MAX).max(SystemTime::UNIX_EPOCH + written + AFTER_CHECKPOINT_MAX);
    // Never longer, even if the clock was changed meanwhile.
    Some(ends.duration_since(now).unwrap_or_default().min(SHUTDOWN_MAX))
}

fn too_late_for_shutdown() -> Error {
    Error::unavailable("the server is shutting down, and the deadline for archiving its WAL has passed").hint(
        "The file stays in pg_wal, and PostgreSQL archives it after the next start. Until then the agent continues.",
    )
}

/// The last component of `%p`.
fn wal_file_name(path: &Path) -> Result<WalFileName> {
    let shown = path.display();
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Error::usage(format!("the path \"{shown}\" contains \"..\""))
            .hint("PostgreSQL passes paths like pg_wal/000000010000000000000001."));
    }
    let name: WalFileName = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| Error::usage(format!("the path \"{shown}\" does not name a WAL file")))?
        .parse()?;
    if !name.is_of_postgresql() {
        return Err(Error::usage(format!("\"{name}\" is not the name of a file that PostgreSQL archives"))
            .hint("pgark gives such names to partial segments that differ from one already stored."));
    }
    if path.parent().is_none_or(|parent| parent.as_os_str().is_empty()) {
        return Err(Error::usage(format!("\"{shown}\" is a name, not a path"))
            .hint("archive_command needs %p, not %f: archive_command = 'archive-push %p'."));
    }
    if !lies_in_pg_wal(path) {
        return Err(Error::usage(format!("the path \"{shown}\" is not in pg_wal"))
            .hint("PostgreSQL passes paths like pg_wal/000000010000000000000001."));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shutdown_has_a_limit_once_nobody_else_is_waited_for() {
        let moment = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let left = |state, written, now| {
            shutdown_left(state, written, moment(1000), moment(now)).map(|left| left.as_secs())
        };
        for state in [ClusterState::InProduction, ClusterState::ShuttingDown, ClusterState::InArchiveRecovery]
        {
            assert_eq!(left(state, 900, 5000), None, "sessions, or the checkpoint, may take their time");
        }
        for state in [ClusterState::ShutDown, ClusterState::ShutDownInRecovery] {
            assert_eq!(left(state, 1001, 1010), Some(20));
            assert_eq!(left(state, 1001, 1030), Some(0));
            assert_eq!(left(state, 1100, 1104), Some(6), "the checkpoint took longer than all");
            assert_eq!(left(state, 1001, 100), Some(30), "the clock was set back");
        }
    }

    #[test]
    fn takes_only_paths_that_postgresql_passes() {
        assert!(wal_file_name(Path::new("pg_wal/000000010000000000000001")).is_ok());
        assert!(wal_file_name(Path::new("/data/pg_wal/00000002.history")).is_ok());
        for path in [
            "",
            "/",
            "000000010000000000000001",
            "pg_wal/x",
            "pg_wal/",
            "pg_wal/../000000010000000000000001",
            "base/000000010000000000000001",
            "/data/000000010000000000000001",
            "pg_wal/000000010000000000000001.partial.0123456789abcdef",
        ] {
            assert!(wal_file_name(Path::new(path)).is_err(), "{path:?}");
        }
        let error = wal_file_name(Path::new("000000010000000000000001")).unwrap_err();
        assert!(error.hint_text().unwrap().contains("%p, not %f"));
    }
}
