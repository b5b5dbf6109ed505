//! A value of a key: parsed from TOML, displayed, and written as TOML.

use super::cluster_name::ClusterName;
use super::conninfo::Conninfo;
use super::keys::{DefaultValue, Key, Kind, RATE_MAX, RATE_MIN, list};
use super::quantity::{parse_size, parse_time, size_text, time_text};
use super::url::{RepositoryUrl, absolute_path, without_user_information};
use crate::error::{Error, Result};
use crate::postgres::{MajorVersion, SystemIdentifier};
use std::fmt::{self, Write};
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;

/// A valid value of a key; one variant for each [`Kind`].
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    ClusterName(ClusterName),
    Path(PathBuf),
    SystemIdentifier(SystemIdentifier),
    MajorVersion(MajorVersion),
    RepositoryUrl(RepositoryUrl),
    Conninfo(Conninfo),
    Word(&'static str),
    Text(String),
    Truth(bool),
    Number(u64),
    Time(Duration),
    Size(u64),
    Rate(u64),
}

/// How a value is written, which an error shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Notation {
    /// As in a file.
    File,
    /// As in a variable or an argument: without the key and without quotes.
    Bare,
}

/// Upper limit for the part of an invalid value that an error repeats, in characters.
const REPEATED_MAX: usize = 60;

impl Value {
    /// Reads the value of `key`.
    ///
    /// # Errors
    /// Usage, beginning with the key's name: wrong type, out of range, or invalid.
    pub(super) fn read(key: &Key, raw: &DeValue<'_>) -> Result<Value> {
        let value = match (key.kind, raw) {
            (Kind::Number { min, max }, DeValue::Integer(digits)) => {
                u64::from_str_radix(digits.as_str(), digits.radix())
                    .ok()
                    .filter(|number| (min..=max).contains(number))
                    .map(Value::Number)
            }
            (Kind::SystemIdentifier, DeValue::Integer(digits)) if digits.radix() == 10 => {
                system_identifier(digits.as_str())
            }
            (Kind::MajorVersion, DeValue::Integer(digits)) => {
                let number = u32::from_str_radix(digits.as_str(), digits.radix()).ok();
                number.and_then(MajorVersion::new).map(Value::MajorVersion)
            }
            (Kind::Truth, DeValue::Boolean(truth)) => Some(Value::Truth(*truth)),
            // Zero is the same in every unit.
            (kind, DeValue::Integer(digits)) if digits.as_str() == "0" && !kind.units().is_empty() => {
                Value::from_text(kind, "0")?
            }
            (kind, DeValue::String(text)) => Value::from_text(kind, text)?,
            _ => None,
        };
        value.ok_or_else(|| mismatch(key, raw, Notation::File))
    }

    /// Reads the value of `key` from a variable or an argument, where it has no quotes.
    ///
    /// # Errors
    /// As [`Value::read`].
    pub(super) fn parse(key: &Key, text: &str) -> Result<Value> {
        let decimal = || text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let value = match key.kind {
            Kind::Number { min, max } => {
                decimal().filter(|number| (min..=max).contains(number)).map(Value::Number)
            }
            Kind::MajorVersion => {
                let number = decimal().and_then(|number| u32::try_from(number).ok());
                number.and_then(MajorVersion::new).map(Value::MajorVersion)
            }
            Kind::Truth => text.parse().ok().map(Value::Truth),
            kind => Value::from_text(kind, text)?,
        };
        value.ok_or_else(|| mismatch(key, &DeValue::String(text.into()), Notation::Bare))
    }

    /// The default of `key` in `cluster`.
    pub(super) fn default_of(key: &Key, cluster: &ClusterName) -> Result<Option<Value>> {
        match key.default {
            DefaultValue::Required | DefaultValue::Absent(_) => Ok(None),
            DefaultValue::Number(number) => Ok(Some(Value::Number(number))),
            DefaultValue::Truth(truth) => Ok(Some(Value::Truth(truth))),
            DefaultValue::Text(text) => {
                Value::from_text(key.kind, &text.replace("<cluster>", cluster.as_str()))
            }
        }
    }

    fn from_text(kind: Kind, text: &str) -> Result<Option<Value>> {
        Ok(match kind {
            Kind::ClusterName => ClusterName::new(text).map(Value::ClusterName),
            Kind::AbsolutePath => absolute_path(text).map(Value::Path),
            Kind::SystemIdentifier => system_identifier(text),
            Kind::RepositoryUrl => RepositoryUrl::read(text)?.map(Value::RepositoryUrl),
            Kind::Conninfo => Conninfo::new(text).map(Value::Conninfo),
            Kind::OneOf(words) => words.iter().find(|word| **word == text).map(|word| Value::Word(word)),
            Kind::Text { fits, .. } => fits(text).then(|| Value::Text(text.to_owned())),
            Kind::Time { min, max } => {
                parse_time(text).filter(|time| (min..=max).contains(time)).map(Value::Time)
            }
            Kind::Size { min, max } => {
                parse_size(text).filter(|size| (min..=max).contains(size)).map(Value::Size)
            }
            Kind::Rate => parse_size(text)
                .filter(|rate| *rate == 0 || (RATE_MIN..=RATE_MAX).contains(rate))
                .map(Value::Rate),
            Kind::MajorVersion | Kind::Truth | Kind::Number { .. } => None,
        })
    }

    /// The value as a variable or an argument has it, secrets included.
    pub(super) fn to_bare(&self) -> String {
        match self {
            Value::Conninfo(conninfo) => conninfo.reveal().to_owned(),
            other => other.to_string(),
        }
    }

    /// The value in the syntax of a configuration file, secrets included.
    pub(super) fn to_toml(&self) -> String {
        match self {
            Value::Number(number) => number.to_string(),
            Value::MajorVersion(version) => version.to_string(),
            Value::Truth(truth) => truth.to_string(),
            Value::Conninfo(conninfo) => quoted(conninfo.reveal()),
            // TOML integers are signed 64-bit numbers for most readers; a system identifier may exceed them.
            other => quoted(&other.to_string()),
        }
    }
}

impl fmt::Display for Value {
    /// The value for display: without quotes and secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::ClusterName(name) => write!(f, "{name}"),
            Value::Path(path) => write!(f, "{}", path.display()),
            Value::SystemIdentifier(system) => write!(f, "{system}"),
            Value::MajorVersion(version) => write!(f, "{version}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Time(time) => f.write_str(&time_text(*time)),
            Value::Size(bytes) | Value::Rate(bytes) => f.write_str(&size_text(*bytes)),
            Value::RepositoryUrl(url) => write!(f, "{url}"),
            Value::Conninfo(conninfo) => write!(f, "{conninfo}"),
            Value::Word(word) => f.write_str(word),
            Value::Text(text) => f.write_str(text),
            Value::Truth(truth) => write!(f, "{truth}"),
        }
    }
}

fn system_identifier(digits: &str) -> Option<Value> {
    let decimal = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| decimal).and_then(SystemIdentifier::new).map(Value::SystemIdentifier)
}

fn mismatch(key: &Key, raw: &DeValue<'_>, notation: Notation) -> Error {
    let found = match (key.kind, raw) {
        // It may hold a password.
        (Kind::Conninfo, DeValue::String(_)) => String::new(),
        _ => format!(", not {}", describe(raw)),
    };
    let hint = match key.default {
        _ if matches!(key.kind, Kind::RepositoryUrl) && raw.as_str().is_some_and(|text| text.contains('@')) => {
            "Do not put access keys into the URL. They come from the environment, a profile (s3.profile, s3.credentials_file) \
             or a role."
                .to_owned()
        }
        _ if !key.kind.units().is_empty() && !has_unit(key, raw) => missing_unit(key, raw, notation),
        DefaultValue::Required => key.description.to_owned(),
        default => format!("{} The default is {default}.", key.description),
    };
    Error::usage(format!("\"{}\" must be {}{found}", key.name, key.kind)).hint(hint)
}

/// Whether `raw` is an amount with a valid unit, which is then out of range.
fn has_unit(key: &Key, raw: &DeValue<'_>) -> bool {
    match (key.kind, raw) {
        (Kind::Time { .. }, DeValue::String(text)) => parse_time(text).is_some(),
        (_, DeValue::String(text)) => parse_size(text).is_some(),
        (_, DeValue::Integer(digits)) => digits.as_str() == "0",
        _ => false,
    }
}

/// The hint for an amount without a valid unit: how to write it, with the given number if that fits.
fn missing_unit(key: &Key, raw: &DeValue<'_>, notation: Notation) -> String {
    let number = match raw {
        DeValue::Integer(digits) => digits.as_str(),
        DeValue::String(text) => text,
        _ => "",
    };
    let value = with_unit(key, number, key.usual_unit());
    let units: Vec<_> = key.kind.units().iter().rev().map(|(name, _)| format!("\"{name}\"")).collect();
    format!(
        "Write a whole number with a unit: {}. Valid units are {}.",
        match notation {
            Notation::File => format!("{} = \"{value}\"", key.name),
            Notation::Bare => value,
        },
        list(&units, "and")
    )
}

/// `number` in `unit` as a value of `key`, or an example if that does not fit.
pub(super) fn with_unit(key: &Key, number: &str, unit: &str) -> String {
    let wanted = format!("{number}{unit}");
    let fits = matches!(Value::from_text(key.kind, &wanted), Ok(Some(_)));
    if fits { wanted } else { key.example().to_owned() }
}

/// The wrong value `raw` on one line.
fn describe(raw: &DeValue<'_>) -> String {
    match raw {
        DeValue::String(text) => format!("{:?}", shortened(&without_user_information(text))),
        DeValue::Integer(digits) => shortened(&digits.to_string()),
        DeValue::Float(float) => shortened(float.as_str()),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(REPEATED_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// `text` as a basic string of TOML.
fn quoted(text: &str) -> String {
    let mut toml = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => toml.extend(['\\', letter]),
            '\u{0}'..='\u{1F}' | '\u{7F}' => {
                write!(toml, "\\u{:04X}", u32::from(letter)).expect("a string takes all that is written")
            }
            _ => toml.push(letter),
        }
    }
    toml.push('"');
    toml
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::KEYS;

    #[test]
    fn quotes_what_toml_wants_quoted() {
        for text in ["", "plain", "a \"b\" \\c\\", "line\nbreak\ttab", "\u{7F}\u{1}", "ä € 🐘"] {
            let toml = quoted(text);
            let raw = DeValue::parse(&toml).unwrap();
            assert_eq!(raw.get_ref().as_str(), Some(text), "{toml}");
            assert_eq!(toml.lines().count(), 1);
        }
    }

    #[test]
    fn every_default_fits_its_key() {
        let cluster = ClusterName::new("main").unwrap();
        for key in KEYS {
            if !key.kind.units().is_empty() {
                assert!(Value::from_text(key.kind, key.example()).unwrap().is_some(), "{}", key.name);
            }
            let value = Value::default_of(key, &cluster).unwrap();
            let expected = !matches!(key.default, DefaultValue::Required | DefaultValue::Absent(_));
            assert_eq!(value.is_some(), expected, "{}", key.name);
        }
    }

    #[test]
    fn repeats_a_wrong_value_only_in_part() {
        let text = format!("\"{}\"", "ä".repeat(100));
        let shown = describe(DeValue::parse(&text).unwrap().get_ref());
        assert_eq!(shown, format!("\"{}…\"", "ä".repeat(60)));
    }
}
