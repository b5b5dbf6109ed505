//! The clock of the service, which refuses requests signed more than a quarter of an hour before or after its own time.
//!
//! The clock of this host may be wrong, or jump during a long backup. The header `Date` of a response contains the
//! service's time, by which the SDK signs the client's next request; a refused request is therefore repeated. Source:
//! `aws-runtime`, `service_clock_skew`.
//!
//! Hosts that share a bucket judge each other's heartbeats and uploads by this clock, because it is the same for all of
//! them.

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// Smaller differences are not the reason for a refusal: S3 accepts 15 minutes, and a response takes some time.
const SKEW_MIN: Duration = Duration::from_secs(240);

/// Smaller differences result from the time that a response takes, and from `Date`, which has whole seconds.
const MEASURED_MIN: Duration = Duration::from_secs(2);

/// The service's clock as far as it is known: this host's clock and a difference in milliseconds.
#[derive(Debug, Default)]
pub struct ServiceClock {
    /// The difference by which requests are signed; 0 unless one was refused for it.
    signed_ms: AtomicI64,
    /// The difference found in responses.
    measured_ms: AtomicI64,
    /// Whether there was a response.
    is_measured: AtomicBool,
}

impl ServiceClock {
    /// Adopts the time of a refusal, if it differs enough to be the reason; returns whether it did.
    pub fn correct(&self, service_time: Option<SystemTime>) -> bool {
        let Some(service_time) = service_time else { return false };
        let signed = shifted(SystemTime::now(), self.signed_ms.load(Ordering::Relaxed));
        if milliseconds(service_time, signed).unsigned_abs() < SKEW_MIN.as_millis() as u64 {
            return false;
        }
        let difference_ms = milliseconds(service_time, SystemTime::now());
        tracing::warn!(
            seconds = difference_ms / 1000,
            "the clock of this host differs from the service's clock"
        );
        self.signed_ms.store(difference_ms, Ordering::Relaxed);
        true
    }

    /// Records the time of a response.
    pub fn observe(&self, service_time: SystemTime) {
        let difference_ms = milliseconds(service_time, SystemTime::now());
        let known_ms = self.measured_ms.load(Ordering::Relaxed);
        if difference_ms.abs_diff(known_ms) >= MEASURED_MIN.as_millis() as u64 {
            self.measured_ms.store(difference_ms, Ordering::Relaxed);
        }
        self.is_measured.store(true, Ordering::Release);
    }

    /// Whether a response has contained the time.
    pub fn is_measured(&self) -> bool {
        self.is_measured.load(Ordering::Acquire)
    }

    /// The time by the service's clock; by this host's clock until there is a response.
    pub fn now(&self) -> SystemTime {
        shifted(SystemTime::now(), self.measured_ms.load(Ordering::Relaxed))
    }

    /// By how many seconds the service's clock is ahead of this host's, if a request was refused for it.
    pub fn difference_s(&self) -> i64 {
        self.signed_ms.load(Ordering::Relaxed) / 1000
    }
}

/// The time in a `Date` header.
pub fn time_of(date: &str) -> Option<SystemTime> {
    SystemTime::try_from(DateTime::from_str(date, DateTimeFormat::HttpDate).ok()?).ok()
}

fn shifted(time: SystemTime, difference_ms: i64) -> SystemTime {
    let distance = Duration::from_millis(difference_ms.unsigned_abs());
    let shifted = if difference_ms < 0 { time.checked_sub(distance) } else { time.checked_add(distance) };
    shifted.unwrap_or(time)
}

/// How far `a` is after `b`.
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
    fn a_large_difference_is_adopted_and_a_small_one_is_ignored() {
        let clock = ServiceClock::default();
        let hour = Duration::from_secs(3600);
        assert!(!clock.correct(None));
        assert!(!clock.correct(Some(SystemTime::now() + Duration::from_secs(200))));
        assert_eq!(clock.difference_s(), 0);
        assert!(clock.correct(Some(SystemTime::now() - hour)));
        assert!((3599..=3601).contains(&-clock.difference_s()));
        assert!(!clock.correct(Some(SystemTime::now() - hour)), "the correction is in effect");
        assert!(clock.correct(Some(SystemTime::now())));
        assert!(clock.difference_s().abs() <= 1);
    }

    #[test]
    fn ages_are_judged_by_the_last_response() {
        let clock = ServiceClock::default();
        let behind = |seconds| SystemTime::now() - Duration::from_secs(seconds);
        let near = |time: SystemTime, wanted: SystemTime| milliseconds(time, wanted).abs() < 1500;
        assert!(!clock.is_measured() && near(clock.now(), behind(0)));
        clock.observe(behind(600));
        assert!(clock.is_measured() && near(clock.now(), behind(600)));
        clock.observe(behind(601));
        assert!(near(clock.now(), behind(600)), "a response takes some time");
        clock.observe(behind(0));
        assert!(near(clock.now(), behind(0)));
        assert_eq!(clock.difference_s(), 0, "no request was refused");
    }
}
