//! The two file lists of a backup: PostgreSQL's own, and the index with each file's location.

use super::last_pack::LastFile;
use crate::backup::files::FileList;
use crate::config::Compression;
use crate::error::Result;
use crate::postgres::{BackupManifestWriter, ManifestFile, ManifestVersion, WalRange};
use crate::repository::Repository;
use crate::repository::backup::framed::{FramedWriter, StoredObject};
use crate::repository::backup::index::StoredIndex;
use crate::repository::backup::pack::PlacedFile;
use crate::repository::backup::{DirectoryEntry, IndexEntry, IndexWriter, Label, StoredText};

/// The complete content of a backup.
pub struct BackedUp<'a> {
    /// The listed files.
    pub files: &'a FileList,
    /// Those listed files that were copied.
    pub copied: &'a [PlacedFile],
    /// The files of the last pack.
    pub last: &'a [LastFile],
    /// The positions of the last pack's files in that pack.
    pub last_placed: &'a [PlacedFile],
}

/// How much of each file a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All content.
    Full,
    /// Only the changes of some files.
    Incremental,
}

/// The stored lists.
pub struct StoredLists {
    /// `backup_manifest`
    pub postgres_manifest: StoredObject,
    /// `files`
    pub index: StoredIndex,
    /// Number of files.
    pub file_count: u64,
    /// Number of directories.
    pub directory_count: u64,
    /// The total size of all files as stored, in bytes before compression.
    pub file_bytes: u64,
    /// The total size of all files as restored, in bytes.
    pub whole_bytes: u64,
}

/// A list entry, by its index in the parts of [`BackedUp`].
#[derive(Clone, Copy)]
enum Item {
    Directory(u32),
    Copied(u32),
    Last(u32),
}

/// Stores both lists, ordered by the bytes of the paths.
///
/// # Errors
/// Those of the entries and the store; [`ErrorKind::Conflict`](crate::error::ErrorKind::Conflict) if the repository already holds such lists for
/// this backup.
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
    let postgres_manifest = manifest.finish(ranges)?.finish()?;
    let index = index.finish()?;
    Ok(StoredLists { postgres_manifest, index, file_count, directory_count, file_bytes, whole_bytes })
}

impl BackedUp<'_> {
    /// The index entries, ordered by the bytes of the paths.
    pub fn entries(&self) -> impl Iterator<Item = Result<IndexEntry>> + '_ {
        self.sorted().into_iter().filter_map(|item| self.entry(item).map(Ok))
    }

    /// All items, ordered by the bytes of their paths.
    fn sorted(&self) -> Vec<Item> {
        // The lists omit the first directory, the data directory itself.
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
