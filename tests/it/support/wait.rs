//! The only place that sleeps: polls conditions until a deadline.

use std::time::{Duration, Instant};

/// Longer than anything takes on a loaded machine; only a failing test waits this long.
pub const PATIENCE: Duration = Duration::from_secs(30);

const INTERVAL: Duration = Duration::from_millis(10);

/// Polls until the condition is true; panics with `what` after the deadline.
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, || condition().then_some(()));
}

/// Polls until there is a value; panics after the deadline.
pub fn wait_for<T>(what: &str, deadline: Duration, probe: impl FnMut() -> Option<T>) -> T {
    poll(deadline, probe).unwrap_or_else(|| panic!("waited {} s in vain: {what}", deadline.as_secs_f32()))
}

/// Polls until there is a value or the deadline has passed.
pub fn poll<T>(deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if started.elapsed() > deadline {
            return None;
        }
        std::thread::sleep(INTERVAL);
    }
}
