//! Keeps the SQL session alive while the replication connection does the work.
//!
//! Firewalls and proxies drop idle connections, and a new connection to the same host name could reach another server.

use crate::backup::server::session::Session;
use crate::error::Result;
use crate::interruption::Interruption;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PING: Duration = Duration::from_secs(5);
/// Interval between checks whether the backup has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Pings the session while `make` runs, and ends the backup if the session does not answer.
pub fn during<T>(
    session: &Session,
    interruption: &Interruption<'_>,
    make: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| ping(session, interruption, &ended));
        let _end = End(&ended);
        make()
    })
}

fn ping(session: &Session, interruption: &Interruption<'_>, ended: &AtomicBool) {
    let mut last = Instant::now();
    while !ended.load(Ordering::Acquire) {
        thread::sleep(LOOK);
        if last.elapsed() < PING {
            continue;
        }
        if let Err(error) = session.ping(interruption) {
            return interruption.fail(error);
        }
        last = Instant::now();
    }
}

/// Stops the pings on every way out of the scope.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
