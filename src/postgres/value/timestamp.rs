//! PostgreSQL's `timestamptz`, as stored in WAL.

use std::fmt;

/// Seconds from 1970-01-01 to 2000-01-01. Source: PostgreSQL `datatype/timestamp.h`, the two epochs' Julian dates.
const EPOCH_UNIX_S: i64 = 946_684_800;

/// A point in time in microseconds since 2000-01-01 00:00:00 UTC, without leap seconds.
///
/// `Display` prints what `pg_waldump` prints in UTC: `2026-01-15 14:30:00.000000 UTC`. Source: PostgreSQL
/// `datatype/timestamp.h`, `TimestampTz`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTimestamp(i64);

impl PgTimestamp {
    /// The time at this number of microseconds after 2000-01-01.
    pub const fn new(microseconds: i64) -> PgTimestamp {
        PgTimestamp(microseconds)
    }

    /// The number of microseconds since 2000-01-01.
    pub const fn as_i64(self) -> i64 {
        self.0
    }

    /// The same time as a calendar date; `None` if it is out of range, which only damaged WAL contains.
    pub fn to_jiff(self) -> Option<jiff::Timestamp> {
        let unix_us = self.0.checked_add(EPOCH_UNIX_S * 1_000_000)?;
        jiff::Timestamp::from_microsecond(unix_us).ok()
    }

    /// Whether this time is more than `window` later than `other`.
    pub fn is_later_by(self, other: PgTimestamp, window: std::time::Duration) -> bool {
        let window = i64::try_from(window.as_micros()).unwrap_or(i64::MAX);
        self.0.saturating_sub(other.0) > window
    }

    /// The last microsecond that is not later than `time`.
    pub fn from_jiff(time: jiff::Timestamp) -> PgTimestamp {
        // The calendar ends in the year 9999, so the result fits. Rounds down, also before 1970.
        let nanoseconds = time.as_nanosecond().div_euclid(1000) - i128::from(EPOCH_UNIX_S) * 1_000_000;
        PgTimestamp(i64::try_from(nanoseconds).unwrap_or(i64::MAX))
    }
}

/// The form that PostgreSQL reads, with its offset, so that no setting can change its meaning.
impl fmt::Display for PgTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_jiff() {
            Some(time) => write!(f, "{}", time.strftime("%Y-%m-%d %H:%M:%S.%6f+00")),
            None => write!(f, "{} µs after 2000", self.0),
        }
    }
}

impl fmt::Debug for PgTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_2000() {
        for (microseconds, text) in [
            (0, "2000-01-01T00:00:00Z"),
            (821_830_200_000_000, "2026-01-15T22:10:00Z"),
            (-946_684_800_000_000, "1970-01-01T00:00:00Z"),
            (-1, "1999-12-31T23:59:59.999999Z"),
        ] {
            let time: jiff::Timestamp = text.parse().unwrap();
            assert_eq!(PgTimestamp::from_jiff(time), PgTimestamp::new(microseconds), "{text}");
            assert_eq!(PgTimestamp::new(microseconds).to_jiff(), Some(time));
        }
        assert_eq!(PgTimestamp::new(1).to_string(), "2000-01-01 00:00:00.000001+00");
    }

    #[test]
    fn rounds_down_and_survives_nonsense() {
        let time: jiff::Timestamp = "1969-12-31T23:59:59.9999999Z".parse().unwrap();
        assert_eq!(
            PgTimestamp::from_jiff(time).to_jiff().unwrap().to_string(),
            "1969-12-31T23:59:59.999999Z"
        );
        for microseconds in [i64::MIN, i64::MAX] {
            assert_eq!(PgTimestamp::new(microseconds).to_jiff(), None);
            assert!(PgTimestamp::new(microseconds).to_string().contains("µs"));
        }
        PgTimestamp::from_jiff(jiff::Timestamp::MAX);
        PgTimestamp::from_jiff(jiff::Timestamp::MIN);
    }
}
