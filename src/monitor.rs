//! The progress of a long command, reported to the terminal or to tests.
//!
//! Owns: the wording of progress. Does not own: its presentation (that is `terminal/`).

use std::sync::Mutex;

/// Receives the events of the use cases, from any thread. Every call returns at once.
pub trait Monitor: Send + Sync {
    /// A step began: one short line in the present, such as `waiting for WAL segment …`.
    fn step(&self, what: &str);

    /// A condition worth reporting that does not stop the command.
    fn warning(&self, what: &str);

    /// Work of a known size began; 0 if the size is unknown.
    fn begin(&self, what: &str, total_bytes: u64);

    /// This number of further bytes is done.
    fn advance(&self, bytes: u64);

    /// The current work ended.
    fn end(&self);
}

/// Discards all events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn step(&self, _what: &str) {}
    fn warning(&self, _what: &str) {}
    fn begin(&self, _what: &str, _total_bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn end(&self) {}
}

/// Remembers steps and warnings, for summaries and tests.
#[derive(Debug, Default)]
pub struct RecordingMonitor {
    lines: Mutex<Vec<String>>,
}

impl RecordingMonitor {
    /// The steps and warnings so far, in order.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().map(|lines| lines.clone()).unwrap_or_default()
    }

    fn remember(&self, line: &str) {
        if let Ok(mut lines) = self.lines.lock() {
            lines.push(line.to_owned());
        }
    }
}

impl Monitor for RecordingMonitor {
    fn step(&self, what: &str) {
        self.remember(what);
    }

    fn warning(&self, what: &str) {
        self.remember(what);
    }

    fn begin(&self, what: &str, _total_bytes: u64) {
        self.remember(what);
    }

    fn advance(&self, _bytes: u64) {}

    fn end(&self) {}
}
