//! The location of the repository.

use crate::error::{Error, Result};
use std::fmt;
use std::path::{Path, PathBuf};

/// The location of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RepositoryUrl {
    /// A directory, by its absolute path.
    Directory(PathBuf),
    /// The objects below a prefix in an S3 or S3-compatible bucket.
    S3 {
        /// The bucket.
        bucket: String,
        /// The prefix without a slash at either end; empty for the whole bucket.
        prefix: String,
    },
}

impl RepositoryUrl {
    /// Parses an absolute path, optionally after `file://`, or `s3://bucket/prefix`; `None` for anything else.
    ///
    /// # Errors
    /// Usage: an address that is recognized but cannot be used.
    pub(super) fn read(text: &str) -> Result<Option<RepositoryUrl>> {
        if let Some(place) = text.strip_prefix("s3://") {
            return Ok(bucket_and_prefix(place));
        }
        let path = match text.strip_prefix("file://") {
            // Programs differ in whether `%20` means a space.
            Some(path) if path.contains('%') => {
                return Err(Error::usage("a file:// URL with \"%\" is ambiguous")
                    .hint("Write the directory as a plain absolute path."));
            }
            Some(path) => path,
            None => text,
        };
        Ok(absolute_path(path).map(RepositoryUrl::Directory))
    }
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RepositoryUrl::Directory(path) => write!(f, "{}", path.display()),
            RepositoryUrl::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            RepositoryUrl::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// Parses `bucket/prefix`: a bucket name under the rules of S3 since 2018 (older names may contain capitals and `_`),
/// and a prefix whose parts need no escaping.
fn bucket_and_prefix(text: &str) -> Option<RepositoryUrl> {
    let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let bucket_fits = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(plain)
        && bucket.starts_with(|letter: char| letter.is_ascii_alphanumeric());
    let part_fits = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain);
    let prefix_fits = prefix.is_empty() || prefix.split('/').all(part_fits);
    (bucket_fits && prefix_fits)
        .then(|| RepositoryUrl::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

/// Removes the user and password before the host of an address, for messages.
pub fn without_user_information(text: &str) -> String {
    // A password may contain any character, including those that terminate the host.
    let Some((before, host)) = text.rsplit_once('@') else { return text.to_owned() };
    match before.split_once(':') {
        Some((scheme, rest)) if rest.starts_with("//") => format!("{scheme}://…@{host}"),
        Some(_) => format!("…@{host}"),
        None => text.to_owned(),
    }
}

/// An absolute path that is valid for the operating system; `None` otherwise.
pub(super) fn absolute_path(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    (path.is_absolute() && !text.contains('\0')).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_directories_in_both_forms() {
        for text in ["/srv/pgark", "file:///srv/pgark"] {
            let url = RepositoryUrl::read(text).unwrap().unwrap();
            assert_eq!(url, RepositoryUrl::Directory(PathBuf::from("/srv/pgark")));
            assert_eq!(url.to_string(), "/srv/pgark");
        }
        for text in ["", "srv/pgark", "file://srv/pgark", "file:/srv", "http://host/x", "/a\0b"] {
            assert_eq!(RepositoryUrl::read(text).unwrap(), None, "{text:?}");
        }
    }

    #[test]
    fn reads_buckets() {
        for (text, shown) in [
            ("s3://wal-archive", "s3://wal-archive"),
            ("s3://wal-archive/", "s3://wal-archive"),
            ("s3://wal.archive/prod/db_1/", "s3://wal.archive/prod/db_1"),
        ] {
            assert_eq!(RepositoryUrl::read(text).unwrap().unwrap().to_string(), shown);
        }
        for text in [
            "s3://",
            "s3:///x",
            "s3://ab",
            "s3://bucket//x",
            "s3://bucket/.x",
            "s3://bucket/a b",
            "s3://u:p@host/x",
        ] {
            assert_eq!(RepositoryUrl::read(text).unwrap(), None, "{text:?}");
        }
    }

    #[test]
    fn users_and_passwords_are_not_repeated() {
        for (text, shown) in [
            ("s3://user:password@bucket/prefix", "s3://…@bucket/prefix"),
            ("s3://user@bucket", "s3://…@bucket"),
            ("https://u:pass/wo@rd@host:9000/x", "https://…@host:9000/x"),
            ("user:password@bucket", "…@bucket"),
            ("s3:/user:password@bucket", "…@bucket"),
            ("s3://bucket/prefix", "s3://bucket/prefix"),
            ("team=a@b", "team=a@b"),
            ("/srv/pgark", "/srv/pgark"),
        ] {
            assert_eq!(without_user_information(text), shown);
        }
    }

    #[test]
    fn refuses_what_it_understands_but_cannot_do() {
        let report = |text| RepositoryUrl::read(text).unwrap_err().report();
        assert_eq!(
            report("file:///srv/my%20files"),
            "a file:// URL with \"%\" is ambiguous\nHINT: Write the directory as a plain absolute path."
        );
    }
}
