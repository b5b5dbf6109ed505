//! The share of the machine that a command may use: bytes per second, and its priority.
//!
//! Owns: enforcing a rate that several threads share, and setting the priority. Does not own: the number of
//! threads (each use case's `workers`).

use crate::config::{IoPriority, Niceness, PaceSettings, Rate};
use crate::error::{Context, Result};
use crate::monitor::{CommandWarning, Monitor};
use rustix::process::{getpriority_process, setpriority_process};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Upper limit for unused time that may be made up for: enough for a slow read, too little to show as a burst.
const CREDIT_MAX: Duration = Duration::from_millis(100);

/// The pace of one command, shared by its threads.
#[derive(Debug)]
pub struct Pace {
    settings: PaceSettings,
    /// When the next bytes are due.
    due: Mutex<Instant>,
    /// Whether a failure to set the priority was reported.
    refused: AtomicBool,
}

impl Pace {
    /// A pace as it is configured.
    pub fn new(settings: PaceSettings) -> Pace {
        Pace { settings, due: Mutex::new(Instant::now()), refused: AtomicBool::new(false) }
    }

    /// As [`Pace::try_give_way`]. If the operating system does not allow it, as in some containers, the
    /// command continues with its present priority and reports that once.
    pub fn give_way(&self, monitor: &dyn Monitor) {
        if let Err(error) = self.try_give_way()
            && !self.refused.swap(true, Ordering::Relaxed)
        {
            monitor.warn(CommandWarning::PriorityUnchanged { error: &error });
        }
    }

    /// Lowers the priority of the calling thread and of the threads that it starts from now on. Never raises
    /// it.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn try_give_way(&self) -> Result<()> {
        set_niceness(self.settings.niceness)?;
        match self.settings.io_priority {
            IoPriority::Normal => Ok(()),
            IoPriority::Low => set_io_priority(IO_CLASS_BEST_EFFORT, IO_LEVEL_LEAST),
            IoPriority::Idle => set_io_priority(IO_CLASS_IDLE, 0),
        }
    }

    /// Waits until `bytes` more bytes may be transferred; all threads share the rate.
    pub fn take(&self, bytes: u64) {
        let Some(rate) = self.settings.max_rate else { return };
        let now = Instant::now();
        let due = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = (*due).max(now.checked_sub(CREDIT_MAX).unwrap_or(now));
            *due = begin + duration(bytes, rate);
            begin
        };
        thread::sleep(due.saturating_duration_since(now));
    }
}

fn duration(bytes: u64, rate: Rate) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate.bytes_per_s().get() as f64)
}

/// On Linux this applies to the calling thread, despite the name of the call.
fn set_niceness(niceness: Niceness) -> Result<()> {
    let what = || format!("could not set the priority to nice {}", niceness.as_u8());
    let wanted = i32::from(niceness.as_u8());
    if getpriority_process(None).map_err(io::Error::from).context(what)? >= wanted {
        return Ok(());
    }
    setpriority_process(None, wanted).map_err(io::Error::from).context(what)
}

// Source: Linux `include/uapi/linux/ioprio.h`.
const IO_PRIORITY_OF_PROCESS: nix::libc::c_int = 1;
const IO_CLASS_SHIFT: nix::libc::c_int = 13;
const IO_CLASS_BEST_EFFORT: nix::libc::c_int = 2;
const IO_CLASS_IDLE: nix::libc::c_int = 3;
const IO_LEVEL_LEAST: nix::libc::c_int = 7;

#[allow(unsafe_code)]
fn set_io_priority(class: nix::libc::c_int, level: nix::libc::c_int) -> Result<()> {
    let itself: nix::libc::c_int = 0;
    // SAFETY: the call takes only numbers and changes only the priority of the calling thread. Neither the C
    // library nor any of our crates has a function for it.
    let status = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_ioprio_set,
            IO_PRIORITY_OF_PROCESS,
            itself,
            class << IO_CLASS_SHIFT | level,
        )
    };
    if status == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error()).context(|| "could not set the I/O priority")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    fn pace(settings: &str) -> Pace {
        let smallest = "cluster = \"main\"\ndata_directory = \"/data\"\nrepository.url = \"/srv\"\n";
        let content = format!("{smallest}{settings}");
        Pace::new(Config::parse(Path::new("/pgark.toml"), content.as_bytes()).unwrap().recover.pace)
    }

    #[test]
    fn threads_share_one_rate() {
        let pace = pace("recover.max_rate = \"10MB\"");
        let began = Instant::now();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10).for_each(|_| pace.take(128 << 10)));
            }
        });
        // 5 MiB at 10 MiB per second, minus the last piece, which is not waited for, and the credit.
        assert!(began.elapsed() >= Duration::from_millis(380), "{:?}", began.elapsed());
    }

    #[test]
    fn without_a_rate_nobody_waits() {
        let (pace, began) = (pace(""), Instant::now());
        (0..1000).for_each(|_| pace.take(u64::MAX));
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn a_thread_gives_way_and_keeps_a_worse_place() {
        // The tests may run with a low priority already.
        let own = getpriority_process(None).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                pace("recover.nice = 7\nrecover.io_priority = \"low\"").try_give_way().unwrap();
                assert_eq!(getpriority_process(None).unwrap(), own.max(7));
                pace("recover.nice = 3").try_give_way().unwrap();
                assert_eq!(getpriority_process(None).unwrap(), own.max(7));
            });
        });
        assert_eq!(getpriority_process(None).unwrap(), own, "other threads do not");
    }
}
