//! The names of backups.

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// The name of a backup within its system: 1 to 63 of `A-Z a-z 0-9 _ . -`, beginning with neither `.` nor `-`. It is
/// therefore also a valid file name, object key, argument and PostgreSQL backup label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// The length of PostgreSQL's own names (`NAMEDATALEN - 1`). A backup label may have 1024 bytes.
const LENGTH_MAX: usize = 63;

impl Label {
    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The wanted name of a new backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewLabel {
    /// This label, or an error.
    Named(Label),
    /// The time; if a backup has this label, with a number after it.
    OfTime(Label),
}

/// How many backups may be named after one second.
const OF_ONE_TIME_MAX: u32 = 99;

impl NewLabel {
    /// The labels to try, in order.
    pub fn candidates(&self) -> impl Iterator<Item = Label> {
        let (Label(first), number) = match self {
            NewLabel::Named(label) => (label.clone(), 1),
            NewLabel::OfTime(label) => (label.clone(), OF_ONE_TIME_MAX),
        };
        (1..=number).map(move |number| match number {
            1 => Label(first.clone()),
            // A label made from the time leaves room for the number.
            _ => Label(format!("{first}-{number}")),
        })
    }
}

impl FromStr for Label {
    type Err = Error;

    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) for any other text.
    fn from_str(text: &str) -> Result<Label> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let well_formed = (1..=LENGTH_MAX).contains(&text.len())
            && !text.starts_with(['.', '-'])
            && text.bytes().all(allowed);
        if well_formed {
            return Ok(Label(text.to_owned()));
        }
        Err(Error::usage(format!("{text:?} is not a valid backup label")).hint(format!(
            "A label has 1 to {LENGTH_MAX} letters, digits, \"_\", \".\" and \"-\", and begins with a letter, digit or \"_\"."
        )))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Label {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Label {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Label, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_portable_names() {
        for text in ["20260115T143000Z", "a", "_x", "before-upgrade.2", &"a".repeat(63)] {
            assert_eq!(text.parse::<Label>().unwrap().to_string(), text);
        }
        for text in ["", ".", "..", "-x", "a/b", "a b", "ä", "a\n", &"a".repeat(64)] {
            assert!(text.parse::<Label>().is_err(), "{text:?}");
        }
    }
}
