//! A compact list of a cluster's files, with the meaning of their paths.

use super::exclusions;
use crate::error::{Error, Result};
use crate::postgres::{DatabaseDirectory, ForkName, Oid, RelFileLocator, RelFileNumber, ServerVersion};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

/// Permissions of a directory that replaces a link.
pub(super) const DIRECTORY_MODE: u32 = 0o700;

/// A compact file list of about 30 bytes for each file.
#[derive(Debug)]
pub struct FileList {
    base: PathBuf,
    /// The data directory, followed by the tablespaces behind links.
    pub roots: Vec<Root>,
    /// Directories, parents before children; the first is the data directory.
    pub directories: Vec<PlannedDirectory>,
    /// Files, unordered.
    pub files: Vec<PlannedFile>,
    /// In-place tablespaces: directories instead of links.
    pub in_place_tablespaces: Vec<Oid>,
    names: Vec<u8>,
}

/// A root directory for packs.
#[derive(Debug)]
pub struct Root {
    /// The tablespace; `None` for the data directory.
    pub tablespace: Option<Oid>,
    /// The link's target; empty for the data directory.
    pub target: Vec<u8>,
    /// Length of the path prefix, relative to the data directory, that leads to this root.
    prefix_bytes: usize,
}

/// A directory to pack.
#[derive(Debug)]
pub struct PlannedDirectory {
    /// Path relative to the data directory.
    pub path: Vec<u8>,
    /// Index of its root.
    pub root: usize,
    /// Permission bits.
    pub mode: u32,
    /// Last modification, in seconds since 1970.
    pub modified_unix_s: i64,
}

/// A file to pack.
#[derive(Clone, Copy, Debug)]
pub struct PlannedFile {
    /// Length in bytes when it was listed.
    pub bytes: u64,
    directory: u32,
    name_at: u32,
    name_bytes: u32,
}

/// A relation file, as its path describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedRelation {
    /// The tablespace.
    pub tablespace: Oid,
    /// The database; `None` for a shared relation.
    pub database: Option<Oid>,
    /// The number in its name.
    pub number: RelFileNumber,
    /// The fork.
    pub fork: ForkName,
    /// The segment number within the fork, from 0.
    pub segment: u32,
}

impl PlannedRelation {
    /// The relation's files.
    pub fn locator(&self) -> RelFileLocator {
        let database = self.database.unwrap_or(Oid::SHARED);
        let directory = DatabaseDirectory { tablespace: self.tablespace, database };
        RelFileLocator { directory, number: self.number }
    }
}

impl FileList {
    /// Creates an empty list for the files below `base`.
    pub(super) fn empty(base: PathBuf) -> FileList {
        FileList {
            base,
            roots: vec![Root { tablespace: None, target: Vec::new(), prefix_bytes: 0 }],
            directories: Vec::new(),
            files: Vec::new(),
            in_place_tablespaces: Vec::new(),
            names: Vec::new(),
        }
    }

    /// Creates an empty list for the files that a server sends; the first directory is the data directory.
    pub fn of_stream() -> FileList {
        let mut list = FileList::empty(PathBuf::new());
        list.add_directory(Vec::new(), 0, DIRECTORY_MODE, 0);
        list
    }

    /// Adds a tablespace behind a link; returns the index of its root.
    pub fn add_tablespace(&mut self, oid: Oid, target: Vec<u8>) -> usize {
        let prefix_bytes = tablespace_prefix(oid).len();
        self.roots.push(Root { tablespace: Some(oid), target, prefix_bytes });
        self.roots.len() - 1
    }

    /// Adds a directory, with its path relative to the data directory; returns its index.
    pub fn add_directory(&mut self, path: Vec<u8>, root: usize, mode: u32, modified_unix_s: i64) -> usize {
        self.directories.push(PlannedDirectory { path, root, mode, modified_unix_s });
        self.directories.len() - 1
    }

    /// Adds a file in a directory; returns its index.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if there are too many files.
    pub fn add_file(&mut self, directory: usize, name: &[u8], bytes: u64) -> Result<usize> {
        let too_many = |_| Error::usage("the data directory has more files than pgark can list");
        let name_at = u32::try_from(self.names.len()).map_err(too_many)?;
        self.names.extend_from_slice(name);
        self.files.push(PlannedFile {
            bytes,
            directory: u32::try_from(directory).map_err(too_many)?,
            name_at,
            // File names are limited to 255 bytes.
            name_bytes: name.len() as u32,
        });
        Ok(self.files.len() - 1)
    }

    /// The total size of all files, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The path of a file relative to the data directory.
    pub fn path_of(&self, file: &PlannedFile) -> Vec<u8> {
        self.path_parts(file).concat()
    }

    /// Whether a file or directory with this path is listed. Searches the entire list.
    pub fn holds(&self, path: &[u8]) -> bool {
        let is_it = |file: &PlannedFile| self.path_parts(file).into_iter().flatten().eq(path);
        self.directories.iter().any(|directory| directory.path == path) || self.files.iter().any(is_it)
    }

    /// The file's absolute path.
    pub fn location_of(&self, path: &[u8]) -> PathBuf {
        self.base.join(OsStr::from_bytes(path))
    }

    /// Converts a path relative to the data directory into a path relative to its root.
    pub fn path_in_pack<'a>(&self, root: usize, path: &'a [u8]) -> &'a [u8] {
        let prefix = self.roots.get(root).map_or(0, |root| root.prefix_bytes);
        path.get(prefix..).unwrap_or_default()
    }

    /// Index of the root that a file belongs to.
    pub fn root_of(&self, file: &PlannedFile) -> usize {
        self.directory_of(file).map_or(0, |directory| directory.root)
    }

    /// The relation, fork and segment of a file whose pages may have checksums.
    pub fn relation(&self, file: &PlannedFile, version: ServerVersion) -> Option<PlannedRelation> {
        relation_at(&self.directory_of(file)?.path, self.name_of(file), version)
    }

    /// Indexes of the files, sorted by the bytes of their paths.
    pub fn sorted(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..self.files.len() as u32).collect();
        let path = |number: &u32| {
            let file = self.files.get(*number as usize);
            file.map(|file| self.path_parts(file)).unwrap_or_default().into_iter().flatten()
        };
        numbers.sort_unstable_by(|a, b| path(a).cmp(path(b)));
        numbers
    }

    /// The path of a file in parts, without allocation: directory, slash, name.
    pub fn path_parts(&self, file: &PlannedFile) -> [&[u8]; 3] {
        let directory =
            self.directory_of(file).map(|directory| directory.path.as_slice()).unwrap_or_default();
        let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
        [directory, slash, self.name_of(file)]
    }

    fn directory_of(&self, file: &PlannedFile) -> Option<&PlannedDirectory> {
        self.directories.get(file.directory as usize)
    }

    fn name_of(&self, file: &PlannedFile) -> &[u8] {
        let start = file.name_at as usize;
        self.names.get(start..start + file.name_bytes as usize).unwrap_or_default()
    }
}

/// The relation, fork and segment of a name in a directory, if its pages may have checksums.
pub fn relation_at(directory: &[u8], name: &[u8], version: ServerVersion) -> Option<PlannedRelation> {
    if !exclusions::has_pages(directory, name, version) {
        return None;
    }
    let relation = exclusions::relation_file(name)?;
    Some(PlannedRelation {
        tablespace: tablespace_of(directory)?,
        database: number_of(directory.rsplit(|byte| *byte == b'/').next()?),
        number: number_of(relation.number)?,
        fork: relation.fork,
        segment: relation.segment,
    })
}

/// Splits a path into its directory and its name.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (b"", path),
    }
}

/// The tablespace of the relations in a directory.
fn tablespace_of(directory: &[u8]) -> Option<Oid> {
    let mut parts = directory.split(|byte| *byte == b'/');
    match parts.next()? {
        b"global" => Some(Oid::PG_GLOBAL),
        b"base" => Some(Oid::PG_DEFAULT),
        _ => number_of(parts.next()?),
    }
}

/// The prefix of a tablespace's paths, relative to the data directory.
pub fn tablespace_prefix(oid: Oid) -> String {
    format!("pg_tblspc/{oid}/")
}

pub(super) fn tablespace_oid(path: &[u8]) -> Option<Oid> {
    number_of(path.rsplit(|byte| *byte == b'/').next()?)
}

fn number_of<T: FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        return name.to_vec();
    }
    [directory, b"/", name].concat()
}
