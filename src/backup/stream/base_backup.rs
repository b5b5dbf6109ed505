//! PostgreSQL's `BASE_BACKUP`: sends the command and reads the parts of its response in sequence.
//!
//! Each archive is a COPY stream of its own, or all are messages of a single stream: see [`BaseBackupForm`]. Source:
//! PostgreSQL's manual, "Streaming Replication Protocol"; `backup/basebackup_copy.c` (13, 14:
//! `replication/basebackup.c`).

use crate::config::Checkpoint;
use crate::error::{Error, Result};
use crate::interruption::Interruption;
use crate::postgres::version::facts::BaseBackupForm;
use crate::postgres::{Lsn, MajorVersion, Oid, TimelineId};
use crate::repository::backup::Label;
use crate::server::{Incoming, ReplicationConnection, Row};
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{self, Read};
use tokio_postgres::error::SqlState;

/// A base backup in transmission.
pub struct BaseBackup<'a> {
    connection: &'a mut ReplicationConnection,
    interruption: &'a Interruption<'a>,
    framing: Framing,
    /// The next part, if it is already known.
    next: Option<BaseBackupPart>,
    /// Received but unread data of the current part.
    chunk: Bytes,
    in_part: bool,
    /// Whether the single stream of messages has ended.
    ended: bool,
    warnings: Vec<String>,
}

/// How parts are delimited.
enum Framing {
    /// By stream: one for each of these parts, the manifest last.
    Streams(VecDeque<BaseBackupPart>),
    /// By messages within a single stream.
    Messages,
}

/// A part of the response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseBackupPart {
    /// The archive of the data directory.
    DataDirectory,
    /// The archive of a tablespace, with its location. A relative path denotes an in-place tablespace in the data
    /// directory.
    Tablespace(Oid, String),
    /// The server's backup manifest.
    Manifest,
}

/// A position reported by the server.
#[derive(Clone, Copy, Debug)]
pub struct NamedPosition {
    /// The position.
    pub lsn: Lsn,
    /// Its timeline.
    pub timeline: TimelineId,
}

/// The server's announcement before the data.
pub struct Announcement {
    /// The start point.
    pub start: NamedPosition,
    /// Estimated size of the data, in bytes. Covers all files, even if only changes are sent.
    pub bytes: u64,
    framing: Framing,
    next: Option<BaseBackupPart>,
    warnings: Vec<String>,
}

/// Extent of the requested backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All files.
    Full,
    /// Changes since the backup whose manifest was uploaded.
    Incremental,
}

/// The server's response to the command.
pub enum BackupResponse {
    /// The backup has begun.
    Begins(Announcement),
    /// The server's state does not allow such a backup; the connection remains usable.
    Refused(Error),
}

/// The end of a backup.
#[derive(Debug)]
pub struct Ending {
    /// The position after the last WAL that is needed.
    pub stop: NamedPosition,
    /// Whether the server found pages with wrong checksums.
    pub pages_are_damaged: bool,
    /// The warnings that it sent.
    pub warnings: Vec<String>,
}

/// Builds the command.
fn command(version: MajorVersion, label: &Label, checkpoint: Checkpoint, extent: Extent) -> String {
    // Labels need no quoting. The server does not wait for archiving, because pgark waits for the WAL in the
    // repository.
    if version.facts().base_backup == BaseBackupForm::Options {
        let checkpoint = match checkpoint {
            Checkpoint::Fast => "fast",
            Checkpoint::Spread => "spread",
        };
        let incremental = match extent {
            Extent::Full => "",
            Extent::Incremental => ", INCREMENTAL true",
        };
        return format!(
            "BASE_BACKUP (LABEL '{label}', PROGRESS true, CHECKPOINT '{checkpoint}', WAL false, WAIT false, \
             TABLESPACE_MAP true, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C'{incremental})"
        );
    }
    let fast = match checkpoint {
        Checkpoint::Fast => "FAST ",
        Checkpoint::Spread => "",
    };
    format!(
        "BASE_BACKUP LABEL '{label}' PROGRESS {fast}NOWAIT TABLESPACE_MAP MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'"
    )
}

impl Announcement {
    /// Starts the backup; may take as long as a checkpoint.
    ///
    /// # Errors
    /// Those of the server, as in the other functions.
    pub fn ask_for(
        connection: &mut ReplicationConnection,
        version: MajorVersion,
        label: &Label,
        checkpoint: Checkpoint,
        extent: Extent,
        interruption: &Interruption<'_>,
    ) -> Result<BackupResponse> {
        connection.send(&command(version, label, checkpoint, extent))?;
        let mut warnings = Vec::new();
        let mut sets: Vec<Vec<Row>> = Vec::new();
        loop {
            match connection.receive(interruption)? {
                Incoming::Columns => sets.push(Vec::new()),
                Incoming::Row(row) => sets.last_mut().ok_or_else(unexpected_response)?.push(row),
                Incoming::Warning(warning) => warnings.push(warning),
                Incoming::Failed(code, error)
                    if extent == Extent::Incremental
                        && code == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE =>
                {
                    while !matches!(connection.receive(interruption)?, Incoming::Ready) {}
                    return Ok(BackupResponse::Refused(error));
                }
                Incoming::Failed(_, error) => return Err(error),
                Incoming::CopyBegins => break,
                _ => return Err(unexpected_response()),
            }
        }
        let [start, archives] = sets.as_slice() else { return Err(unexpected_response()) };
        let start = position(start)?;
        let mut parts = VecDeque::new();
        let mut kibibytes = 0_u64;
        for row in archives {
            parts.push_back(match row.optional(0) {
                None => BaseBackupPart::DataDirectory,
                Some(_) => BaseBackupPart::Tablespace(row.parsed(0)?, row.text(1)?.to_owned()),
            });
            kibibytes += row.optional(2).and_then(|size| size.parse::<u64>().ok()).unwrap_or_default();
        }
        parts.push_back(BaseBackupPart::Manifest);
        let (framing, next) = match version.facts().base_backup {
            BaseBackupForm::Options => (Framing::Messages, None),
            BaseBackupForm::Words => {
                let next = parts.pop_front();
                (Framing::Streams(parts), next)
            }
        };
        let bytes = kibibytes.saturating_mul(1024);
        Ok(BackupResponse::Begins(Announcement { start, bytes, framing, next, warnings }))
    }
}

impl<'a> BaseBackup<'a> {
    /// Receives the backup that was announced on this connection.
    pub fn receive(
        connection: &'a mut ReplicationConnection,
        announced: Announcement,
        interruption: &'a Interruption<'a>,
    ) -> BaseBackup<'a> {
        let Announcement { framing, next, warnings, .. } = announced;
        BaseBackup {
            connection,
            interruption,
            framing,
            next,
            chunk: Bytes::new(),
            in_part: false,
            ended: false,
            warnings,
        }
    }

    /// Skips the rest of the current part and moves to the next one; `None` after the last.
    ///
    /// # Errors
    /// Those of [`Announcement::ask_for`].
    pub fn next_part(&mut self) -> Result<Option<BaseBackupPart>> {
        while self.in_part && self.fill()? {
            self.chunk.clear();
        }
        if self.next.is_none() && matches!(self.framing, Framing::Messages) && !self.ended {
            // The first message names the part that it begins.
            self.fill()?;
        }
        let next = self.next.take();
        self.in_part = next.is_some();
        Ok(next)
    }

    /// Receives the end of the backup, after all parts have been read.
    ///
    /// # Errors
    /// Those of [`Announcement::ask_for`].
    pub fn end(mut self) -> Result<Ending> {
        let mut rows = Vec::new();
        let mut pages_are_damaged = false;
        loop {
            match self.connection.receive(self.interruption)? {
                Incoming::Row(row) => rows.push(row),
                Incoming::Warning(warning) => self.warnings.push(warning),
                // The server sends everything before it reports damaged pages.
                Incoming::Failed(code, _) if code == SqlState::DATA_CORRUPTED && !rows.is_empty() => {
                    pages_are_damaged = true;
                }
                Incoming::Failed(_, error) => return Err(error),
                Incoming::Ready => break,
                Incoming::Columns => {}
                _ => return Err(unexpected_response()),
            }
        }
        Ok(Ending { stop: position(&rows)?, pages_are_damaged, warnings: self.warnings })
    }

    /// Receives more of the current part; returns whether there is more. Remembers the beginning of another part for
    /// [`BaseBackup::next_part`].
    fn fill(&mut self) -> Result<bool> {
        while self.chunk.is_empty() {
            if self.next.is_some() {
                return Ok(false);
            }
            let data = match self.connection.receive(self.interruption)? {
                Incoming::Data(data) => data,
                Incoming::Warning(warning) => {
                    self.warnings.push(warning);
                    continue;
                }
                Incoming::Failed(_, error) => return Err(error),
                Incoming::CopyBegins => continue,
                Incoming::CopyEnds => {
                    match &mut self.framing {
                        Framing::Streams(parts) => self.next = parts.pop_front(),
                        Framing::Messages => self.ended = true,
                    }
                    self.in_part = false;
                    return Ok(false);
                }
                _ => return Err(unexpected_response()),
            };
            match self.framing {
                Framing::Streams(_) => self.chunk = data,
                Framing::Messages => self.take_message(data)?,
            }
        }
        Ok(true)
    }

    fn take_message(&mut self, mut message: Bytes) -> Result<()> {
        let kind = message.first().copied().ok_or_else(unexpected_response)?;
        message.advance(1);
        match kind {
            b'd' => self.chunk = message,
            b'm' => self.next = Some(BaseBackupPart::Manifest),
            // The name of an archive and the location of its directory, each terminated by a NUL.
            b'n' => {
                let mut fields = message.split(|byte| *byte == 0);
                let name = String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
                let location = String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
                self.next = Some(match name.strip_suffix(".tar").map(str::parse::<Oid>) {
                    _ if name == "base.tar" => BaseBackupPart::DataDirectory,
                    Some(Ok(oid)) => BaseBackupPart::Tablespace(oid, location),
                    _ => return Err(unexpected_response()),
                });
            }
            // The server's progress; pgark counts the received bytes itself.
            b'p' => {}
            _ => return Err(unexpected_response()),
        }
        Ok(())
    }
}

impl Read for BaseBackup<'_> {
    /// Reads up to the end of the current part.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.in_part || !self.fill().map_err(io::Error::other)? {
            return Ok(0);
        }
        let length = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(buffer.get_mut(..length).unwrap_or_default());
        Ok(length)
    }
}

fn position(rows: &[Row]) -> Result<NamedPosition> {
    let row = rows.first().ok_or_else(unexpected_response)?;
    Ok(NamedPosition { lsn: row.parsed(0)?, timeline: row.parsed(1)? })
}

fn unexpected_response() -> Error {
    Error::unavailable("unexpected response to BASE_BACKUP from the server")
        .hint("Check that it is a PostgreSQL server, and not a pooler.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_that_of_the_version() {
        let label: Label = "20260115T143000Z".parse().unwrap();
        let new = command(MajorVersion::V15, &label, Checkpoint::Spread, Extent::Full);
        assert!(new.starts_with(
            "BASE_BACKUP (LABEL '20260115T143000Z', PROGRESS true, CHECKPOINT 'spread', WAL false"
        ));
        assert!(new.ends_with("MANIFEST_CHECKSUMS 'CRC32C')"));
        let changes = command(MajorVersion::V17, &label, Checkpoint::Spread, Extent::Incremental);
        assert!(changes.ends_with("MANIFEST_CHECKSUMS 'CRC32C', INCREMENTAL true)"));
        let old = command(MajorVersion::V14, &label, Checkpoint::Fast, Extent::Full);
        assert!(old.starts_with("BASE_BACKUP LABEL '20260115T143000Z' PROGRESS FAST NOWAIT TABLESPACE_MAP"));
    }
}
