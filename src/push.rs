//! What `archive-push` does: ask the agent to store one WAL file, and wait for its verdict.

use crate::config::Config;
use crate::data_directory::{DataDirectory, lies_in_pg_wal};
use crate::error::{Context, Error, Result};
use crate::postgres::{ControlFile, WalFileName};
use crate::spool::{self, Answer, Patience, PushRequest, Request};
use std::path::{Component, Path};
use std::time::Instant;

/// Archives the file at `path`, which is `%p` of `archive_command`: relative to `working_directory`, the data directory.
///
/// When this returns without an error, the file is durable in the repository and its checksum was confirmed there.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for a call that PostgreSQL would not make, the agent's verdict,
/// and [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) after `push.deadline_s`.
pub fn archive(config: &Config, path: &Path, working_directory: &Path) -> Result<()> {
    let deadline = Instant::now() + config.push.deadline;
    let name = wal_file_name(path)?;
    let what = || format!("could not archive {name}");
    let data_directory =
        DataDirectory::open(&config.data_directory).context(what)?.assuming(config.assumed_version);
    let path = working_directory.join(path);
    if !data_directory.is(&crate::data_directory::data_directory_of(&path)) {
        return Err(Error::usage(format!(
            "\"{}\" does not lie in the configured data directory \"{}\"",
            path.display(),
            config.data_directory.display()
        ))
        .hint("PostgreSQL calls archive-push in its data directory; data_directory must be that of the same server.")
        .context(what()));
    }
    let control = data_directory.control_file().context(what)?;
    check_finished(&data_directory, &control, name).context(what)?;
    let request = Request::Push(PushRequest {
        system: control.system,
        segment_size: control.segment_size,
        version: control.known_version(),
        name,
        path,
    });
    let conversation = spool::ask(config, &request, deadline, Patience::Brief).context(what)?;
    match conversation.answer {
        Answer::Stored => Ok(()),
        Answer::Failed(error) => Err(error).context(what),
        other => {
            Err(Error::unavailable(format!("the agent gave a strange answer: {other:?}")).context(what()))
        }
    }
}

/// Refuses the segment that a running server writes to, which it marks neither as ready nor as done: stored as it is now, it
/// would keep the complete one out for ever. PostgreSQL itself only passes what it has marked. A segment below the last
/// checkpoint is not written to any more: the operator puts a lost one back.
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
    Err(Error::usage("the server runs and has not marked this segment as complete").hint(
        "It may still write to it. SELECT pg_switch_wal() ends the segment that is being written; PostgreSQL then archives it \
         by itself.",
    ))
}

/// The name that `%p` ends in.
fn wal_file_name(path: &Path) -> Result<WalFileName> {
    let shown = path.display();
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Error::usage(format!("the path \"{shown}\" leads through \"..\""))
            .hint("PostgreSQL passes paths like pg_wal/000000010000000000000001."));
    }
    let name: WalFileName = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| Error::usage(format!("the path \"{shown}\" names no WAL file")))?
        .parse()?;
    if !name.is_of_postgresql() {
        return Err(Error::usage(format!("\"{name}\" is not the name of a file that PostgreSQL archives"))
            .hint(
                "pgark gives such names to partial segments that differ from one that is stored already.",
            ));
    }
    if path.parent().is_none_or(|parent| parent.as_os_str().is_empty()) {
        return Err(Error::usage(format!("\"{shown}\" is a name, not a path"))
            .hint("archive_command needs %p, not %f: archive_command = 'archive-push %p'."));
    }
    if !lies_in_pg_wal(path) {
        return Err(Error::usage(format!("the path \"{shown}\" does not lead into pg_wal"))
            .hint("PostgreSQL passes paths like pg_wal/000000010000000000000001."));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

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
