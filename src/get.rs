//! `archive-get`: makes the agent fetch a WAL file, and puts it where PostgreSQL expects it.

use crate::config::Config;
use crate::data_directory::{DataDirectory, data_directory_of, lies_in_pg_wal};
use crate::durable::{self, Disk};
use crate::error::{Context, Error, RecoveryMode, Result};
use crate::postgres::{SegmentName, TimelineId, WalFileName};
use crate::spool::{self, Answer, GetRequest, Patience, Request, TargetRule, Waiting};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Additional wait for the agent's final answer after its deadline.
const GRACE: Duration = Duration::from_secs(1);

/// Wait after which the reason is reported in the server's log.
const SAY_AFTER: Duration = Duration::from_secs(2);

/// The options of `restore_command` that describe the recovery.
#[derive(Clone, Copy, Debug)]
pub struct Recovery {
    /// The recovery mode.
    pub mode: RecoveryMode,
    /// Whether it has a target.
    pub target: TargetRule,
    /// The destination timeline.
    pub timeline: Option<TimelineId>,
    /// The last segment that the recovery is proven to need.
    pub proven_end: Option<SegmentName>,
}

/// Restores the file `name` (`%f`) as `destination` (`%p`, relative to `working_directory`, the data
/// directory).
///
/// On success, `destination` contains exactly the archived bytes; otherwise it is unchanged. It is not synced to disk:
/// PostgreSQL does that if it keeps the file.
///
/// `say` receives messages for the server's log while the call continues.
///
/// # Errors
/// [`ErrorKind::Absent`](crate::error::ErrorKind::Absent) only if the repository has reported that it does not hold the
/// file and recovery may treat this as the end of the archive, or if PostgreSQL does not need the file.
pub fn restore(
    config: &Config,
    name: &str,
    destination: &Path,
    working_directory: &Path,
    recovery: Recovery,
    disk: &dyn Disk,
    say: &mut dyn FnMut(&Error),
) -> Result<()> {
    let name: WalFileName = name.parse()?;
    let what = || format!("could not restore {name}");
    check_destination(name, destination).context(what)?;
    let destination = working_directory.join(destination);
    let data_directory =
        DataDirectory::open(&config.data_directory).context(what)?.assuming(config.assumed_version);
    if !data_directory.is(&data_directory_of(&destination)) {
        return Err(Error::usage(format!(
            "\"{}\" is not in the configured data directory \"{}\"",
            destination.display(),
            config.data_directory.display()
        ))
        .hint("PostgreSQL runs archive-get in its data directory. Set data_directory to the directory of the same server.")
        .context(what()));
    }
    if name == WalFileName::History(TimelineId::FIRST) {
        return Err(Error::absent("timeline 1 has no history file"));
    }
    if recovery_has_ended(&data_directory, name) {
        return Err(Error::absent(format!("recovery has ended, and PostgreSQL already has {name}")));
    }
    let limit = match (recovery.mode, name) {
        (RecoveryMode::OneShot, _) => config.get.deadline,
        (RecoveryMode::Standby, WalFileName::History(_)) => config.get.standby_history_deadline,
        (RecoveryMode::Standby, _) => config.get.standby_segment_deadline,
    };
    let control = data_directory.control_file().context(what)?;
    let request = Request::Get(GetRequest {
        system: control.system,
        segment_size: control.segment_size,
        version: control.known_version(),
        name,
        mode: recovery.mode,
        target: recovery.target,
        timeline: recovery.timeline,
        proven_end: recovery.proven_end,
        server_start_s: data_directory
            .postmaster_pid()
            .and_then(|server| server.started_unix_s)
            .and_then(|start| u64::try_from(start).ok())
            .unwrap_or_default(),
        pg_wal: durable::parent_directory(&destination).to_owned(),
        // The startup process requests one file after the other under one of two names; pg_rewind requests
        // one file.
        prefetch: destination.file_name() == Some(OsStr::new("RECOVERYXLOG")),
        deadline: limit,
    });
    let deadline = Instant::now() + limit + GRACE;
    let mut waiting = GetWait { name, deadline, say_at: Some(Instant::now() + SAY_AFTER), say };
    loop {
        let conversation =
            spool::ask(config, &request, Patience::UntilDeadline, &mut waiting).context(what)?;
        match &conversation.answer {
            Answer::Fetched { path, instead }
                if place(disk, path, &destination).context(what)? == Placed::Whole =>
            {
                if let Some(reason) = instead {
                    (waiting.say)(&reason.replica().context(format!("{name} was fetched into pg_wal")));
                }
                return Ok(());
            }
            // The agent died, and another one cleared the spool with the fetched file.
            Answer::Fetched { .. } if Instant::now() < deadline => {}
            Answer::Fetched { .. } => {
                return Err(Error::unavailable(
                    "the fetched file disappeared repeatedly before it could be used",
                )
                .context(what()));
            }
            Answer::Failed(error) => return Err(error.replica()).context(what),
            other => {
                return Err(Error::unavailable(format!("unexpected response from the agent: {other:?}"))
                    .context(what()));
            }
        }
    }
}

/// Checks that PostgreSQL passes this destination: its startup process in `pg_wal` under one of two names of
/// its own, `pg_rewind` in `pg_wal` under the file's name. No other file may be overwritten.
///
/// Source: PostgreSQL `access/transam/xlogarchive.c`, `RestoreArchivedFile`; `fe_utils/archive.c`.
fn check_destination(name: WalFileName, destination: &Path) -> Result<()> {
    let names = ["RECOVERYXLOG".to_owned(), "RECOVERYHISTORY".to_owned(), name.to_string()];
    let is_known = |file: &OsStr| names.iter().any(|name| file == name.as_str());
    if lies_in_pg_wal(destination) && destination.file_name().is_some_and(is_known) {
        return Ok(());
    }
    Err(Error::usage(format!("\"{}\" is not a destination that PostgreSQL uses", destination.display())).hint(format!(
        "Set restore_command = 'archive-get %f %p', which restores only into pg_wal. To inspect a file, run: pgark wal get \
         {name} --output FILE"
    )))
}

/// Waits for the agent, and reports a long wait to the server's log once.
struct GetWait<'a> {
    name: WalFileName,
    deadline: Instant,
    /// When to report the reason; `None` once that is done.
    say_at: Option<Instant>,
    say: &'a mut dyn FnMut(&Error),
}

impl GetWait<'_> {
    fn say(&mut self, reason: &Error) {
        self.say_at = None;
        (self.say)(&reason.replica().context(format!("waiting for {}", self.name)));
    }
}

impl Waiting for GetWait<'_> {
    fn deadline(&mut self) -> Instant {
        self.deadline
    }

    fn told(&mut self, reason: &Error) {
        if self.say_at.is_some_and(|at| Instant::now() >= at) {
            self.say(reason);
        }
    }

    fn no_agent(&mut self, reason: &Error) {
        // Problems with the spool do not resolve themselves in a moment.
        if self.say_at.is_some() {
            self.say(reason);
        }
    }
}

/// Whether a running server requests this history file after it has ended recovery, and has it in `pg_wal`.
///
/// After PostgreSQL has removed its signal file, it requests the history of the timeline that it leaves, and
/// uses its own copy if the archive has none; histories never change. A failure here because the repository
/// is unavailable would stop a promotion halfway: the server would start again without recovery, and keep
/// writing on the old timeline.
/// Source: PostgreSQL `access/transam/timeline.c`, `writeTimeLineHistory`.
fn recovery_has_ended(data_directory: &DataDirectory, name: WalFileName) -> bool {
    let has = |file: &str| data_directory.path().join(file).exists();
    matches!(name, WalFileName::History(_))
        && !has("recovery.signal")
        && !has("standby.signal")
        && has(&format!("pg_wal/{name}"))
        && data_directory.server_process_id().is_some()
}

/// Whether a fetched file was moved to its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placed {
    Whole,
    /// The file no longer exists, and nothing was done.
    Gone,
}

/// Moves the fetched file to its destination, or copies it if the spool is on another file system.
fn place(disk: &dyn Disk, fetched: &Path, destination: &Path) -> Result<Placed> {
    let placed = match disk.rename_over(fetched, destination) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            durable::copy_nameless(disk, fetched, destination)
        }
        other => other,
    };
    match placed {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !fetched.exists() => Ok(Placed::Gone),
        other => {
            other.context(|| format!("could not write \"{}\"", destination.display())).map(|()| Placed::Whole)
        }
    }
}
