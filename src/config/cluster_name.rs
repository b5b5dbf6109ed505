//! The name of a cluster.

use std::fmt;

/// The operator's name for a cluster: 1 to 63 of `A-Z a-z 0-9 _ . -`, not beginning with `.` or `-`. It can be used
/// unchanged as a file name, an object key and an argument. `defaults` is not a name: `defaults.toml` is the file below
/// the configurations of all clusters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterName(String);

/// The limit of PostgreSQL's own names (`NAMEDATALEN - 1`).
const LENGTH_MAX: usize = 63;

/// The only well-formed name that is not allowed.
const RESERVED: &str = "defaults";

impl ClusterName {
    /// Checks a name; `None` if it is invalid.
    pub fn new(text: &str) -> Option<ClusterName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let well_formed = (1..=LENGTH_MAX).contains(&text.len())
            && !text.starts_with(['.', '-'])
            && text != RESERVED
            && text.bytes().all(allowed);
        well_formed.then(|| ClusterName(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_a_file_name_everywhere() {
        for name in ["a", "main", "15-main", "_x", "Sales.eu-1", &"a".repeat(63)] {
            assert_eq!(ClusterName::new(name).unwrap().to_string(), name);
        }
        for name in ["", ".", "..", ".x", "-x", "a/b", "a b", "ä", "a\n", "a\0", "defaults", &"a".repeat(64)]
        {
            assert_eq!(ClusterName::new(name), None, "{name:?}");
        }
    }
}
