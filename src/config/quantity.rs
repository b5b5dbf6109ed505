//! Times and sizes in PostgreSQL's notation: `60s`, `8MB`.
//!
//! Source: PostgreSQL's manual, "Setting Parameters", "Parameter Names and Values"; `utils/misc/guc.c`,
//! `memory_unit_conversion_table`, `time_unit_conversion_table`. A number without a unit is rejected, unless it is 0,
//! and so are fractions.

use std::time::Duration;

/// Names of units, largest first, and what each amounts to.
pub(super) type Units = [(&'static str, u64)];

/// Units of time, in microseconds.
pub(super) const TIME_UNITS: &Units = &[
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("min", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// Units of size, in bytes.
pub(super) const SIZE_UNITS: &Units =
    &[("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10), ("B", 1)];

/// The time in `text`; `None` if it is not one.
pub(super) fn parse_time(text: &str) -> Option<Duration> {
    parse(text, TIME_UNITS).map(Duration::from_micros)
}

/// The number of bytes in `text`; `None` if it is not one.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    parse(text, SIZE_UNITS)
}

/// A time in the largest unit in which it is a whole number, as `SHOW` prints it: `1min` for 60 s.
pub fn time_text(time: Duration) -> String {
    text(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), TIME_UNITS)
}

/// A number of bytes in the largest unit in which it is a whole number, as `SHOW` prints it.
pub(super) fn size_text(bytes: u64) -> String {
    text(bytes, SIZE_UNITS)
}

fn parse(text: &str, units: &Units) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let unit = unit.trim_start_matches(' ');
    if number == 0 && unit.is_empty() {
        return Some(0);
    }
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

fn text(amount: u64, units: &Units) -> String {
    let largest = units.iter().find(|(_, factor)| amount != 0 && amount.is_multiple_of(*factor));
    match largest {
        Some((name, factor)) => format!("{}{name}", amount / factor),
        None => amount.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_units_of_postgresql() {
        for (written, micros, shown) in [
            ("0", 0, "0"),
            ("0s", 0, "0"),
            ("1us", 1, "1us"),
            ("1500ms", 1_500_000, "1500ms"),
            ("60s", 60_000_000, "1min"),
            ("90 s", 90_000_000, "90s"),
            ("48h", 172_800_000_000, "2d"),
            ("0036min", 2_160_000_000, "36min"),
        ] {
            let time = parse_time(written).unwrap();
            assert_eq!((time, time_text(time).as_str()), (Duration::from_micros(micros), shown), "{written}");
        }
        for wrong in [
            "",
            "s",
            "60",
            "-1s",
            "+1s",
            "1.5h",
            "1S",
            "1sec",
            "1min30s",
            " 1s",
            "1s ",
            "1m",
            "1ä",
            "99999999999d",
        ] {
            assert_eq!(parse_time(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (written, bytes, shown) in [
            ("0", 0, "0"),
            ("1000B", 1000, "1000B"),
            ("2048kB", 2 << 20, "2MB"),
            ("1536MB", 1536 << 20, "1536MB"),
            ("16GB", 16 << 30, "16GB"),
            ("16777215TB", 16_777_215 << 40, "16777215TB"),
        ] {
            let size = parse_size(written).unwrap();
            assert_eq!((size, size_text(size).as_str()), (bytes, shown), "{written}");
        }
        for wrong in ["8", "8M", "8mb", "8KB", "8MiB", "8 M B", "16777216TB", "99999999999999999999B"] {
            assert_eq!(parse_size(wrong), None, "{wrong:?}");
        }
    }
}
