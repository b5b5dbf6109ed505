//! What `archive-get` does: have the agent fetch one WAL file, and put it where PostgreSQL wants it.

use crate::config::Config;
use crate::data_directory::{DataDirectory, data_directory_of};
use crate::durable::{self, Disk};
use crate::error::{Context, Error, RecoveryMode, Result};
use crate::postgres::{TimelineId, WalFileName};
use crate::spool::{self, Answer, GetRequest, Patience, Request, TargetRule, Until};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How much longer than the agent we wait for its last word.
const GRACE: Duration = Duration::from_secs(1);

/// What `restore_command` knows of the recovery.
#[derive(Clone, Copy, Debug)]
pub struct Recovery {
    /// How the server recovers.
    pub mode: RecoveryMode,
    /// Whether it has a target.
    pub target: TargetRule,
    /// The timeline that it is on the way to.
    pub timeline: Option<TimelineId>,
}

/// Restores the file `name` (`%f`) as `destination` (`%p`, relative to `working_directory`, the data directory).
///
/// When this returns without an error, `destination` holds exactly the bytes that were archived; otherwise it was not
/// touched. It is not synced to disk: PostgreSQL does that when it keeps the file.
///
/// # Errors
/// [`ErrorKind::Absent`](crate::error::ErrorKind::Absent) only when the repository has said that it does not hold the
/// file and no rule of recovery forbids to believe that this is its end; or when PostgreSQL does not need it.
pub fn restore(
    config: &Config,
    name: &str,
    destination: &Path,
    working_directory: &Path,
    recovery: Recovery,
    disk: &dyn Disk,
) -> Result<()> {
    let name: WalFileName = name.parse()?;
    let what = || format!("could not restore {name}");
    let destination = working_directory.join(destination);
    let data_directory =
        DataDirectory::open(&config.data_directory).context(what)?.assuming(config.assumed_version);
    if !data_directory.is(&data_directory_of(&destination)) {
        return Err(Error::usage(format!(
            "\"{}\" does not lie in the configured data directory \"{}\"",
            destination.display(),
            config.data_directory.display()
        ))
        .hint("PostgreSQL calls archive-get in its data directory; data_directory must be that of the same server.")
        .context(what()));
    }
    if name == WalFileName::History(TimelineId::FIRST) {
        return Err(Error::absent("timeline 1 has no history file"));
    }
    if recovery_has_ended(&data_directory, name) {
        return Err(Error::absent(format!(
            "PostgreSQL has its own {name}, and asks after the end of recovery"
        )));
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
        name,
        mode: recovery.mode,
        target: recovery.target,
        timeline: recovery.timeline,
        // The startup process asks for a file after the other under one of two names; pg_rewind asks for one.
        prefetch: destination.file_name() == Some(OsStr::new("RECOVERYXLOG")),
        deadline: limit,
    });
    let deadline = Instant::now() + limit + GRACE;
    loop {
        let conversation =
            spool::ask(config, &request, Patience::UntilDeadline, &mut Until(deadline)).context(what)?;
        match &conversation.answer {
            Answer::Fetched(fetched)
                if place(disk, fetched, &destination).context(what)? == Placed::Whole =>
            {
                return Ok(());
            }
            // The agent died and another has cleared its spool: the file was only lent.
            Answer::Fetched(_) if Instant::now() < deadline => {}
            Answer::Fetched(_) => {
                return Err(
                    Error::unavailable("what the agent fetched is gone again and again").context(what())
                );
            }
            Answer::Failed(error) => return Err(error.replica()).context(what),
            other => {
                return Err(
                    Error::unavailable(format!("the agent gave a strange answer: {other:?}")).context(what())
                );
            }
        }
    }
}

/// Whether a running server asks for this history file after it has ended recovery, and has it in `pg_wal`.
///
/// When it has removed its signal file, PostgreSQL asks for the history of the timeline that it leaves, and takes its
/// own copy where the archive has none; histories never change. To fail here, because the repository is away, would
/// stop a promotion half-way: the server would start again without recovery, and go on writing on the old timeline.
/// Source: PostgreSQL `access/transam/timeline.c`, `writeTimeLineHistory`.
fn recovery_has_ended(data_directory: &DataDirectory, name: WalFileName) -> bool {
    let has = |file: &str| data_directory.path().join(file).exists();
    matches!(name, WalFileName::History(_))
        && !has("recovery.signal")
        && !has("standby.signal")
        && has(&format!("pg_wal/{name}"))
        && data_directory.server_process_id().is_some()
}

/// Whether a lent file has reached its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placed {
    Whole,
    /// There is no such file any more, and nothing was done.
    Gone,
}

/// Gives the fetched file its final name: by renaming it, or by a copy where the spool is on another file system.
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
