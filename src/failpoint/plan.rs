//! The faults that the environment requests, and the number of steps so far.

use super::Mutant;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::env;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Upper limit for the bytes that a short read returns. Not a power of two, so that reads do not end at boundaries.
pub const SHORT_READ_BYTES: usize = 4097;

static TAKEN: AtomicU64 = AtomicU64::new(0);
static PLAN: OnceLock<Plan> = OnceLock::new();

/// Parsed once, because it does not change within a process.
#[derive(Debug, Default)]
struct Plan {
    die_before: Option<u64>,
    fail_at: Option<(Where, Fault)>,
    slow: Duration,
    record: Option<PathBuf>,
    mutant: Option<Mutant>,
}

/// The operations that fail.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Where {
    Step(u64),
    From(u64),
    Named(String),
}

/// The kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this error of the operating system.
    Error(Errno),
    /// It succeeds, but reads only a few bytes, as it may.
    Short,
    /// It never returns.
    Hang,
}

fn plan() -> &'static Plan {
    PLAN.get_or_init(|| Plan {
        die_before: number("PGARK_DIE_BEFORE"),
        fail_at: env::var("PGARK_FAIL_AT").ok().and_then(|text| parse_fail_at(&text)),
        slow: Duration::from_millis(number("PGARK_SLOW_MS").unwrap_or_default()),
        record: env::var_os("PGARK_RECORD").map(PathBuf::from),
        mutant: env::var("PGARK_MUTANT").ok().and_then(|name| name.parse().ok()),
    })
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

fn parse_fail_at(text: &str) -> Option<(Where, Fault)> {
    let (place, fault) = text.split_once(':')?;
    let place = match place.strip_suffix('+') {
        Some(first) => Where::From(first.parse().ok()?),
        None => place.parse().map(Where::Step).unwrap_or_else(|_| Where::Named(place.to_owned())),
    };
    let fault = match fault {
        "SHORT" => Fault::Short,
        "HANG" => Fault::Hang,
        "ENOSPC" => Fault::Error(Errno::ENOSPC),
        "EIO" => Fault::Error(Errno::EIO),
        "EROFS" => Fault::Error(Errno::EROFS),
        "EACCES" => Fault::Error(Errno::EACCES),
        _ => return None,
    };
    Some((place, fault))
}

/// Counts a step of the disk, after the configured delay, and dies before it if that is requested. Returns
/// its number, counted from 1.
pub fn count() -> u64 {
    let step = take();
    let slow = plan().slow;
    if !slow.is_zero() {
        thread::sleep(slow);
    }
    step
}

pub(super) fn take() -> u64 {
    let step = TAKEN.fetch_add(1, Ordering::SeqCst) + 1;
    if plan().die_before == Some(step) {
        // Nothing of this process runs after this: no destructor, no handler.
        let _ = kill(Pid::this(), Signal::SIGKILL);
    }
    step
}

/// The fault for the operation `name` on `path`; `step` is its number if it counts as a step. Does not return if it
/// hangs.
pub fn fault(name: &str, path: Option<&Path>, step: Option<u64>) -> Option<Fault> {
    let (place, fault) = plan().fail_at.as_ref()?;
    let hit = match place {
        Where::Step(number) => step == Some(*number),
        Where::From(number) => step.is_some_and(|step| step >= *number),
        Where::Named(named) => match named.split_once('/') {
            Some((named, part)) => {
                let within = |path: &Path| format!("{}/", path.display()).contains(&format!("/{part}/"));
                named == name && path.is_some_and(within)
            }
            None => named == name,
        },
    };
    if hit && *fault == Fault::Hang {
        loop {
            thread::park();
        }
    }
    hit.then_some(*fault)
}

/// The fault for the operation `name` on this open file. Does not return if it hangs.
///
/// # Errors
/// Those of the operating system, if it cannot tell the file's path.
pub fn fault_in(name: &str, file: &File) -> io::Result<Option<Fault>> {
    if plan().fail_at.is_none() {
        return Ok(None);
    }
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok(fault(name, Some(&path), None))
}

impl Fault {
    /// The error, if it is one.
    pub fn error(self) -> Option<io::Error> {
        match self {
            Fault::Error(errno) => Some(errno.into()),
            Fault::Short | Fault::Hang => None,
        }
    }
}

/// The directory for the record of disk operations, if one is requested.
pub(super) fn recording() -> Option<&'static Path> {
    plan().record.as_deref()
}

/// Whether this defect is injected.
pub fn mutant(mutant: Mutant) -> bool {
    plan().mutant == Some(mutant)
}

impl FromStr for Mutant {
    type Err = ();

    fn from_str(name: &str) -> Result<Mutant, ()> {
        match name {
            "skip-fsync" => Ok(Mutant::SkipFsync),
            "early-acknowledgement" => Ok(Mutant::EarlyAcknowledgement),
            "overwrite" => Ok(Mutant::Overwrite),
            "swallow-read-error" => Ok(Mutant::SwallowReadError),
            "early-manifest" => Ok(Mutant::EarlyManifest),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_asked_for_by_number_and_by_name() {
        let parse = parse_fail_at;
        assert_eq!(parse("7:ENOSPC"), Some((Where::Step(7), Fault::Error(Errno::ENOSPC))));
        assert_eq!(parse("7+:EIO"), Some((Where::From(7), Fault::Error(Errno::EIO))));
        assert_eq!(parse("open:HANG"), Some((Where::Named("open".to_owned()), Fault::Hang)));
        assert_eq!(parse("read:SHORT"), Some((Where::Named("read".to_owned()), Fault::Short)));
        assert_eq!((parse("7"), parse("7:EWHAT")), (None, None));
    }
}
