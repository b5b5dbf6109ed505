//! Waiting for an agent: until when, and what is said meanwhile.

use crate::error::Error;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// How often an asker looks whether its deadline has moved.
const LOOK: Duration = Duration::from_millis(500);

/// What an asker knows better than the agent.
pub trait Waiting {
    /// Until when to wait, as it looks now; asked again while it waits.
    fn deadline(&mut self) -> Instant;

    /// Why it takes so long, each time that the agent says so.
    fn told(&mut self, _reason: &Error) {}

    /// Why there is no agent yet, each time that none could be started.
    fn no_agent(&mut self, _reason: &Error) {}
}

/// Waits until a moment, come what may.
#[derive(Clone, Copy, Debug)]
pub struct Until(pub Instant);

impl Waiting for Until {
    fn deadline(&mut self) -> Instant {
        self.0
    }
}

/// How much time is left.
pub(super) fn left(waiting: &mut dyn Waiting) -> Duration {
    waiting.deadline().saturating_duration_since(Instant::now())
}

/// Waits until something can be read, or the other side has closed; `false` when the deadline passes first.
pub(super) fn readable(from: BorrowedFd<'_>, waiting: &mut dyn Waiting) -> nix::Result<bool> {
    loop {
        let left = left(waiting);
        let timeout = PollTimeout::try_from(left.min(LOOK).as_millis()).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(from, PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            // Less than a millisecond is none to the kernel.
            Ok(0) if left >= Duration::from_millis(1) => {}
            Ok(ready) => return Ok(ready > 0),
            Err(errno) => return Err(errno),
        }
    }
}
