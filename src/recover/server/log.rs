//! What a server has written to its log since it was started.
//!
//! Owns: locating the log and selecting the lines that explain why the server exited. A log may have any
//! language and format (`lc_messages`, `log_line_prefix`, `log_destination`), so lines are selected by
//! position instead of wording.

use super::settings::{CONFIGURATION_BYTES_MAX, value_in};
use crate::recover::place::read_restored;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// How many bytes at the end of a log are searched.
const LOG_BYTES_MAX: u64 = 256 << 10;
/// How many log lines an error quotes.
const LINES_MAX: usize = 8;
/// How many bytes of a line an error quotes.
const LINE_BYTES_MAX: usize = 500;
/// Upper limit for the number of lines that the server writes after the one naming its failed process.
const CLOSING_LINES_MAX: usize = 5;
/// Upper limit for the size of `current_logfiles`, in bytes.
const SMALL_FILE_BYTES_MAX: u64 = 64 << 10;

/// The state of a server's logs before its start: anything added later is new.
#[derive(Clone, Debug)]
pub(super) struct LogMark {
    data_directory: PathBuf,
    log: PathBuf,
    lengths: BTreeMap<PathBuf, u64>,
}

impl LogMark {
    /// Records the current state; `log` receives the server's output until it has read its configuration.
    pub(super) fn set(data_directory: &Path, log: &Path) -> LogMark {
        let collected = fs::read_dir(collector_directory(data_directory)).into_iter().flatten().flatten();
        let paths = collected.map(|entry| entry.path()).chain([log.to_owned()]);
        let lengths =
            paths.filter_map(|path| Some((path.clone(), fs::metadata(&path).ok()?.len()))).collect();
        LogMark { data_directory: data_directory.to_owned(), log: log.to_owned(), lengths }
    }

    /// The last lines that explain the exit, with their continuation lines.
    pub(super) fn reason(&self) -> Vec<String> {
        let mut text = self.since(&self.log);
        // With the logging collector, the first log only names the place where logging continues. One of its
        // formats is enough.
        let current = self.data_directory.join("current_logfiles");
        if let Ok(Some(current)) = read_restored(&current, SMALL_FILE_BYTES_MAX) {
            let current = String::from_utf8_lossy(&current).into_owned();
            let paths = current.lines().filter_map(|line| line.split_once(' ')).map(|(_, path)| path);
            let written = paths.map(|path| self.since(&self.data_directory.join(path)));
            text.push_str(&written.into_iter().find(|text| !text.trim().is_empty()).unwrap_or_default());
        }
        closing_lines(&text)
    }

    /// What was written to a log since the mark; empty if it cannot be read.
    fn since(&self, path: &Path) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(path)?;
            let length = file.metadata()?.len();
            let begin = self.lengths.get(path).copied().unwrap_or_default();
            file.seek(SeekFrom::Start(begin.max(length.saturating_sub(LOG_BYTES_MAX))))?;
            let mut content = Vec::new();
            file.take(LOG_BYTES_MAX).read_to_end(&mut content)?;
            Ok(content)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }
}

/// The directory that the logging collector writes to.
fn collector_directory(data_directory: &Path) -> PathBuf {
    let named = ["postgresql.auto.conf", "postgresql.conf"].iter().find_map(|name| {
        let content = read_restored(&data_directory.join(name), CONFIGURATION_BYTES_MAX).ok()??;
        value_in(&content, "log_directory")
    });
    data_directory.join(named.unwrap_or_else(|| "log".to_owned()))
}

/// The end of a log, without the lines that every server writes after a process failure: that the process
/// exited, by process ID, and how the server reacts.
fn closing_lines(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let closing = lines.iter().rposition(|line| names_process(line));
    let end =
        closing.filter(|at| *at > 0 && lines.len() - at <= CLOSING_LINES_MAX + 1).unwrap_or(lines.len());
    let told = lines.get(end.saturating_sub(LINES_MAX)..end).unwrap_or_default();
    told.iter().map(|line| shortened(line)).collect()
}

/// Whether a line contains `(PID 4711)`, which is the same in all languages of PostgreSQL.
fn names_process(line: &str) -> bool {
    line.split("(PID ").skip(1).any(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        digits > 0 && rest.as_bytes().get(digits) == Some(&b')')
    })
}

fn shortened(line: &str) -> String {
    let end =
        (0..=LINE_BYTES_MAX.min(line.len())).rev().find(|at| line.is_char_boundary(*at)).unwrap_or_default();
    let kept = line.get(..end).unwrap_or_default();
    if kept.len() < line.len() { format!("{kept}…") } else { kept.to_owned() }
}

/// Indents lines below an error message.
pub(super) fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n    {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_is_not_told_and_what_belongs_together_is() {
        let scratch = tempfile::tempdir().unwrap();
        let log = scratch.path().join("server.log");
        fs::write(&log, "FATAL:  of another\n").unwrap();
        let mark = LogMark::set(scratch.path(), &log);
        assert_eq!(mark.reason(), [""; 0]);
        let reason = "LOG:  ungültig in Zeile 3\nFATAL:  Konfigurationsdatei enthält Fehler\nDETAIL:  x\n";
        let closing = "LOG:  Startprozess (PID 4711) beendete mit Status 1\nLOG:  heruntergefahren\n";
        fs::write(&log, format!("FATAL:  of another\n{reason}{closing}")).unwrap();
        assert_eq!(mark.reason().join("\n") + "\n", reason);
    }

    #[test]
    fn a_collected_log_is_read_from_where_it_was() {
        let scratch = tempfile::tempdir().unwrap();
        let log = scratch.path().join("server.log");
        fs::create_dir(scratch.path().join("logs")).unwrap();
        fs::write(scratch.path().join("postgresql.conf"), "log_directory = 'logs'\n").unwrap();
        let collected = scratch.path().join("logs/monday.log");
        fs::write(&collected, "of the original\n").unwrap();
        let mark = LogMark::set(scratch.path(), &log);
        fs::write(scratch.path().join("current_logfiles"), "stderr logs/monday.log\n").unwrap();
        fs::write(&collected, "of the original\nthe reason\n").unwrap();
        assert_eq!(mark.reason(), ["the reason"]);
    }

    #[test]
    fn a_reason_is_short() {
        let long = "é".repeat(LINE_BYTES_MAX);
        let lines = closing_lines(&format!("{long}\n").repeat(LINES_MAX + 3));
        assert_eq!(lines.len(), LINES_MAX);
        assert!(
            lines.iter().all(|line| line.len() <= LINE_BYTES_MAX + '…'.len_utf8() && line.ends_with('…'))
        );
        assert!(!names_process("(PID )") && !names_process("(PID 4") && names_process("プロセス(PID 4)が"));
    }
}
