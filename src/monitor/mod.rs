//! The events of a long command.
//!
//! Owns: which events there are, with their fields. Does not own: the sentences made of them (that is `terminal/`).

mod event;

pub use event::{
    CommandEvent, CommandStep, CommandWarning, MeasuredWork, ReplayPosition, UnsavedConfiguration,
};

use std::sync::Mutex;

/// Receives the events of the use cases, from any thread. Every call returns at once.
pub trait Monitor: Send + Sync {
    /// Something happened.
    fn record(&self, event: &CommandEvent<'_>);

    /// This number of further bytes of the current work is done. Apart from the events, because it is called for each
    /// buffer.
    fn advance(&self, bytes: u64);
}

impl dyn Monitor + '_ {
    /// Records that a step began.
    pub fn step(&self, step: CommandStep<'_>) {
        self.record(&CommandEvent::Step(step));
    }

    /// Records a condition worth reporting that does not stop the command.
    pub fn warn(&self, warning: CommandWarning<'_>) {
        self.record(&CommandEvent::Warning(warning));
    }

    /// Records that work of `total_bytes` began, and that it ended once `run` returns, whatever it returns.
    pub fn during<T>(&self, work: MeasuredWork<'_>, total_bytes: Option<u64>, run: impl FnOnce() -> T) -> T {
        self.record(&CommandEvent::WorkStarted { work, total_bytes });
        let result = run();
        self.record(&CommandEvent::WorkEnded);
        result
    }
}

/// Discards all events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn record(&self, _event: &CommandEvent<'_>) {}
    fn advance(&self, _bytes: u64) {}
}

/// Remembers steps and warnings, for tests.
#[derive(Debug, Default)]
pub struct RecordingMonitor {
    events: Mutex<Vec<String>>,
}

impl RecordingMonitor {
    /// The events so far, in order, in the form of their `Debug`.
    pub fn events(&self) -> Vec<String> {
        self.events.lock().map(|events| events.clone()).unwrap_or_default()
    }
}

impl Monitor for RecordingMonitor {
    fn record(&self, event: &CommandEvent<'_>) {
        if let Ok(mut events) = self.events.lock() {
            events.push(format!("{event:?}"));
        }
    }

    fn advance(&self, _bytes: u64) {}
}
