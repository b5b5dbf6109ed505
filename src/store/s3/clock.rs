//! What time it is for the service, which refuses requests that were signed a quarter of an hour before or after that.
//!
//! The clock of this host may be wrong, or jump while a long backup runs. An answer says in its `Date` what time it is
//! over there, and the SDK signs the next request of the same client by that; so one that was refused is made again.
//! Source: `aws-runtime`, `service_clock_skew`.
//!
//! Hosts that share a bucket judge each other's heartbeats and uploads by this clock, which is the same for all of them.

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// A difference that may be the reason of a refusal: S3 takes 15 minutes, and an answer takes a while.
const SKEW_MIN: Duration = Duration::from_secs(240);

/// A smaller difference comes from the way of the answer, and from `Date`, which has whole seconds.
const MEASURED_MIN: Duration = Duration::from_secs(2);

/// The service's clock, as far as it is known: that of this host, with a difference in milliseconds.
#[derive(Debug, Default)]
pub struct ServiceClock {
    /// The difference by which requests are signed; 0 unless one was refused for it.
    signed_ms: AtomicI64,
    /// The difference that the answers have shown.
    measured_ms: AtomicI64,
    /// Whether there was an answer.
    is_measured: AtomicBool,
}

impl ServiceClock {
    /// Takes over what a refusal says, if that differs so much that it may be the reason; whether it did.
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

    /// Takes note of the time that an answer says.
    pub fn observe(&self, service_time: SystemTime) {
        let difference_ms = milliseconds(service_time, SystemTime::now());
        let known_ms = self.measured_ms.load(Ordering::Relaxed);
        if difference_ms.abs_diff(known_ms) >= MEASURED_MIN.as_millis() as u64 {
            self.measured_ms.store(difference_ms, Ordering::Relaxed);
        }
        self.is_measured.store(true, Ordering::Release);
    }

    /// Whether an answer has said what time it is.
    pub fn is_measured(&self) -> bool {
        self.is_measured.load(Ordering::Acquire)
    }

    /// What time it is for the service; for this host as long as there was no answer.
    pub fn now(&self) -> SystemTime {
        shifted(SystemTime::now(), self.measured_ms.load(Ordering::Relaxed))
    }

    /// How much the service's clock is ahead of this host's, in seconds, where it was found to differ.
    pub fn difference_s(&self) -> i64 {
        self.signed_ms.load(Ordering::Relaxed) / 1000
    }
}

/// The time that a `Date` header says.
pub fn time_of(date: &str) -> Option<SystemTime> {
    SystemTime::try_from(DateTime::from_str(date, DateTimeFormat::HttpDate).ok()?).ok()
}

fn shifted(time: SystemTime, difference_ms: i64) -> SystemTime {
    let distance = Duration::from_millis(difference_ms.unsigned_abs());
    let shifted = if difference_ms < 0 { time.checked_sub(distance) } else { time.checked_add(distance) };
    shifted.unwrap_or(time)
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
        assert!(!clock.correct(Some(SystemTime::now() - hour)), "it is right now");
        assert!(clock.correct(Some(SystemTime::now())));
        assert!(clock.difference_s().abs() <= 1);
    }

    #[test]
    fn ages_are_judged_by_the_last_answer() {
        let clock = ServiceClock::default();
        let behind = |seconds| SystemTime::now() - Duration::from_secs(seconds);
        let near = |time: SystemTime, wanted: SystemTime| milliseconds(time, wanted).abs() < 1500;
        assert!(!clock.is_measured() && near(clock.now(), behind(0)));
        clock.observe(behind(600));
        assert!(clock.is_measured() && near(clock.now(), behind(600)));
        clock.observe(behind(601));
        assert!(near(clock.now(), behind(600)), "an answer takes a while");
        clock.observe(behind(0));
        assert!(near(clock.now(), behind(0)));
        assert_eq!(clock.difference_s(), 0, "no request was refused");
    }
}
