//! `backup_label` and the backup history file: the start of a base backup and, in the latter, its end.
//!
//! Owns: parsing both files, and the two lines that mark an incremental backup. Does not own: writing a label; the
//! server does.

use crate::error::{Error, Result};
use crate::postgres::value::lsn::Lsn;
use crate::postgres::value::timeline::TimelineId;
use crate::postgres::wal::file_name::SegmentName;

/// Upper limit for the size of a label file, in bytes. The server writes a few hundred, plus a label of at most 1024.
pub const BACKUP_LABEL_BYTES_MAX: usize = 16 << 10;

/// The content of `backup_label`.
///
/// Text form: a line `KEY: value` for each field. Source: PostgreSQL `access/transam/xlogbackup.c`,
/// `build_backup_content`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    /// The position at which replay must begin.
    pub start_point: Lsn,
    /// The segment that holds the start point.
    pub start_segment: SegmentName,
    /// The position of the checkpoint record.
    pub checkpoint: Lsn,
    /// How the copy was made.
    pub method: BackupMethod,
    /// The kind of server from which it was taken.
    pub source: BackupSource,
    /// The start time in `log_timezone`, for display.
    pub start_time: String,
    /// The label of the backup; bytes that are not UTF-8 are replaced.
    pub label: String,
    /// The timeline of the start point.
    pub start_timeline: TimelineId,
    /// The start point of the parent; only for an incremental backup.
    pub incremental_from: Option<IncrementalFrom>,
}

/// The content of the backup history file `<segment>.<offset>.backup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupHistory {
    /// The fields that it shares with `backup_label`.
    pub label: BackupLabel,
    /// The position after the record that ends the backup; recovery must reach it.
    pub stop_point: Lsn,
    /// The segment of the stop point.
    pub stop_segment: SegmentName,
    /// The end time in `log_timezone`, for display.
    pub stop_time: String,
    /// The timeline of the stop point.
    pub stop_timeline: TimelineId,
}

/// The start point of an incremental backup's parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncrementalFrom {
    /// The position at which replay of the parent begins.
    pub start_point: Lsn,
    /// The timeline of that position.
    pub timeline: TimelineId,
}

/// How a copy of a data directory was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupMethod {
    /// Copied while the server ran: recovery must reach the end of the backup.
    Streamed,
    /// Left behind by `pg_rewind`.
    PgRewind,
}

/// The kind of server from which a backup was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupSource {
    /// A server in production.
    Primary,
    /// A server in recovery: there is no end record, and `pg_control` must be copied last.
    Standby,
}

const INCREMENTAL_LSN: &str = "INCREMENTAL FROM LSN";
const INCREMENTAL_TIMELINE: &str = "INCREMENTAL FROM TLI";

impl BackupLabel {
    /// Parses the content of `backup_label`.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if a field is missing, duplicate (a label that contains
    /// a line feed can forge one), contradicts another, or has a value that no server writes. Ignores unknown fields.
    pub fn parse(content: &[u8]) -> Result<BackupLabel> {
        LabelFields::split("backup_label", content)?.label()
    }
}

impl BackupHistory {
    /// Parses the content of a backup history file; errors as for [`BackupLabel::parse`].
    pub fn parse(content: &[u8]) -> Result<BackupHistory> {
        let fields = LabelFields::split("backup history file", content)?;
        let (stop_point, stop_segment) = fields.location("STOP WAL LOCATION")?;
        let stop_timeline = fields.parsed("STOP TIMELINE")?;
        let label = fields.label()?;
        if stop_point < label.start_point || stop_segment.timeline() != stop_timeline {
            return Err(fields.damaged("its stop point contradicts the rest"));
        }
        let stop_time = fields.required("STOP TIME")?.to_owned();
        Ok(BackupHistory { label, stop_point, stop_segment, stop_time, stop_timeline })
    }
}

/// Turns the content of a `backup_label` into that of an incremental backup, in the form that version 17 and later
/// write.
pub fn with_incremental_from(label: &[u8], parent: IncrementalFrom) -> Vec<u8> {
    let mut content = without_incremental_from(label);
    let lines =
        format!("{INCREMENTAL_LSN}: {}\n{INCREMENTAL_TIMELINE}: {}\n", parent.start_point, parent.timeline);
    content.extend_from_slice(lines.as_bytes());
    content
}

/// Removes the lines that mark an incremental backup from a `backup_label`. The server refuses to start from a marked
/// label, because the files are not complete until they have been combined.
pub fn without_incremental_from(label: &[u8]) -> Vec<u8> {
    let marks = |line: &&[u8]| {
        !line.starts_with(INCREMENTAL_LSN.as_bytes()) && !line.starts_with(INCREMENTAL_TIMELINE.as_bytes())
    };
    label.split_inclusive(|byte| *byte == b'\n').filter(marks).collect::<Vec<_>>().concat()
}

/// The lines of a file as keys and values.
struct LabelFields {
    file: &'static str,
    lines: Vec<(String, String)>,
}

impl LabelFields {
    fn split(file: &'static str, content: &[u8]) -> Result<LabelFields> {
        if content.len() > BACKUP_LABEL_BYTES_MAX {
            return Err(Error::damaged(format!("{file} has {} bytes", content.len())));
        }
        let lines = String::from_utf8_lossy(content)
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Ok(LabelFields { file, lines })
    }

    fn label(&self) -> Result<BackupLabel> {
        let (start_point, start_segment) = self.location("START WAL LOCATION")?;
        let start_timeline = self.parsed("START TIMELINE")?;
        let checkpoint = self.parsed("CHECKPOINT LOCATION")?;
        if start_segment.timeline() != start_timeline || checkpoint < start_point {
            return Err(self.damaged("its start point contradicts the rest"));
        }
        let method = match self.required("BACKUP METHOD")? {
            "streamed" => BackupMethod::Streamed,
            "pg_rewind" => BackupMethod::PgRewind,
            other => return Err(self.damaged(&format!("the backup method \"{other}\" is unknown"))),
        };
        let source = match self.required("BACKUP FROM")? {
            "primary" | "master" => BackupSource::Primary,
            "standby" => BackupSource::Standby,
            other => return Err(self.damaged(&format!("a backup from \"{other}\" is unknown"))),
        };
        let incremental_from = match (self.value(INCREMENTAL_LSN)?, self.value(INCREMENTAL_TIMELINE)?) {
            (None, None) => None,
            _ => Some(IncrementalFrom {
                start_point: self.parsed(INCREMENTAL_LSN)?,
                timeline: self.parsed(INCREMENTAL_TIMELINE)?,
            }),
        };
        Ok(BackupLabel {
            start_point,
            start_segment,
            checkpoint,
            method,
            source,
            start_time: self.required("START TIME")?.to_owned(),
            label: self.value("LABEL")?.unwrap_or_default().to_owned(),
            start_timeline,
            incremental_from,
        })
    }

    /// Parses a value such as `0/3000028 (file 000000010000000000000003)`.
    fn location(&self, key: &str) -> Result<(Lsn, SegmentName)> {
        self.required(key)?
            .strip_suffix(')')
            .and_then(|value| value.split_once(" (file "))
            .and_then(|(position, segment)| Some((position.parse().ok()?, segment.parse().ok()?)))
            .ok_or_else(|| self.damaged(&format!("its {key} is invalid")))
    }

    fn parsed<T: std::str::FromStr>(&self, key: &str) -> Result<T> {
        self.required(key)?.parse().map_err(|_| self.damaged(&format!("its {key} is invalid")))
    }

    fn required(&self, key: &str) -> Result<&str> {
        self.value(key)?.ok_or_else(|| self.damaged(&format!("it has no {key}")))
    }

    fn value(&self, key: &str) -> Result<Option<&str>> {
        let mut values = self.lines.iter().filter(|(name, _)| name == key).map(|(_, value)| value.as_str());
        let value = values.next();
        match values.next() {
            None => Ok(value),
            Some(_) => Err(self.damaged(&format!("it has {key} twice"))),
        }
    }

    fn damaged(&self, why: &str) -> Error {
        Error::damaged(format!("{} is damaged: {why}", self.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// Returned by `pg_backup_stop` of PostgreSQL 15.
    const LABEL: &str = "START WAL LOCATION: 0/1400028 (file 000000010000000000000014)\n\
        CHECKPOINT LOCATION: 0/1400060\n\
        BACKUP METHOD: streamed\n\
        BACKUP FROM: primary\n\
        START TIME: 2026-11-20 17:21:51 UTC\n\
        LABEL: a label: with a colon\n\
        START TIMELINE: 1\n";

    const HISTORY: &str = "START WAL LOCATION: 0/1400028 (file 000000010000000000000014)\n\
        STOP WAL LOCATION: 0/1400100 (file 000000010000000000000014)\n\
        CHECKPOINT LOCATION: 0/1400060\n\
        BACKUP METHOD: streamed\n\
        BACKUP FROM: primary\n\
        START TIME: 2026-11-20 17:21:51 UTC\n\
        LABEL: a label\n\
        START TIMELINE: 1\n\
        STOP TIME: 2026-11-20 17:21:52 UTC\n\
        STOP TIMELINE: 1\n";

    #[test]
    fn reads_a_label() {
        let label = BackupLabel::parse(LABEL.as_bytes()).unwrap();
        assert_eq!(label.start_point.to_string(), "0/1400028");
        assert_eq!(label.start_segment.to_string(), "000000010000000000000014");
        assert_eq!(label.checkpoint.to_string(), "0/1400060");
        assert_eq!((label.method, label.source), (BackupMethod::Streamed, BackupSource::Primary));
        assert_eq!(label.start_time, "2026-11-20 17:21:51 UTC");
        assert_eq!(label.label, "a label: with a colon");
        assert_eq!(label.start_timeline, TimelineId::FIRST);
        assert_eq!(label.incremental_from, None);
    }

    #[test]
    fn reads_a_backup_history_file() {
        let history = BackupHistory::parse(HISTORY.as_bytes()).unwrap();
        assert_eq!(history.stop_point.to_string(), "0/1400100");
        assert_eq!(history.stop_time, "2026-11-20 17:21:52 UTC");
        assert_eq!(history.label.label, "a label");
        assert!(BackupHistory::parse(LABEL.as_bytes()).is_err(), "a label has no stop point");
        let before = HISTORY.replace("0/1400100", "0/1300100");
        assert!(BackupHistory::parse(before.as_bytes()).is_err());
    }

    #[test]
    fn marks_and_unmarks_an_incremental_backup() {
        let parent =
            IncrementalFrom { start_point: "0/1300028".parse().unwrap(), timeline: TimelineId::FIRST };
        let marked = with_incremental_from(LABEL.as_bytes(), parent);
        assert!(marked.ends_with(b"INCREMENTAL FROM LSN: 0/1300028\nINCREMENTAL FROM TLI: 1\n"));
        assert_eq!(BackupLabel::parse(&marked).unwrap().incremental_from, Some(parent));
        assert_eq!(with_incremental_from(&marked, parent), marked);
        assert_eq!(without_incremental_from(&marked), LABEL.as_bytes());
        let half = LABEL.to_owned() + "INCREMENTAL FROM TLI: 1\n";
        assert!(BackupLabel::parse(half.as_bytes()).is_err());
    }

    #[test]
    fn refuses_what_is_missing_forged_or_contradictory() {
        for line in LABEL.lines().filter(|line| !line.starts_with("LABEL")) {
            let without = LABEL.replace(&format!("{line}\n"), "");
            assert_eq!(
                BackupLabel::parse(without.as_bytes()).unwrap_err().kind(),
                ErrorKind::Damaged,
                "{line}"
            );
            let twice = LABEL.to_owned() + line + "\n";
            assert_eq!(
                BackupLabel::parse(twice.as_bytes()).unwrap_err().kind(),
                ErrorKind::Damaged,
                "{line}"
            );
        }
        for (from, to) in [
            ("START TIMELINE: 1", "START TIMELINE: 2"),
            ("CHECKPOINT LOCATION: 0/1400060", "CHECKPOINT LOCATION: 0/1300060"),
            ("(file 000000010000000000000014)", "(file 14)"),
            ("streamed", "stolen"),
            ("primary", "tape"),
        ] {
            assert!(BackupLabel::parse(LABEL.replace(from, to).as_bytes()).is_err(), "{to}");
        }
        assert!(BackupLabel::parse(&vec![b'\n'; BACKUP_LABEL_BYTES_MAX + 1]).is_err());
    }
}
