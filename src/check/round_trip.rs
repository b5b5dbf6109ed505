//! The round trip of a WAL segment into the repository and back.

use super::Finding;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::interruption::Interruption;
use crate::postgres::{ControlFile, SegmentName, WalFileName};
use crate::repository::{Repository, wal};
use crate::server::Connection;
use std::io;
use std::time::{Duration, Instant};

const WHAT: &str = "round trip";
/// How often the repository is polled.
const LOOK: Duration = Duration::from_millis(100);

/// Switches to a new segment and returns the name of the completed one. A restore point ensures that it is not empty.
const SWITCH: &str = "SELECT pg_walfile_name(pg_switch_wal()) FROM pg_create_restore_point('pgark check')";
const LAST_ARCHIVED: &str =
    "SELECT last_archived_wal FROM pg_stat_archiver WHERE last_archived_wal ~ '^[0-9A-F]{24}$'";
/// The last archived file, and the file that the archiver has failed to archive since then.
pub const ARCHIVER: &str = "SELECT last_archived_wal, CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity') \
     THEN last_failed_wal END FROM pg_stat_archiver";
const CAN_ARCHIVE: &str = "SELECT NOT pg_is_in_recovery() AND current_setting('archive_mode') <> 'off'";

/// Makes the server switch to a new segment, waits for the completed one, and reads it back. Without the permission to
/// switch, reads the last archived segment back.
///
/// # Errors
/// If the segment does not arrive or cannot be read back.
pub fn travel(
    config: &Config,
    control: &ControlFile,
    repository: &Repository,
    connection: &Connection,
    interruption: &Interruption<'_>,
) -> Result<Finding> {
    if !connection.query_row("ask whether the server archives", CAN_ARCHIVE, interruption)?.is_true(0) {
        return Ok(Finding::warning(
            WHAT,
            "not tried: the server does not archive now",
            "The findings above show the reason.",
        ));
    }
    let began = Instant::now();
    let (name, switched) = match connection.query_row("switch to a new WAL segment", SWITCH, interruption) {
        Ok(row) => (row.parsed::<SegmentName>(0)?, true),
        // The connection's user lacks the permission.
        Err(error) if error.kind() == ErrorKind::Usage => match last_archived(connection, interruption)? {
            Some(name) => (name, false),
            None => {
                return Ok(Finding::warning(
                    WHAT,
                    format!("not tried: {error}"),
                    "Run the check as a superuser.",
                ));
            }
        },
        Err(error) => return Err(error),
    };
    wait_for(config, repository, name, interruption)?;
    if switched {
        wait_for_archiver(config, connection, name, interruption)?;
    }
    let arrived = began.elapsed();
    let fetched =
        wal::fetch(repository, WalFileName::Segment(name), Some(control.segment_size), &mut io::sink())?
            .ok_or_else(|| Error::unavailable(format!("{name} has disappeared from the repository")))?;
    let way = if switched {
        format!("archived in {} ms", arrived.as_millis())
    } else {
        "archived before".to_owned()
    };
    Ok(Finding::passed(
        WHAT,
        format!("{name} was {way}, and read back completely ({} bytes)", fetched.sum.length_bytes),
    ))
}

/// Waits until PostgreSQL itself records the segment as archived: the agent stores ready segments before any request.
fn wait_for_archiver(
    config: &Config,
    connection: &Connection,
    name: SegmentName,
    interruption: &Interruption<'_>,
) -> Result<()> {
    let deadline = Instant::now() + config.push.deadline;
    let name = name.to_string();
    loop {
        let row = connection.query_row("ask for the state of the archiver", ARCHIVER, interruption)?;
        if row.optional(0).is_some_and(|last| *last >= *name) {
            return Ok(());
        }
        let failed = row.optional(1) == Some(&name);
        if failed || Instant::now() >= deadline {
            let what = if failed { "fails at" } else { "has not been called for" };
            return Err(Error::unavailable(format!(
                "PostgreSQL's archive_command {what} {name}, although it is stored"
            ))
            .hint("See the errors of the command in the server's log. Check its program, its --config and its user."));
        }
        interruption.sleep(LOOK)?;
    }
}

fn last_archived(connection: &Connection, interruption: &Interruption<'_>) -> Result<Option<SegmentName>> {
    let rows = connection.query("ask for the last archived segment", LAST_ARCHIVED, interruption)?;
    rows.first().map(|row| row.parsed(0)).transpose()
}

fn wait_for(
    config: &Config,
    repository: &Repository,
    name: SegmentName,
    interruption: &Interruption<'_>,
) -> Result<()> {
    let key = repository.layout().segment(name)?;
    let deadline = Instant::now() + config.push.deadline;
    while repository.store().stat(&key)?.is_none() {
        if Instant::now() >= deadline {
            return Err(Error::unavailable(format!(
                "{name} did not reach the repository within {} s",
                config.push.deadline.as_secs()
            ))
            .hint("See the errors of archive-push in the server's log, and the state of the agent with pgark status."));
        }
        interruption.sleep(LOOK)?;
    }
    Ok(())
}
