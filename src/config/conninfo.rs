//! Connection parameters whose secrets are masked in all output.

use std::fmt;
use std::ops::Range;

/// Connection parameters in libpq's form `key=value key='other value'`; empty: the local socket.
///
/// May hold a password: `Display` and `Debug` show `password=***`.
///
/// Source: PostgreSQL's manual, "Connection Strings", "Keyword/Value Connection Strings"; `fe-connect.c`,
/// `conninfo_parse`.
#[derive(Clone, PartialEq, Eq)]
pub struct Conninfo(String);

/// The parameters whose values are secret.
const SECRETS: [&str; 3] = ["password", "sslpassword", "oauth_client_secret"];

/// The positions of the key and the value of a parameter in the text.
struct Parameter {
    key: Range<usize>,
    value: Range<usize>,
}

impl Conninfo {
    /// The parameters in `text`; `None` if it is not of that form.
    pub fn new(text: &str) -> Option<Conninfo> {
        parameters(text).map(|_| Conninfo(text.to_owned()))
    }

    /// The original text, secrets included: for the connection only, never for output.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The parameters in order, as name and value without quotes and backslashes, including secrets. Of a duplicate
    /// name, the last one counts.
    pub fn parameters(&self) -> Vec<(&str, String)> {
        let text = |range: Range<usize>| self.0.get(range).unwrap_or_default();
        let found = parameters(&self.0).unwrap_or_default();
        found.into_iter().map(|found| (text(found.key), unquoted(text(found.value)))).collect()
    }
}

/// A value without its quotes and escapes.
fn unquoted(value: &str) -> String {
    let inner = value.strip_prefix('\'').map(|rest| rest.strip_suffix('\'').unwrap_or(rest)).unwrap_or(value);
    let mut meant = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => meant.extend(characters.next()),
            other => meant.push(other),
        }
    }
    meant
}

impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |range: Range<usize>| self.0.get(range).unwrap_or_default();
        let mut shown = 0;
        for parameter in parameters(&self.0).unwrap_or_default() {
            if SECRETS.contains(&text(parameter.key)) {
                write!(f, "{}***", text(shown..parameter.value.start))?;
                shown = parameter.value.end;
            }
        }
        f.write_str(text(shown..self.0.len()))
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// Parses the text like `conninfo_parse`; `None` if that would report an error.
fn parameters(text: &str) -> Option<Vec<Parameter>> {
    let is_space = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C);
    let bytes = text.as_bytes();
    let at = |position: usize| bytes.get(position).copied();
    let skip = |mut position: usize| {
        while at(position).is_some_and(is_space) {
            position += 1;
        }
        position
    };
    if bytes.contains(&0) {
        return None;
    }
    let mut found = Vec::new();
    let mut position = skip(0);
    while position < bytes.len() {
        let key_start = position;
        while at(position).is_some_and(|byte| byte != b'=' && !is_space(byte)) {
            position += 1;
        }
        let key = key_start..position;
        // Parameter names are words; anything else is not a parameter list (a URI, for example).
        let word = text.get(key.clone())?;
        if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return None;
        }
        position = skip(position);
        if at(position) != Some(b'=') {
            return None;
        }
        position = skip(position + 1);
        let value_start = position;
        position = if at(position) == Some(b'\'') {
            quoted_end(bytes, position)?
        } else {
            let mut end = position;
            while at(end).is_some_and(|byte| !is_space(byte)) {
                end += if at(end) == Some(b'\\') { 2 } else { 1 };
            }
            end.min(bytes.len())
        };
        found.push(Parameter { key, value: value_start..position });
        position = skip(position);
    }
    Some(found)
}

/// The position after the quote that closes the one at `start`.
fn quoted_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut position = start + 1;
    loop {
        match bytes.get(position)? {
            b'\'' => return Some(position + 1),
            b'\\' => position += 2,
            _ => position += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_secrets_and_nothing_else() {
        for (text, shown) in [
            ("", ""),
            ("host=/tmp port=5433", "host=/tmp port=5433"),
            ("host=a password=geheim user=b", "host=a password=*** user=b"),
            ("password = 'a b\\' c' user=b", "password = *** user=b"),
            ("password='x'user=b", "password=***user=b"),
            ("password=a\\ b user=c", "password=*** user=c"),
            ("password=x\\", "password=***"),
            ("password=x password=y", "password=*** password=***"),
            ("password=", "password=***"),
            ("passfile=/x sslpassword=y", "passfile=/x sslpassword=***"),
            ("password=gehéim", "password=***"),
        ] {
            let conninfo = Conninfo::new(text).unwrap();
            assert_eq!(conninfo.to_string(), shown);
            assert_eq!(conninfo.reveal(), text);
            assert!(!format!("{conninfo:?}").contains("geh"));
        }
    }

    #[test]
    fn values_come_without_quotes_and_backslashes() {
        let conninfo = Conninfo::new("host = a\\ b  password='it\\'s \\\\' port='' user=x\\").unwrap();
        let expected = [("host", "a b"), ("password", "it's \\"), ("port", ""), ("user", "x")];
        let found = conninfo.parameters();
        assert_eq!(found, expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn refuses_what_libpq_would_refuse() {
        for text in [
            "host",
            "host =",
            "=x",
            "host='x",
            "host='x\\",
            "postgresql://u:p@h/d?password=x",
            "a b=c",
            "a=\0",
        ] {
            let accepted = Conninfo::new(text).is_some();
            // libpq accepts an empty value at the end.
            assert_eq!(accepted, text == "host =", "{text:?}");
        }
    }
}
