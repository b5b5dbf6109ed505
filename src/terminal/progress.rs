//! Progress on stderr: a bar with rate and remaining time on a terminal, plain lines now and then elsewhere.

use super::sentence;
use crate::monitor::{CommandEvent, MeasuredWork, Monitor};
use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Minimum interval between plain lines.
const PLAIN_PAUSE: Duration = Duration::from_secs(5);
/// Interval between updates of the bar.
const BAR_TICK: Duration = Duration::from_millis(200);

const BAR: &str = "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
const BAR_WITHOUT_TOTAL: &str = "{msg}  {binary_bytes}  {binary_bytes_per_sec}  {elapsed}";

/// The amount of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Steps, progress and warnings.
    Normal,
    /// The same in plain lines: log messages appear between them.
    Verbose,
    /// Warnings only.
    Quiet,
}

/// Shows the messages of a command's monitor.
#[derive(Debug)]
pub struct Progress {
    verbosity: Verbosity,
    is_terminal: bool,
    work: Mutex<Option<Measured>>,
}

/// MeasuredWork in progress.
#[derive(Debug)]
struct Measured {
    what: String,
    total_bytes: Option<u64>,
    done_bytes: u64,
    began: Instant,
    told: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Writes to the stderr of this process.
    pub fn new(verbosity: Verbosity) -> Progress {
        Progress { verbosity, is_terminal: io::stderr().is_terminal(), work: Mutex::new(None) }
    }

    fn work(&self) -> MutexGuard<'_, Option<Measured>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, work: &MeasuredWork<'_>, total_bytes: Option<u64>) {
        let what = sentence::of_work(work);
        let draws = self.is_terminal && self.verbosity == Verbosity::Normal;
        let bar = draws.then(|| bar(&what, total_bytes));
        if bar.is_none() {
            match total_bytes {
                Some(bytes) => say(&format!("{what}: {}", BinaryBytes(bytes))),
                None => say(&what),
            }
        }
        let now = Instant::now();
        *self.work() = Some(Measured { what, total_bytes, done_bytes: 0, began: now, told: now, bar });
    }

    fn end(&self) {
        if let Some(work) = self.work().take() {
            match &work.bar {
                Some(bar) => bar.finish_and_clear(),
                None => say(&work.line(work.began.elapsed())),
            }
        }
    }

    /// Writes a line, above the bar if there is one.
    fn say(&self, line: &str) {
        match self.work().as_ref().and_then(|work| work.bar.as_ref()) {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }
}

impl Monitor for Progress {
    fn record(&self, event: &CommandEvent<'_>) {
        let is_quiet = self.verbosity == Verbosity::Quiet;
        match event {
            CommandEvent::Warning(warning) => {
                self.say(&format!("WARNING: {}", sentence::of_warning(warning)))
            }
            CommandEvent::Step(step) if !is_quiet => self.say(&sentence::of_step(step)),
            CommandEvent::WorkStarted { work, total_bytes } if !is_quiet => self.start(work, *total_bytes),
            CommandEvent::Step(_) | CommandEvent::WorkStarted { .. } => {}
            CommandEvent::WorkEnded => self.end(),
        }
    }

    fn advance(&self, bytes: u64) {
        let mut work = self.work();
        let Some(work) = work.as_mut() else { return };
        work.done_bytes += bytes;
        match &work.bar {
            Some(bar) => bar.inc(bytes),
            None if work.told.elapsed() >= PLAIN_PAUSE => {
                work.told = Instant::now();
                say(&work.line(work.began.elapsed()));
            }
            None => {}
        }
    }
}

impl Measured {
    /// A plain line; the remaining time is extrapolated from the rate so far.
    fn line(&self, elapsed: Duration) -> String {
        let rate = self.done_bytes as f64 / elapsed.as_secs_f64().max(0.001);
        let total_bytes = self.total_bytes.unwrap_or_default();
        let missing = total_bytes.saturating_sub(self.done_bytes);
        let mut line = format!("{}: {}", self.what, BinaryBytes(self.done_bytes));
        if total_bytes > 0 {
            let percent = (self.done_bytes as f64 / total_bytes as f64 * 100.0).min(100.0);
            line.push_str(&format!(" of {} ({percent:.0} %)", BinaryBytes(total_bytes)));
        }
        line.push_str(&format!(", {}/s", BinaryBytes(rate as u64)));
        if missing > 0 && rate >= 1.0 {
            let left = Duration::from_secs((missing as f64 / rate) as u64);
            line.push_str(&format!(", {} left", HumanDuration(left)));
        }
        line
    }
}

fn bar(what: &str, total_bytes: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total_bytes, ProgressDrawTarget::stderr());
    let template = if total_bytes.is_some() { BAR } else { BAR_WITHOUT_TOTAL };
    // The templates are constants; a bar without style is better than none.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(BAR_TICK);
    bar
}

/// Writes to stderr. A closed stderr changes nothing.
fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_tells_rate_and_remaining_time() {
        let now = Instant::now();
        let work = Measured {
            what: "copying 3 files".into(),
            total_bytes: Some(30 << 20),
            done_bytes: 10 << 20,
            began: now,
            told: now,
            bar: None,
        };
        assert_eq!(
            work.line(Duration::from_secs(2)),
            "copying 3 files: 10.00 MiB of 30.00 MiB (33 %), 5.00 MiB/s, 4 seconds left"
        );
        let unknown = Measured { total_bytes: None, ..work };
        assert_eq!(unknown.line(Duration::from_secs(2)), "copying 3 files: 10.00 MiB, 5.00 MiB/s");
    }
}
