//! Keeps the SQL session alive while the replication connection does the work.
//!
//! Firewalls and proxies drop idle connections, and a new connection to the same host name could reach another server.

use crate::backup::server::session::Session;
use crate::error::Result;
use crate::interruption::Interruption;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

const PING: Duration = Duration::from_secs(5);

/// Pings the session while `make` runs, and ends the backup if the session does not respond.
pub fn during<T>(
    session: &Session,
    interruption: &Interruption<'_>,
    make: impl FnOnce() -> Result<T>,
) -> Result<T> {
    thread::scope(|scope| {
        // Dropped on every way out of `make`, which ends the pings.
        let (_running, ended) = channel::<()>();
        scope.spawn(move || ping(session, interruption, &ended));
        make()
    })
}

fn ping(session: &Session, interruption: &Interruption<'_>, ended: &Receiver<()>) {
    while ended.recv_timeout(PING) == Err(RecvTimeoutError::Timeout) {
        if let Err(error) = session.ping(interruption) {
            return interruption.fail(error);
        }
    }
}
