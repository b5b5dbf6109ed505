//! The systemd journal as the reader of stderr.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use tracing::Level;

/// Whether stderr is the stream of the systemd journal. `stream` is the value of `JOURNAL_STREAM`: a server started by
/// systemd passes the variable on to its child processes, but not the stream itself.
///
/// Source: `systemd.exec(5)`, `$JOURNAL_STREAM`.
pub fn is_journal(stream: Option<&OsStr>) -> bool {
    let stderr = fs::metadata("/proc/self/fd/2").map(|stream| format!("{}:{}", stream.dev(), stream.ino()));
    stream.is_some_and(|stream| stderr.is_ok_and(|ours| stream == ours.as_str()))
}

/// The priority of a level in syslog and in the journal. Source: `sd-daemon(3)`, `SD_ERR` and so on; RFC 3164, 4.1.1.
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// A message with its priority before each line, since the journal stores each line as an entry.
pub(super) fn with_priority(level: Level, message: &str) -> String {
    let priority = priority(level);
    message.trim().lines().map(|line| format!("<{priority}>{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_priority() {
        assert_eq!(with_priority(Level::WARN, "  WARN a\nHINT: b\n"), "<4>WARN a\n<4>HINT: b\n");
        let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
        assert_eq!(levels.map(priority), [3, 4, 6, 7, 7]);
    }

    #[test]
    fn only_the_stream_itself_is_the_journal() {
        let stderr = fs::metadata("/proc/self/fd/2").unwrap();
        let stream = format!("{}:{}", stderr.dev(), stderr.ino());
        assert!(is_journal(Some(stream.as_ref())));
        assert!(!is_journal(Some("8:12345".as_ref())) && !is_journal(None));
    }
}
