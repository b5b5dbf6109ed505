//! PostgreSQL's `BASE_BACKUP`: the command, and the parts of its answer one after the other.
//!
//! Every archive is a stream of its own, or there is one stream, whose messages say what they are: see [`BaseBackupForm`].
//! Source: PostgreSQL's manual, "Streaming Replication Protocol"; `backup/basebackup_copy.c` (13, 14:
//! `replication/basebackup.c`).

use crate::config::Checkpoint;
use crate::error::{Error, Result};
use crate::postgres::version_facts::BaseBackupForm;
use crate::postgres::{Lsn, MajorVersion, TimelineId};
use crate::repository::backup::Label;
use crate::server::{Incoming, ReplicationConnection, Row, Watch};
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{self, Read};
use tokio_postgres::error::SqlState;

/// A base backup that the server is sending.
pub struct BaseBackup<'a> {
    connection: &'a mut ReplicationConnection,
    watch: &'a Watch<'a>,
    framing: Framing,
    /// The part that begins next, if that is known already.
    next: Option<Part>,
    /// What of the current part was received and not yet read.
    chunk: Bytes,
    in_part: bool,
    /// Whether the one stream of messages has ended.
    ended: bool,
    warnings: Vec<String>,
}

/// How the parts are told apart.
enum Framing {
    /// By the streams: one for each of these, then one for the manifest.
    Streams(VecDeque<Part>),
    /// By messages within one stream.
    Messages,
}

/// A part of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The archive of the data directory.
    DataDirectory,
    /// The archive of a tablespace, and where that lies; a relative path: in the data directory, in place of a link.
    Tablespace(u32, String),
    /// The server's backup manifest.
    Manifest,
}

/// A position that the server named.
#[derive(Clone, Copy, Debug)]
pub struct NamedPosition {
    /// The position.
    pub lsn: Lsn,
    /// Its timeline.
    pub timeline: TimelineId,
}

/// What the server says before it sends.
pub struct Announcement {
    /// The start point.
    pub start: NamedPosition,
    /// How much will come, in bytes: an estimate, of all files even where only what changed comes.
    pub bytes: u64,
    framing: Framing,
    next: Option<Part>,
    warnings: Vec<String>,
}

/// How much is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    Full,
    /// What changed since the backup whose manifest was uploaded.
    Incremental,
}

/// How the server answers.
pub enum Answer {
    /// It begins.
    Begins(Announcement),
    /// Its state does not allow such a backup; the connection can be used further.
    Refused(Error),
}

/// How it ended.
#[derive(Debug)]
pub struct Ending {
    /// The position after the last WAL that is needed.
    pub stop: NamedPosition,
    /// Whether the server has found pages whose checksums do not hold.
    pub pages_are_damaged: bool,
    /// What it warned of.
    pub warnings: Vec<String>,
}

/// The command.
fn command(version: MajorVersion, label: &Label, checkpoint: Checkpoint, extent: Extent) -> String {
    // Labels need no quoting. The WAL is waited for in the repository itself, which the server knows nothing of.
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
    /// Has the server begin; may take as long as a checkpoint does.
    ///
    /// # Errors
    /// The server's own, here and in the other functions.
    pub fn ask_for(
        connection: &mut ReplicationConnection,
        version: MajorVersion,
        label: &Label,
        checkpoint: Checkpoint,
        extent: Extent,
        watch: &Watch<'_>,
    ) -> Result<Answer> {
        connection.send(&command(version, label, checkpoint, extent))?;
        let mut warnings = Vec::new();
        let mut sets: Vec<Vec<Row>> = Vec::new();
        loop {
            match connection.receive(watch)? {
                Incoming::Columns => sets.push(Vec::new()),
                Incoming::Row(row) => sets.last_mut().ok_or_else(strange)?.push(row),
                Incoming::Warning(warning) => warnings.push(warning),
                Incoming::Failed(code, error)
                    if extent == Extent::Incremental
                        && code == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE =>
                {
                    while !matches!(connection.receive(watch)?, Incoming::Ready) {}
                    return Ok(Answer::Refused(error));
                }
                Incoming::Failed(_, error) => return Err(error),
                Incoming::CopyBegins => break,
                _ => return Err(strange()),
            }
        }
        let [start, archives] = sets.as_slice() else { return Err(strange()) };
        let start = position(start)?;
        let mut parts = VecDeque::new();
        let mut kibibytes = 0_u64;
        for row in archives {
            parts.push_back(match row.optional(0) {
                None => Part::DataDirectory,
                Some(_) => Part::Tablespace(row.parsed(0)?, row.text(1)?.to_owned()),
            });
            kibibytes += row.optional(2).and_then(|size| size.parse::<u64>().ok()).unwrap_or_default();
        }
        parts.push_back(Part::Manifest);
        let (framing, next) = match version.facts().base_backup {
            BaseBackupForm::Options => (Framing::Messages, None),
            BaseBackupForm::Words => {
                let next = parts.pop_front();
                (Framing::Streams(parts), next)
            }
        };
        let bytes = kibibytes.saturating_mul(1024);
        Ok(Answer::Begins(Announcement { start, bytes, framing, next, warnings }))
    }
}

impl<'a> BaseBackup<'a> {
    /// The backup that was announced on this connection.
    pub fn receive(
        connection: &'a mut ReplicationConnection,
        announced: Announcement,
        watch: &'a Watch<'a>,
    ) -> BaseBackup<'a> {
        let Announcement { framing, next, warnings, .. } = announced;
        BaseBackup {
            connection,
            watch,
            framing,
            next,
            chunk: Bytes::new(),
            in_part: false,
            ended: false,
            warnings,
        }
    }

    /// Passes over what is left of the current part, and goes to the next one; `None` after the last.
    ///
    /// # Errors
    /// As [`Announcement::ask_for`].
    pub fn next_part(&mut self) -> Result<Option<Part>> {
        while self.in_part && self.fill()? {
            self.chunk.clear();
        }
        if self.next.is_none() && matches!(self.framing, Framing::Messages) && !self.ended {
            // The first message says which part it begins.
            self.fill()?;
        }
        let next = self.next.take();
        self.in_part = next.is_some();
        Ok(next)
    }

    /// Receives how the backup ended; every part was read.
    ///
    /// # Errors
    /// As [`Announcement::ask_for`].
    pub fn end(mut self) -> Result<Ending> {
        let mut rows = Vec::new();
        let mut pages_are_damaged = false;
        loop {
            match self.connection.receive(self.watch)? {
                Incoming::Row(row) => rows.push(row),
                Incoming::Warning(warning) => self.warnings.push(warning),
                // It has sent all, and then says that some of it was damaged before.
                Incoming::Failed(code, _) if code == SqlState::DATA_CORRUPTED && !rows.is_empty() => {
                    pages_are_damaged = true;
                }
                Incoming::Failed(_, error) => return Err(error),
                Incoming::Ready => break,
                Incoming::Columns => {}
                _ => return Err(strange()),
            }
        }
        Ok(Ending { stop: position(&rows)?, pages_are_damaged, warnings: self.warnings })
    }

    /// Receives more of the current part; whether there is some. What begins another part is kept for
    /// [`BaseBackup::next_part`].
    fn fill(&mut self) -> Result<bool> {
        while self.chunk.is_empty() {
            if self.next.is_some() {
                return Ok(false);
            }
            let data = match self.connection.receive(self.watch)? {
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
                _ => return Err(strange()),
            };
            match self.framing {
                Framing::Streams(_) => self.chunk = data,
                Framing::Messages => self.take_message(data)?,
            }
        }
        Ok(true)
    }

    fn take_message(&mut self, mut message: Bytes) -> Result<()> {
        let kind = message.first().copied().ok_or_else(strange)?;
        message.advance(1);
        match kind {
            b'd' => self.chunk = message,
            b'm' => self.next = Some(Part::Manifest),
            // An archive's name and where its directory lies, each ended by a NUL.
            b'n' => {
                let mut fields = message.split(|byte| *byte == 0);
                let name = String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
                let location = String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
                self.next = Some(match name.strip_suffix(".tar").map(str::parse::<u32>) {
                    _ if name == "base.tar" => Part::DataDirectory,
                    Some(Ok(oid)) => Part::Tablespace(oid, location),
                    _ => return Err(strange()),
                });
            }
            // How far it is: we count ourselves.
            b'p' => {}
            _ => return Err(strange()),
        }
        Ok(())
    }
}

impl Read for BaseBackup<'_> {
    /// Reads from the current part, to its end.
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
    let row = rows.first().ok_or_else(strange)?;
    Ok(NamedPosition { lsn: row.parsed(0)?, timeline: row.parsed(1)? })
}

fn strange() -> Error {
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
