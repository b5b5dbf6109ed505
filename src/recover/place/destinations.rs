//! Maps each path of a backup to its destination: the data directory or a tablespace's directory.

use super::tablespaces::TablespacePlace;
use crate::error::{Error, Result};
use crate::postgres::backup::tablespace_map::{TablespaceLocation, render_tablespace_map};
use crate::postgres::{MajorVersion, Oid};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The directories of a cluster that is being restored.
#[derive(Clone, Debug)]
pub struct Destinations {
    data_directory: PathBuf,
    tablespaces: Vec<TablespacePlace>,
}

/// The directory that holds the links to tablespaces.
const LINKS: &[u8] = b"pg_tblspc/";

impl Destinations {
    /// Combines the data directory and the tablespaces outside it.
    pub fn new(data_directory: PathBuf, tablespaces: Vec<TablespacePlace>) -> Destinations {
        Destinations { data_directory, tablespaces }
    }

    /// The data directory.
    pub fn data_directory(&self) -> &Path {
        &self.data_directory
    }

    /// The tablespaces outside the data directory.
    pub fn tablespaces(&self) -> &[TablespacePlace] {
        &self.tablespaces
    }

    /// The path of the link to a tablespace.
    pub fn link(&self, tablespace: &TablespacePlace) -> PathBuf {
        self.data_directory.join("pg_tblspc").join(tablespace.oid.to_string())
    }

    /// The content of `tablespace_map` for these destinations. The server recreates the links from it, and
    /// the backup's map would lead to the original's directories.
    ///
    /// # Errors
    /// As [`render_tablespace_map`].
    pub fn tablespace_map(&self, version: MajorVersion) -> Result<Vec<u8>> {
        let locations: Vec<TablespaceLocation> = self
            .tablespaces
            .iter()
            .map(|tablespace| TablespaceLocation {
                oid: tablespace.oid,
                path: tablespace.new.as_os_str().as_bytes().to_vec(),
            })
            .collect();
        render_tablespace_map(&locations, version)
    }

    /// The destination of the file at this path of the backup.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for a path that could lead elsewhere.
    pub fn file(&self, path: &[u8]) -> Result<PathBuf> {
        let (root, below) = self.divide(path)?;
        match below {
            [] => Err(impossible(path)),
            below => Ok(root.join(OsStr::from_bytes(below))),
        }
    }

    /// The destination of the directory at this path; `None` for a tablespace's own directory, which already
    /// exists.
    ///
    /// # Errors
    /// As [`Destinations::file`].
    pub fn directory(&self, path: &[u8]) -> Result<Option<PathBuf>> {
        let (root, below) = self.divide(path)?;
        Ok(match below {
            [] => None,
            below => Some(root.join(OsStr::from_bytes(below))),
        })
    }

    /// The tablespace outside the data directory that a path of the backup belongs to, if any.
    pub fn tablespace_of(&self, path: &[u8]) -> Option<Oid> {
        let oid = path.strip_prefix(LINKS)?.split(|byte| *byte == b'/').next()?;
        self.tablespaces
            .iter()
            .map(|tablespace| tablespace.oid)
            .find(|known| known.to_string().as_bytes() == oid)
    }

    /// Splits a path into the directory that it belongs to and the path below it.
    fn divide<'p>(&self, path: &'p [u8]) -> Result<(&Path, &'p [u8])> {
        let plain = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0);
        if !path.split(|byte| *byte == b'/').all(plain) {
            return Err(impossible(path));
        }
        let below_links = path.strip_prefix(LINKS).unwrap_or_default();
        for tablespace in &self.tablespaces {
            if let Some(rest) = below_links.strip_prefix(tablespace.oid.to_string().as_bytes()) {
                match rest {
                    [] => return Ok((&tablespace.new, rest)),
                    // The server keeps nothing else there. The backup also names the tablespace's location,
                    // and must not be able to create files that another program reads.
                    [b'/', below @ ..] if below.starts_with(b"PG_") => return Ok((&tablespace.new, below)),
                    [b'/', ..] => return Err(impossible(path)),
                    _ => {}
                }
            }
        }
        Ok((&self.data_directory, path))
    }
}

fn impossible(path: &[u8]) -> Error {
    Error::damaged(format!("the backup holds \"{}\", which cannot be restored", path.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destinations() -> Destinations {
        let tablespace = |oid, new: &str| TablespacePlace {
            oid: Oid::new(oid),
            name: "x".to_owned(),
            old: PathBuf::from("/old"),
            new: PathBuf::from(new),
        };
        Destinations::new(PathBuf::from("/data"), vec![tablespace(16401, "/ts/a"), tablespace(164, "/ts/b")])
    }

    #[test]
    fn paths_go_to_the_data_directory_or_a_tablespace() {
        for (path, place) in [
            ("base/1/1259", "/data/base/1/1259"),
            ("pg_tblspc/16401/PG_15_202209061/5/1", "/ts/a/PG_15_202209061/5/1"),
            ("pg_tblspc/164/PG_15_202209061", "/ts/b/PG_15_202209061"),
            ("pg_tblspc/16402/x", "/data/pg_tblspc/16402/x"),
            ("pg_tblspc/1640/x", "/data/pg_tblspc/1640/x"),
        ] {
            assert_eq!(destinations().file(path.as_bytes()).unwrap(), PathBuf::from(place));
        }
        assert_eq!(destinations().directory(b"pg_tblspc/16401").unwrap(), None);
        assert!(destinations().file(b"pg_tblspc/16401").is_err());
        assert_eq!(destinations().tablespace_of(b"pg_tblspc/164/PG_15_202209061/5/1"), Some(Oid::new(164)));
        assert_eq!(destinations().tablespace_of(b"pg_tblspc/16402/x"), None);
        assert_eq!(destinations().tablespace_of(b"base/164/1"), None);
    }

    #[test]
    fn no_path_leads_elsewhere() {
        for path in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "pg_tblspc/164/../x",
            "a\0",
            "pg_tblspc/164/",
            "pg_tblspc/164/authorized_keys",
        ] {
            assert!(destinations().file(path.as_bytes()).is_err(), "{path:?}");
            assert!(destinations().directory(path.as_bytes()).is_err(), "{path:?}");
        }
    }
}
