//! Parses the recovery target time entered by an operator.
//!
//! Owns: parsing it unambiguously, or rejecting it. Never assumes a time zone: those of the operator, the server and
//! the log from which the time was copied may differ.

use crate::error::{Error, Result};
use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone};

/// Upper limit for the length of the text, in bytes; the longest zone name has 30.
const TEXT_BYTES_MAX: usize = 100;

/// Upper limit for an offset in PostgreSQL, 15:59:59, in seconds.
const OFFSET_S_MAX: i32 = 16 * 3600 - 1;

/// Parses a time with its zone.
///
/// Text form: `2026-01-15 14:30`, with a space or `T` between date and time, optionally with seconds and up to six
/// decimal places; then, after an optional space, `Z`, `UTC`, `GMT`, an offset (`+01`, `+0100`, `+01:00`, `+01:00:00`)
/// or a zone name (`Europe/Berlin`). This includes RFC 3339. Rejects abbreviations such as `EST`, whose meaning depends
/// on the region, and `UTC+2`, which means the opposite in PostgreSQL.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for anything else, and for a local time that does not exist or
/// is ambiguous in its zone.
pub fn parse_target_time(text: &str) -> Result<Timestamp> {
    let text = text.trim();
    let not_a_time = || {
        Error::usage(format!("\"{}\" is not a time", text.escape_debug())).hint(
            "Specify a time such as \"2026-01-15 14:30:00+00\" or \"2026-01-15 14:30:00 Europe/Berlin\".",
        )
    };
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::usage(format!("a time of {} characters is too long", text.len())));
    }
    let (civil, zone) = split(text).ok_or_else(not_a_time)?;
    let civil_time = civil_of(civil).ok_or_else(not_a_time)?;
    let zone = zone.trim_start();
    if zone.is_empty() {
        return Err(Error::usage(format!("the time \"{civil}\" has no time zone")).hint(format!(
            "Write \"{civil}+00\" if it is in UTC, or add another offset or a zone such as Europe/Berlin."
        )));
    }
    if matches!(zone, "Z" | "z") || zone.eq_ignore_ascii_case("UTC") || zone.eq_ignore_ascii_case("GMT") {
        return Offset::UTC.to_timestamp(civil_time).map_err(|_| not_a_time());
    }
    if zone.starts_with(['+', '-']) {
        let offset = offset_of(zone).ok_or_else(not_a_time)?;
        return offset.to_timestamp(civil_time).map_err(|_| not_a_time());
    }
    in_named_zone(civil_time, zone)
}

/// Splits the text into date and time, and zone.
fn split(text: &str) -> Option<(&str, &str)> {
    let (date, rest) = text.split_at_checked(10)?;
    if !rest.starts_with([' ', 'T', 't']) {
        return None;
    }
    let clock = rest.get(1..)?;
    let length = clock.find(|letter: char| !letter.is_ascii_digit() && letter != ':' && letter != '.');
    text.split_at_checked(date.len() + 1 + length.unwrap_or(clock.len()))
}

/// Parses `2026-01-15 14:30`, `…:00` or `…:00.123456`.
fn civil_of(text: &str) -> Option<DateTime> {
    let (date, clock) = (text.get(..10)?, text.get(11..)?);
    let mut date = date.split('-');
    let (year, month, day) = (date.next()?, date.next()?, date.next()?);
    let date = Date::new(
        i16::try_from(number(year, 4)?).ok()?,
        i8::try_from(number(month, 2)?).ok()?,
        i8::try_from(number(day, 2)?).ok()?,
    )
    .ok()?;
    let (clock, fraction) =
        clock.split_once('.').map_or((clock, None), |(clock, digits)| (clock, Some(digits)));
    let mut clock = clock.split(':');
    let (hour, minute, second) = (clock.next()?, clock.next()?, clock.next());
    if clock.next().is_some() || (fraction.is_some() && second.is_none()) {
        return None;
    }
    let nanosecond = fraction.map_or(Some(0), |digits| {
        let places = (1..=6).contains(&digits.len()).then_some(digits.len())?;
        Some(i32::try_from(number(digits, places)?).ok()? * 10_i32.pow(9 - u32::try_from(places).ok()?))
    })?;
    let time = Time::new(
        i8::try_from(number(hour, 2)?).ok()?,
        i8::try_from(number(minute, 2)?).ok()?,
        i8::try_from(second.map_or(Some(0), |second| number(second, 2))?).ok()?,
        nanosecond,
    )
    .ok()?;
    Some(date.to_datetime(time))
}

/// Parses `+01`, `+0100`, `+01:00` or `+01:00:00`, with either sign.
fn offset_of(text: &str) -> Option<Offset> {
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let digits = text.get(1..)?;
    let parts: Vec<&str> = match digits.len() {
        4 => vec![digits.get(..2)?, digits.get(2..)?],
        _ => digits.split(':').collect(),
    };
    let part = |index: usize, maximum: i32| -> Option<i32> {
        let value = parts.get(index).map_or(Some(0), |part| number(part, 2))?;
        i32::try_from(value).ok().filter(|value| *value <= maximum)
    };
    if parts.len() > 3 {
        return None;
    }
    let seconds = part(0, 15)? * 3600 + part(1, 59)? * 60 + part(2, 59)?;
    Offset::from_seconds(sign * seconds.min(OFFSET_S_MAX)).ok()
}

/// Parses a number of exactly `digits` decimal digits.
fn number(text: &str, digits: usize) -> Option<u32> {
    let well_formed = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
    if well_formed { text.parse().ok() } else { None }
}

fn in_named_zone(civil: DateTime, name: &str) -> Result<Timestamp> {
    let unknown = || {
        Error::usage(format!("\"{}\" is not an unambiguous time zone", name.escape_debug()))
            .hint("Specify an offset such as +00 or +01:00, or a zone's full name such as Europe/Berlin.")
    };
    if !name.contains('/') {
        return Err(unknown());
    }
    let zone = TimeZone::get(name).map_err(|cause| unknown().caused_by(cause))?;
    zone.to_ambiguous_timestamp(civil).unambiguous().map_err(|_| {
        Error::usage(format!("the local time {civil} occurs twice or never in {name}"))
            .hint("Daylight saving time starts or ends then. Specify the offset, such as +01:00.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn understands_offsets_and_zones() {
        for (text, expected) in [
            ("2026-01-15 14:30:00+00", "2026-01-15T14:30:00Z"),
            ("2026-01-15T14:30:00Z", "2026-01-15T14:30:00Z"),
            ("2026-01-15t14:30:00z", "2026-01-15T14:30:00Z"),
            ("2026-01-15 14:30 UTC", "2026-01-15T14:30:00Z"),
            (" 2026-01-15 14:30:00.123456 +01:00 ", "2026-01-15T13:30:00.123456Z"),
            ("2026-01-15T14:30:00.5-0530", "2026-01-15T20:00:00.5Z"),
            ("2026-01-15 00:30:00+05:45:30", "2026-01-14T18:44:30Z"),
            ("2026-01-15 14:30:00 -08", "2026-01-15T22:30:00Z"),
            ("2026-07-15 14:30 Europe/Berlin", "2026-07-15T12:30:00Z"),
            ("2026-01-15 14:30 America/Argentina/Buenos_Aires", "2026-01-15T17:30:00Z"),
            ("2026-03-29 02:30+02", "2026-03-29T00:30:00Z"),
        ] {
            assert_eq!(parse_target_time(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn wants_a_zone_and_shows_how() {
        let error = parse_target_time("2026-01-15 14:30").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert_eq!(error.to_string(), "the time \"2026-01-15 14:30\" has no time zone");
        assert!(error.hint_text().unwrap().starts_with("Write \"2026-01-15 14:30+00\" if it is in UTC"));
    }

    #[test]
    fn refuses_what_has_more_than_one_meaning_or_none() {
        for text in [
            "",
            "yesterday",
            "2026-01-15",
            "2026-01-15+00",
            "2026-01-15 13am+00",
            "2026-01-15 13am",
            "2026-01-15 1:30+00",
            "2026-01-15 01:30 pm+00",
            "2026-01-15 14:30:00.1234567+00",
            "2026-01-15 14:30:00.+00",
            "2026-01-15 14:30.5+00",
            "2026-01-15 14:30:60+00",
            "2026-01-15 24:00+00",
            "2026-02-30 14:30+00",
            "26-01-15 14:30+00",
            "15.01.2026 14:30+00",
            "2026/01/15 14:30+00",
            "2026-01-15 14:30:00:00+00",
            "2026-01-15 14:30 EST",
            "2026-01-15 14:30 CET",
            "2026-01-15 14:30 UTC+2",
            "2026-01-15 14:30+1",
            "2026-01-15 14:30+16",
            "2026-01-15 14:30+01:60",
            "2026-01-15 14:30+00 x",
            "2026-01-15 14:30+",
            "2026-01-15 14:30Z+01",
            "2026-01-15 14:30 Europe/Atlantis",
            "2026-01-15 14:30 ../../etc/passwd",
            "２026-01-15 14:30+00",
            "2026-01-15é14:30+00",
            "2026-03-29 02:30 Europe/Berlin",
            "2026-10-25 02:30 Europe/Berlin",
            "9999-12-31 23:59:59-15",
        ] {
            assert_eq!(parse_target_time(text).unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
        assert!(parse_target_time(&"2".repeat(1 << 20)).is_err());
    }
}
