//! The two lists of a backup's files: PostgreSQL's own, and the index that says where each lies.

use super::files::FileList;
use super::last_pack::LastFile;
use crate::config::Compression;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{BackupManifestWriter, ManifestFile, ManifestVersion, WalRange};
use crate::repository::Repository;
use crate::repository::backup::framed::{FramedWriter, StoredObject};
use crate::repository::backup::index::StoredIndex;
use crate::repository::backup::pack::PlacedFile;
use crate::repository::backup::{DirectoryEntry, IndexEntry, IndexWriter, Label, StoredText};
use crate::store::PutOutcome;

/// All that a backup holds.
pub struct BackedUp<'a> {
    /// What was listed.
    pub files: &'a FileList,
    /// What was copied of it.
    pub copied: &'a [PlacedFile],
    /// The files of the last pack.
    pub last: &'a [LastFile],
    /// Their places.
    pub last_placed: &'a [PlacedFile],
}

/// How much of the files a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All.
    Full,
    /// Of some only what changed.
    Incremental,
}

/// The lists, stored.
pub struct StoredLists {
    /// `backup_manifest`
    pub postgres_manifest: StoredObject,
    /// `files`
    pub index: StoredIndex,
    /// How many files there are.
    pub file_count: u64,
    /// How many directories there are.
    pub directory_count: u64,
    /// The length of all files together, as they are stored.
    pub file_bytes: u64,
    /// The same, when they are restored.
    pub whole_bytes: u64,
}

/// One line of the lists, by its place in the parts of [`BackedUp`].
#[derive(Clone, Copy)]
enum Item {
    Directory(u32),
    Copied(u32),
    Last(u32),
}

/// Stores both lists; the entries come in the order of the bytes of their paths.
///
/// # Errors
/// The entries' own and the store's; [`ErrorKind::Conflict`] when the repository holds such lists of this backup already.
pub fn write(
    entries: impl Iterator<Item = Result<IndexEntry>>,
    scope: Scope,
    repository: &Repository,
    label: &Label,
    version: ManifestVersion,
    ranges: &[WalRange],
    compression: Compression,
) -> Result<StoredLists> {
    let (store, layout) = (repository.store().as_ref(), repository.layout());
    let manifest_key = layout.postgres_manifest(label)?;
    let manifest = FramedWriter::create(store, &manifest_key, compression)?;
    let mut manifest = BackupManifestWriter::new(manifest, version)?;
    let index_key = layout.backup_index(label)?;
    let mut index = match scope {
        Scope::Full => IndexWriter::create(store, &index_key, compression)?,
        Scope::Incremental => IndexWriter::create_incremental(store, &index_key, compression)?,
    };
    let (mut file_count, mut directory_count, mut file_bytes, mut whole_bytes) = (0, 0, 0, 0);
    for entry in entries {
        let entry = entry?;
        match &entry {
            IndexEntry::Directory(_) => directory_count += 1,
            IndexEntry::File(file) => {
                file_count += 1;
                file_bytes += file.bytes;
                whole_bytes += file.whole_bytes();
                manifest.add_file(&ManifestFile {
                    path: file.stored_path(),
                    size_bytes: file.bytes,
                    modified_unix_s: file.modified_unix_s,
                    crc32c: Some(file.crc32c),
                })?;
            }
        }
        index.add(&entry)?;
    }
    let (postgres_manifest, outcome) = manifest.finish(ranges)?.finish()?;
    if outcome == PutOutcome::Exists {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("the repository already holds \"{manifest_key}\""),
        ));
    }
    let index = index.finish()?;
    Ok(StoredLists { postgres_manifest, index, file_count, directory_count, file_bytes, whole_bytes })
}

impl BackedUp<'_> {
    /// What the lists say of all of it, in the order of the bytes of the paths.
    pub fn entries(&self) -> impl Iterator<Item = Result<IndexEntry>> + '_ {
        self.sorted().into_iter().filter_map(|item| self.entry(item).map(Ok))
    }

    /// All items in the order of the bytes of their paths.
    fn sorted(&self) -> Vec<Item> {
        // The data directory itself, the first, is not part of the lists.
        let directories = (1..self.files.directories.len() as u32).map(Item::Directory);
        let copied = (0..self.copied.len() as u32).map(Item::Copied);
        let last = (0..self.last_placed.len() as u32).map(Item::Last);
        let mut items: Vec<Item> = directories.chain(copied).chain(last).collect();
        items.sort_unstable_by(|a, b| {
            self.path_parts(*a).into_iter().flatten().cmp(self.path_parts(*b).into_iter().flatten())
        });
        items
    }

    fn path_parts(&self, item: Item) -> [&[u8]; 3] {
        let parts = match item {
            Item::Directory(number) => self
                .files
                .directories
                .get(number as usize)
                .map(|directory| [directory.path.as_slice(), b"", b""]),
            Item::Copied(number) => {
                let placed = self.copied.get(number as usize);
                placed
                    .and_then(|placed| self.files.files.get(placed.number))
                    .map(|file| self.files.path_parts(file))
            }
            Item::Last(number) => {
                let placed = self.last_placed.get(number as usize);
                placed
                    .and_then(|placed| self.last.get(placed.number))
                    .map(|file| [file.path.as_bytes(), b"", b""])
            }
        };
        parts.unwrap_or([b"", b"", b""])
    }

    fn entry(&self, item: Item) -> Option<IndexEntry> {
        let path = StoredText::new(self.path_parts(item).concat());
        let placed = match item {
            Item::Directory(number) => {
                let directory = self.files.directories.get(number as usize)?;
                return Some(IndexEntry::Directory(DirectoryEntry {
                    path,
                    modified_unix_s: directory.modified_unix_s,
                    mode: directory.mode,
                }));
            }
            Item::Copied(number) => self.copied.get(number as usize)?,
            Item::Last(number) => self.last_placed.get(number as usize)?,
        };
        Some(IndexEntry::File(placed.entry(path)))
    }
}
