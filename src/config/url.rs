//! Where the repository is.

use crate::error::{Error, Result};
use std::fmt;
use std::path::{Path, PathBuf};

/// The place of a repository, as the operator names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RepositoryUrl {
    /// A directory, by its absolute path.
    Directory(PathBuf),
}

impl RepositoryUrl {
    /// Reads an absolute path, or `file://` before one; `None` for what is no place of a repository.
    ///
    /// # Errors
    /// Usage: an address that is understood but cannot be used.
    pub(super) fn read(text: &str) -> Result<Option<RepositoryUrl>> {
        if text.starts_with("s3://") {
            return Err(Error::usage("S3 repositories are not built in yet")
                .hint("Use a directory, such as repository.url = \"/srv/pgark\"."));
        }
        let path = match text.strip_prefix("file://") {
            // Whether `%20` means a space is answered differently by different programs.
            Some(path) if path.contains('%') => {
                return Err(Error::usage("a file:// address with \"%\" is not clear")
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
        }
    }
}

/// The path `text` if it begins at the root and the operating system can take it.
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
    fn refuses_what_it_understands_but_cannot_do() {
        let report = |text| RepositoryUrl::read(text).unwrap_err().report();
        assert_eq!(
            report("s3://bucket/prefix"),
            "S3 repositories are not built in yet\n\
             HINT: Use a directory, such as repository.url = \"/srv/pgark\"."
        );
        assert_eq!(
            report("file:///srv/my%20files"),
            "a file:// address with \"%\" is not clear\nHINT: Write the directory as a plain absolute path."
        );
    }
}
