//! Interruption of a command: by a signal, or by a failure in another thread.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Upper limit for the time until a waiting thread notices.
const NOTICE_MAX: Duration = Duration::from_millis(100);

/// Checked frequently by every thread of a backup.
pub struct Interruption<'a> {
    interrupted: &'a AtomicBool,
    failed: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl<'a> Interruption<'a> {
    /// An interruption by `interrupted`, which a signal sets.
    pub fn new(interrupted: &'a AtomicBool) -> Interruption<'a> {
        Interruption { interrupted, failed: AtomicBool::new(false), failure: Mutex::new(None) }
    }

    /// Ends the backup with `error`, unless it is ending already.
    pub fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    /// Checks whether the backup may continue.
    ///
    /// # Errors
    /// The reported failure; [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) after a signal.
    pub fn check(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Acquire) {
            return Err(Error::unavailable("the backup was interrupted"));
        }
        if self.failed.load(Ordering::Acquire) {
            let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(error) = failure.as_ref() {
                return Err(error.replica());
            }
        }
        Ok(())
    }

    /// Sleeps, unless the backup must end.
    ///
    /// # Errors
    /// As [`Interruption::check`].
    pub fn sleep(&self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        loop {
            self.check()?;
            match end.checked_duration_since(Instant::now()) {
                Some(rest) if !rest.is_zero() => thread::sleep(rest.min(NOTICE_MAX)),
                _ => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn the_first_failure_ends_everything() {
        let interrupted = AtomicBool::new(false);
        let interruption = Interruption::new(&interrupted);
        interruption.check().unwrap();
        interruption.fail(Error::damaged("one"));
        interruption.fail(Error::unavailable("two"));
        let error = interruption.sleep(Duration::from_secs(3600)).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Damaged, "one"));
        interrupted.store(true, Ordering::Release);
        assert_eq!(interruption.check().unwrap_err().kind(), ErrorKind::Unavailable);
    }
}
