//! The names of objects.

use crate::error::{Error, Result};
use std::fmt;

/// The name of an object within a store: parts of `[A-Za-z0-9_.-]`, separated by `/`; no part begins with a dot.
///
/// A key is a relative path that stays below the store's root and means the same in every store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// The key with this text.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for any other text: pgark makes keys itself or reads
    /// them from a repository.
    pub fn new(text: impl Into<String>) -> Result<ObjectKey> {
        let text = text.into();
        let well_formed = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        if text.split('/').all(well_formed) {
            Ok(ObjectKey(text))
        } else {
            Err(Error::damaged(format!("{text:?} is not a valid object name")))
        }
    }

    /// The key of an object below this one.
    ///
    /// # Errors
    /// As [`ObjectKey::new`].
    pub fn join(&self, below: impl fmt::Display) -> Result<ObjectKey> {
        ObjectKey::new(format!("{}/{below}", self.0))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_below_the_root() {
        assert_eq!(ObjectKey::new("a/b-1/c.d_e").unwrap().join("f").unwrap().as_str(), "a/b-1/c.d_e/f");
        for text in ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.b", "a b", "a\\b", "ä", "a\0"] {
            assert!(ObjectKey::new(text).is_err(), "{text:?}");
        }
    }
}
