//! The number that identifies a cluster.

use crate::error::{Error, Result};
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// The identifier that `initdb` assigns to a cluster; all its copies and standbys share it.
///
/// Text form: decimal digits, as printed by `pg_controldata`. In JSON it is a string, because most readers lose digits
/// of numbers above 2^53. Source: PostgreSQL `catalog/pg_control.h`, `system_identifier`; never 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemIdentifier(NonZeroU64);

impl SystemIdentifier {
    /// The identifier with this number; `None` for 0.
    pub const fn new(number: u64) -> Option<SystemIdentifier> {
        match NonZeroU64::new(number) {
            Some(number) => Some(SystemIdentifier(number)),
            None => None,
        }
    }

    /// The number.
    pub const fn as_u64(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_u64())
    }
}

impl fmt::Debug for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SystemIdentifier {
    type Err = Error;

    /// Parses decimal digits without sign or leading zeros, so that each cluster has a single spelling.
    fn from_str(text: &str) -> Result<SystemIdentifier> {
        let well_formed = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        let number = if well_formed { text.parse().ok() } else { None };
        number.and_then(SystemIdentifier::new).ok_or_else(|| {
            Error::usage(format!("\"{text}\" is not a system identifier"))
                .hint("pg_controldata prints it as \"Database system identifier\".")
        })
    }
}

impl serde::Serialize for SystemIdentifier {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for SystemIdentifier {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<SystemIdentifier, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_string_in_json_and_keeps_every_digit() {
        let system: SystemIdentifier = "18446744073709551615".parse().unwrap();
        assert_eq!(serde_json::to_string(&system).unwrap(), "\"18446744073709551615\"");
        assert_eq!(
            serde_json::from_str::<SystemIdentifier>("\"7710303532919766818\"").unwrap().as_u64(),
            7_710_303_532_919_766_818
        );
        assert!(serde_json::from_str::<SystemIdentifier>("7710303532919766818").is_err());
    }

    #[test]
    fn has_one_spelling() {
        for text in ["", "0", "01", "+1", "-1", "1 ", "18446744073709551616", "x"] {
            assert!(text.parse::<SystemIdentifier>().is_err(), "{text:?}");
        }
    }
}
