//! Reads the bytes of a configuration file into values with their line numbers.

use super::keys::{KEYS, Key, list};
use super::settings::{Setting, SettingOrigin, place};
use super::unknown::{unknown_key, unknown_section};
use super::value::Value;
use crate::error::{Error, Result};
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// Parses every setting in `content`, whose origin follows from its line; reports the first error in the file.
///
/// # Errors
/// Usage, beginning with `path` and a line.
pub(super) fn read(
    path: &Path,
    content: &[u8],
    origin: impl Fn(usize) -> SettingOrigin,
) -> Result<Vec<Setting>> {
    let text = std::str::from_utf8(content).map_err(|error| {
        let line = line_of(content, error.valid_up_to());
        Error::usage("not valid UTF-8").hint("Save the file as UTF-8.").context(place(path, line))
    })?;
    let table = DeTable::parse(text).map_err(|error| syntax_error(path, text, &error))?;
    let mut entries = Vec::new();
    collect("", table.get_ref(), &mut entries);
    entries.sort_by_key(|entry| entry.offset);

    let mut settings = Vec::new();
    for entry in entries {
        let line = line_of(content, entry.offset);
        if let Some((key, value)) = entry.read().map_err(|error| error.context(place(path, line)))? {
            settings.push(Setting { key, value: Some(value), origin: origin(line) });
        }
    }
    Ok(settings)
}

/// A value in the file under its full name, or an empty table.
struct Entry<'a> {
    name: String,
    offset: usize,
    value: &'a DeValue<'a>,
}

impl Entry<'_> {
    /// The key and its value; `None` for a section without keys.
    fn read(&self) -> Result<Option<(&'static Key, Value)>> {
        if let Some(key) = Key::find(&self.name) {
            return Value::read(key, self.value).map(|value| Some((key, value)));
        }
        let known_section = Key::sections().contains(&self.name.as_str());
        match (known_section, self.value) {
            (true, DeValue::Table(_)) => Ok(None),
            (true, _) => Err(not_a_section(&self.name, self.value)),
            (false, DeValue::Table(_)) => Err(unknown_section(&self.name)),
            (false, _) => Err(unknown_key(&self.name, self.value)),
        }
    }
}

/// Collects the entries of `table`, which is named `section`, under full names. The table of keys has one level of
/// sections, so deeper tables stay single values.
fn collect<'a>(section: &str, table: &'a DeTable<'a>, entries: &mut Vec<Entry<'a>>) {
    for (key, value) in table {
        let leaf = bare(key.get_ref());
        let name = if section.is_empty() { leaf } else { format!("{section}.{leaf}") };
        match value.get_ref() {
            DeValue::Table(inner)
                if section.is_empty() && !inner.is_empty() && Key::find(&name).is_none() =>
            {
                collect(&name, inner, entries);
            }
            other => entries.push(Entry { name, offset: key.span().start, value: other }),
        }
    }
}

/// A part of a dotted name, quoted if necessary: `"a.b"` is one part and not a section.
fn bare(part: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !part.is_empty() && part.bytes().all(is_bare) {
        part.to_owned()
    } else {
        format!("'{}'", part.escape_debug())
    }
}

fn not_a_section(name: &str, value: &DeValue<'_>) -> Error {
    let keys: Vec<_> =
        KEYS.iter().filter(|key| key.section() == name).map(|key| format!("\"{}\"", key.name)).collect();
    // The value itself is not repeated: it may be a connection with its password.
    Error::usage(format!("\"{name}\" must be a section, not {}", type_of(value)))
        .hint(format!("Available keys: {}.", list(&keys, "and")))
}

fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

fn syntax_error(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let offset = error.span().map_or(text.len(), |span| span.start);
    let before = text.get(..offset).unwrap_or(text);
    let column = before.chars().rev().take_while(|letter| *letter != '\n').count() + 1;
    let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
    Error::usage(message)
        .hint("The file must be valid TOML. Put strings in double quotes.")
        .context(format!("{}, column {column}", place(path, line_of(text.as_bytes(), offset))))
}

/// The line, counted from 1, of the byte at `offset`.
fn line_of(content: &[u8], offset: usize) -> usize {
    content.iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}
