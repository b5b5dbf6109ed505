//! What time it is for the service, which refuses requests that were signed a quarter of an hour before or after that.
//!
//! The clock of this host may be wrong, or jump while a long backup runs. An answer says in its `Date` what time it is
//! over there, and the SDK signs the next request of the same client by that; so one that was refused is made again.
//! Source: `aws-runtime`, `service_clock_skew`.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// A difference that may be the reason of a refusal: S3 takes 15 minutes, and an answer takes a while.
const SKEW_MIN: Duration = Duration::from_secs(240);

/// The service's clock, as far as it is known: that of this host, with a difference in milliseconds.
#[derive(Debug, Default)]
pub struct ServiceClock(AtomicI64);

impl ServiceClock {
    /// Takes over what a refusal says, if that differs so much that it may be the reason; whether it did.
    pub fn correct(&self, service_time: Option<SystemTime>) -> bool {
        let Some(service_time) = service_time else { return false };
        if milliseconds(service_time, self.now()).unsigned_abs() < SKEW_MIN.as_millis() as u64 {
            return false;
        }
        let difference_ms = milliseconds(service_time, SystemTime::now());
        tracing::warn!(
            seconds = difference_ms / 1000,
            "the clock of this host differs from that of the service"
        );
        self.0.store(difference_ms, Ordering::Relaxed);
        true
    }

    /// How much the service's clock is ahead of this host's, in seconds, where it was found to differ.
    pub fn difference_s(&self) -> i64 {
        self.0.load(Ordering::Relaxed) / 1000
    }

    fn now(&self) -> SystemTime {
        let difference_ms = self.0.load(Ordering::Relaxed);
        let distance = Duration::from_millis(difference_ms.unsigned_abs());
        let now = SystemTime::now();
        let shifted = if difference_ms < 0 { now.checked_sub(distance) } else { now.checked_add(distance) };
        shifted.unwrap_or(now)
    }
}

/// How much `a` lies after `b`.
fn milliseconds(a: SystemTime, b: SystemTime) -> i64 {
    let whole = |distance: Duration| i64::try_from(distance.as_millis()).unwrap_or(i64::MAX);
    match a.duration_since(b) {
        Ok(later) => whole(later),
        Err(earlier) => -whole(earlier.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_difference_is_taken_over_and_back_and_a_small_one_is_none() {
        let clock = ServiceClock::default();
        let hour = Duration::from_secs(3600);
        assert!(!clock.correct(None));
        assert!(!clock.correct(Some(SystemTime::now() + Duration::from_secs(200))));
        assert_eq!(clock.difference_s(), 0);
        assert!(clock.correct(Some(SystemTime::now() - hour)));
        assert!((3599..=3601).contains(&-clock.difference_s()));
        assert!(clock.now() < SystemTime::now() - Duration::from_secs(3500));
        assert!(!clock.correct(Some(SystemTime::now() - hour)), "it is right now");
        assert!(clock.correct(Some(SystemTime::now())));
        assert!(clock.difference_s().abs() <= 1);
    }
}
