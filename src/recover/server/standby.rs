//! Settings of a restored cluster that becomes a standby.

use crate::config::Conninfo;
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Role of the restored cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// An independent cluster after it has reached its target.
    Recovered,
    /// A standby that follows the original through the archive and by streaming, until it is promoted.
    Standby(StandbySettings),
}

/// How a standby follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbySettings {
    /// The primary to stream from; `None` to follow only the archive.
    pub primary: Option<Conninfo>,
    /// The delay before it applies commits.
    pub apply_delay: Option<ApplyDelay>,
}

/// How long a standby delays a commit, counted from the commit time on the primary.
///
/// Text form: an integer with a unit, `us`, `ms`, `s`, `min`, `h` or `d`, as in `recovery_min_apply_delay`. A
/// number without a unit, which PostgreSQL reads as milliseconds, is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyDelay(String);

/// PostgreSQL's units of time, in microseconds. Source: PostgreSQL `utils/misc/guc.c`, `time_unit_conversion_table`.
const UNITS: [(&str, u64); 6] = [
    ("us", 1),
    ("ms", 1_000),
    ("min", 60_000_000),
    ("s", 1_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

/// The longest delay, in microseconds: PostgreSQL stores milliseconds in 31 bits.
const DELAY_US_MAX: u64 = (i32::MAX as u64) * 1_000;

impl FromStr for ApplyDelay {
    type Err = Error;

    fn from_str(text: &str) -> Result<ApplyDelay> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).unwrap_or_default();
        let unit = unit.trim_start();
        let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        match (number.parse::<u64>().ok(), factor) {
            (Some(number), Some(factor))
                if number.checked_mul(factor).is_some_and(|delay| delay <= DELAY_US_MAX) =>
            {
                Ok(ApplyDelay(format!("{number}{unit}")))
            }
            (Some(_), Some(_)) => Err(Error::usage(format!("the delay \"{text}\" is too long"))
                .hint("PostgreSQL delays commits by at most 24 days.")),
            _ => Err(Error::usage(format!("\"{text}\" is not a delay"))
                .hint("Specify a whole number with a unit: 30min, 4h or 1d.")),
        }
    }
}

impl fmt::Display for ApplyDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Role {
    /// The settings of this role, by name. All of them are written, because a backup may contain those of
    /// another standby.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let delay = |delay: Option<&ApplyDelay>| {
            ("recovery_min_apply_delay", delay.map_or_else(|| "0".to_owned(), ToString::to_string))
        };
        match self {
            // Would also delay commits in a recovery to a target.
            Role::Recovered => vec![delay(None)],
            Role::Standby(standby) => vec![
                delay(standby.apply_delay.as_ref()),
                ("primary_conninfo", standby.primary.as_ref().map_or("", Conninfo::reveal).to_owned()),
                // A slot belongs to the standby that it was created for.
                ("primary_slot_name", String::new()),
            ],
        }
    }

    /// The signal file for the server, and the signal files that must be absent.
    ///
    /// Both files together also mean a standby. Source: PostgreSQL `access/transam/xlogrecovery.c`,
    /// `readRecoverySignalFile`.
    pub fn signal_files(&self) -> (&'static str, &'static str) {
        match self {
            Role::Recovered => ("recovery.signal", "standby.signal"),
            Role::Standby(_) => ("standby.signal", "recovery.signal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_delay_has_a_number_and_a_unit() {
        for (text, shown) in [("30min", "30min"), ("4 h", "4h"), ("0s", "0s"), ("24d", "24d"), ("5us", "5us")]
        {
            assert_eq!(text.parse::<ApplyDelay>().unwrap().to_string(), shown);
        }
        for text in ["", "5", "h", "-1h", "1.5h", "1 month", "25d", "18446744073709551615d", "1h30min"] {
            assert_eq!(text.parse::<ApplyDelay>().unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
    }

    #[test]
    fn nothing_of_another_standby_is_left() {
        let role = |primary: Option<&str>| {
            Role::Standby(StandbySettings {
                primary: primary.map(|text| Conninfo::new(text).unwrap()),
                apply_delay: Some("4h".parse().unwrap()),
            })
        };
        let of = |role: Role, name| {
            role.settings().into_iter().find(|(found, _)| *found == name).map(|(_, value)| value)
        };
        let streaming = role(Some("host=db password=secret"));
        assert_eq!(of(streaming.clone(), "primary_conninfo").unwrap(), "host=db password=secret");
        assert_eq!(of(streaming, "recovery_min_apply_delay").unwrap(), "4h");
        for name in ["primary_conninfo", "primary_slot_name"] {
            assert_eq!(of(role(None), name).unwrap(), "");
        }
        assert_eq!(of(Role::Recovered, "recovery_min_apply_delay").unwrap(), "0");
        assert_eq!(of(Role::Recovered, "primary_conninfo"), None);
    }
}
