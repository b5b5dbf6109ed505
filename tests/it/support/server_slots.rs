//! Limits the number of concurrent servers across all tests.

use std::sync::{Condvar, Mutex, PoisonError};

const SERVERS_MAX: usize = 2;

static TAKEN: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

/// The permission to run this many servers. Acquired all at once: two scenarios that each hold one and wait for a
/// second would deadlock.
#[derive(Debug)]
pub struct ServerSlots(usize);

impl ServerSlots {
    /// Waits until this many servers may run.
    pub fn take(servers: usize) -> ServerSlots {
        assert!(servers <= SERVERS_MAX, "{servers} servers at once: {SERVERS_MAX} is the limit");
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = FREED
            .wait_while(taken, |taken| *taken + servers > SERVERS_MAX)
            .unwrap_or_else(PoisonError::into_inner);
        *taken += servers;
        ServerSlots(servers)
    }
}

impl Drop for ServerSlots {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        FREED.notify_all();
    }
}
