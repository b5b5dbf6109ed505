//! Inspects the files in a `--delta` destination: decides which may be kept and removes the others.

use crate::durable::{self, Disk};
use crate::error::{Context, Error, Result};
use crate::recover::place::destinations::Destinations;
use crate::recover::place::staging::{LOST_AND_FOUND, MARKER, interlock};
use nix::unistd::Uid;
use std::cmp::Ordering;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// File type of an existing path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExistingKind {
    /// A directory, or `pg_wal` as a link to one.
    Directory,
    /// A file owned by the expected user and without other hard links, so changing it has no effect
    /// elsewhere.
    File {
        /// Its length in bytes.
        bytes: u64,
    },
    /// A link, a file with other hard links, or a file of another user.
    Other,
}

/// The content of the data directory and its tablespaces, sorted by the paths that a backup uses. Needs about
/// 60 bytes for each file.
#[derive(Debug)]
pub struct Existing {
    /// User ID that must own a file for it to be changed.
    owner: u32,
    entries: Vec<(Vec<u8>, ExistingKind)>,
    next: usize,
    /// Number of files and links that were or would be removed.
    pub removed: u64,
}

/// Whether foreign files are removed or only counted.
#[derive(Clone, Copy, Debug)]
pub enum Removal<'a> {
    /// Remove them from this disk.
    Done(&'a dyn Disk),
    /// Count them only.
    Counted,
}

impl Existing {
    /// An empty inspection.
    pub fn nothing() -> Existing {
        Existing { owner: Uid::effective().as_raw(), entries: Vec::new(), next: 0, removed: 0 }
    }

    /// Inspects the data directory and the tablespaces that it uses; of a tablespace, only the directory of
    /// the backup's version, `version_directory`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn walk(destinations: &Destinations, version_directory: &str) -> Result<Existing> {
        let mut existing = Existing::nothing();
        existing.walk_directory(destinations.data_directory(), b"")?;
        for tablespace in destinations.tablespaces() {
            let below = [b"pg_tblspc/", tablespace.oid.to_string().as_bytes()].concat();
            let directory = tablespace.new.join(version_directory);
            if let Some(metadata) = metadata_of(&directory)? {
                existing.add(
                    &[below.as_slice(), b"/", version_directory.as_bytes()].concat(),
                    &directory,
                    &metadata,
                )?;
            }
        }
        existing.entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(existing)
    }

    fn walk_directory(&mut self, directory: &Path, below: &[u8]) -> Result<()> {
        let what = || format!("could not list \"{}\"", directory.display());
        for entry in fs::read_dir(directory).context(what)? {
            let entry = entry.context(what)?;
            let name = entry.file_name().into_vec();
            // The file list is rewritten; the marker and the interlock are pgark's own.
            let is_ours =
                [MARKER, interlock::NAME, LOST_AND_FOUND].iter().any(|ours| name == ours.as_bytes());
            if below.is_empty() && (is_ours || name == b"backup_manifest") {
                continue;
            }
            let path = if below.is_empty() { name } else { [below, b"/", &name].concat() };
            if let Some(metadata) = metadata_of(&entry.path())? {
                self.add(&path, &entry.path(), &metadata)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &[u8], location: &Path, metadata: &Metadata) -> Result<()> {
        // A pg_wal on another disk is kept there.
        let is_wal = path == b"pg_wal" && metadata.is_symlink() && location.is_dir();
        let kind = if metadata.is_dir() || is_wal {
            ExistingKind::Directory
        } else if metadata.is_file() && metadata.nlink() == 1 && metadata.uid() == self.owner {
            ExistingKind::File { bytes: metadata.len() }
        } else {
            ExistingKind::Other
        };
        self.entries.push((path.to_vec(), kind));
        if kind == ExistingKind::Directory { self.walk_directory(location, path) } else { Ok(()) }
    }

    /// Returns what exists at `path`, where the backup holds a directory or a file. Removes everything before
    /// it that is not part of the backup. The caller passes paths in byte order.
    ///
    /// # Errors
    /// The operating system's.
    pub fn at(
        &mut self,
        path: &[u8],
        destinations: &Destinations,
        removal: Removal<'_>,
    ) -> Result<Option<ExistingKind>> {
        while let Some((found, kind)) = self.entries.get(self.next) {
            match found.as_slice().cmp(path) {
                Ordering::Less => self.remove(destinations, removal)?,
                Ordering::Equal => {
                    let kind = *kind;
                    self.next += 1;
                    return Ok(Some(kind));
                }
                Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    /// Removes everything after the last path.
    ///
    /// # Errors
    /// The operating system's.
    pub fn finish(&mut self, destinations: &Destinations, removal: Removal<'_>) -> Result<()> {
        while self.next < self.entries.len() {
            self.remove(destinations, removal)?;
        }
        Ok(())
    }

    fn remove(&mut self, destinations: &Destinations, removal: Removal<'_>) -> Result<()> {
        let Some((path, kind)) = self.entries.get(self.next) else { return Ok(()) };
        self.removed += u64::from(*kind != ExistingKind::Directory);
        if let Removal::Done(disk) = removal {
            // May already be removed with its directory.
            durable::remove_all(disk, &location_of(destinations, path)?)?;
        }
        self.next += 1;
        Ok(())
    }
}

/// The location of a path: below the data directory, or below a tablespace if it leads through that
/// tablespace's link.
fn location_of(destinations: &Destinations, path: &[u8]) -> Result<PathBuf> {
    match destinations.tablespace_of(path) {
        // The link itself.
        Some(oid) if path.strip_prefix(b"pg_tblspc/") == Some(oid.to_string().as_bytes()) => {
            Ok(destinations.data_directory().join(std::ffi::OsStr::from_bytes(path)))
        }
        _ => destinations.file(path),
    }
}

fn metadata_of(path: &Path) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("could not inspect \"{}\"", path.display()), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::RealDisk;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_does_not_belong_goes_and_links_are_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let (data, other, wal) =
            (scratch.path().join("data"), scratch.path().join("other"), scratch.path().join("wal"));
        for directory in ["base/1", "extra/deep", "pg_tblspc"] {
            fs::create_dir_all(data.join(directory)).unwrap();
        }
        fs::create_dir_all(other.join("PG_15_1")).unwrap();
        fs::create_dir(&wal).unwrap();
        for file in
            ["PG_VERSION", "base/1/1", "base/1/2", "base/1.x", "extra/deep/x", MARKER, "backup_manifest"]
        {
            fs::write(data.join(file), file).unwrap();
        }
        fs::write(other.join("PG_15_1/7"), b"precious").unwrap();
        fs::write(wal.join("000000010000000000000001"), b"old").unwrap();
        fs::hard_link(data.join("PG_VERSION"), scratch.path().join("same")).unwrap();
        symlink(&other, data.join("pg_tblspc/164")).unwrap();
        symlink(&wal, data.join("pg_wal")).unwrap();
        let destinations = Destinations::new(data.clone(), Vec::new());
        let mut existing = Existing::walk(&destinations, "PG_15_1").unwrap();
        let mut at =
            |path: &str| existing.at(path.as_bytes(), &destinations, Removal::Done(&RealDisk)).unwrap();
        assert_eq!(at("PG_VERSION"), Some(ExistingKind::Other), "it has another name");
        assert_eq!(at("base"), Some(ExistingKind::Directory));
        assert_eq!(at("base/1"), Some(ExistingKind::Directory));
        assert_eq!(at("base/1/2"), Some(ExistingKind::File { bytes: 8 }));
        assert_eq!(at("base/2"), None);
        assert_eq!(at("pg_wal"), Some(ExistingKind::Directory));
        existing.finish(&destinations, Removal::Done(&RealDisk)).unwrap();
        assert_eq!(existing.removed, 5);
        for path in ["base/1/1", "base/1.x", "extra", "pg_tblspc/164"] {
            assert!(fs::symlink_metadata(data.join(path)).is_err(), "{path}");
        }
        for path in ["base/1/2", "PG_VERSION", MARKER, "backup_manifest", "pg_wal"] {
            assert!(data.join(path).exists(), "{path}");
        }
        assert_eq!(fs::read_dir(&wal).unwrap().count(), 0);
        assert_eq!(fs::read(other.join("PG_15_1/7")).unwrap(), b"precious");
    }
}
