//! Values in PostgreSQL's configuration files.

use crate::error::{Error, Result};
use std::fmt::Write;

/// Quotes a value for `postgresql.auto.conf`.
///
/// Text form: enclosed in single quotes; quotes and backslashes are doubled, and control characters escaped, because a
/// string must not span lines. Source: PostgreSQL `utils/misc/guc-file.l`, `STRING` and `DeescapeQuotedString`.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if the value contains a NUL byte, which no setting can hold.
pub fn quote_setting(value: &str) -> Result<String> {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for letter in value.chars() {
        match letter {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\0' => {
                return Err(Error::usage(format!(
                    "a setting cannot hold a NUL byte: {}",
                    value.escape_debug()
                )));
            }
            // Three octal digits. Writing to a string cannot fail.
            control if control.is_ascii_control() => {
                let _ = write!(quoted, "\\{:03o}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    Ok(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_what_the_file_gives_a_meaning() {
        for (value, quoted) in [
            ("", "''"),
            ("latest", "'latest'"),
            ("it's", "'it''s'"),
            ("a\\nb", "'a\\\\nb'"),
            ("a\nb\r\tc", "'a\\nb\\015\\011c'"),
            ("é # not a comment", "'é # not a comment'"),
            ("archive-get %f '%p'", "'archive-get %f ''%p'''"),
        ] {
            assert_eq!(quote_setting(value).unwrap(), quoted);
        }
        assert!(quote_setting("a\0b").is_err());
    }
}
