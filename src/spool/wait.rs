//! Waiting for an agent: the deadline, and what is reported meanwhile.

use crate::error::Error;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// How often a client checks whether its deadline has moved.
const LOOK: Duration = Duration::from_millis(500);

/// The client's side of a wait.
pub trait Waiting {
    /// The current deadline; polled during the wait.
    fn deadline(&mut self) -> Instant;

    /// Called with the reason for the delay, each time that the agent reports one.
    fn told(&mut self, _reason: &Error) {}

    /// Called with the reason why there is no agent yet, after each failed start.
    fn no_agent(&mut self, _reason: &Error) {}
}

/// A wait with a fixed deadline.
#[derive(Clone, Copy, Debug)]
pub struct Until(pub Instant);

impl Waiting for Until {
    fn deadline(&mut self) -> Instant {
        self.0
    }
}

/// The remaining time.
pub(super) fn left(waiting: &mut dyn Waiting) -> Duration {
    waiting.deadline().saturating_duration_since(Instant::now())
}

/// Waits until data can be read or the other side has disconnected; `false` when the deadline passes first.
pub(super) fn readable(from: BorrowedFd<'_>, waiting: &mut dyn Waiting) -> nix::Result<bool> {
    loop {
        let left = left(waiting);
        let timeout = PollTimeout::try_from(left.min(LOOK).as_millis()).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(from, PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            // The kernel treats less than a millisecond as zero.
            Ok(0) if left >= Duration::from_millis(1) => {}
            Ok(ready) => return Ok(ready > 0),
            Err(errno) => return Err(errno),
        }
    }
}
