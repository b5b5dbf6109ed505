//! The files of a chain: its members' lists, merged.

use super::Chain;
use crate::error::{Error, Result};
use crate::postgres::IncrementalHeader;
use crate::postgres::backup::incremental::UNCHANGED_BYTES;
use crate::postgres::page::PAGE_BYTES;
use crate::repository::Repository;
use crate::repository::backup::file_set::FileSetSum;
use crate::repository::backup::{
    DirectoryEntry, FileEntry, FileForm, IndexEntry, IndexReader, StoredText, open_index,
};

/// An entry of the restored data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainEntry {
    /// A directory.
    Directory(DirectoryEntry),
    /// A file.
    File(ChainedFile),
}

/// A file, and where its content is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainedFile {
    /// Path below the data directory.
    pub path: StoredText,
    /// Length of the restored file in bytes.
    pub bytes: u64,
    /// Last modification, in seconds since 1970.
    pub modified_unix_s: i64,
    /// Permission bits.
    pub mode: u32,
    /// The full file, the last one in the chain.
    pub base: FilePart,
    /// Changes since, the newest first, without those that change no page.
    pub changes: Vec<FilePart>,
}

/// What one member of the chain holds of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePart {
    /// The position of the member, counted from the newest.
    pub member: usize,
    /// Its entry.
    pub entry: FileEntry,
    /// How many of its pages may still count: no newer member had a shorter file.
    pub pages_max: u64,
}

/// Reads the lists of all members as a stream. Memory: a few frames for each member.
pub struct ChainedFiles {
    members: Vec<Member>,
    pages_per_file: u32,
}

/// The list of one member.
struct Member {
    index: IndexReader,
    /// The last entry that was read and not used.
    next: Option<IndexEntry>,
    sum: FileSetSum,
}

impl ChainedFile {
    /// The checksum, if one of the stored files is the whole content.
    pub fn known_crc32c(&self) -> Option<u32> {
        self.is_plain().then_some(self.base.entry.crc32c)
    }

    /// Whether the base is the whole content.
    pub fn is_plain(&self) -> bool {
        self.changes.is_empty() && self.base.entry.bytes == self.bytes
    }

    /// How many stored bytes have to be read.
    pub fn stored_bytes(&self) -> u64 {
        let parts = self.changes.iter().chain([&self.base]);
        parts.map(|part| part.entry.place.stored_bytes).fold(0, u64::saturating_add)
    }
}

impl ChainedFiles {
    /// Opens the lists.
    ///
    /// # Errors
    /// Here and in the other functions: [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for inconsistent
    /// lists; those of the store.
    pub fn open(repository: &Repository, chain: &Chain) -> Result<ChainedFiles> {
        let open = |backup| {
            let index = open_index(repository, backup)?;
            Ok(Member { index, next: None, sum: FileSetSum::default() })
        };
        let members = chain.members().map(open).collect::<Result<_>>()?;
        Ok(ChainedFiles { members, pages_per_file: chain.newest().server.pages_per_file })
    }

    /// The next entry, in the order of the paths' bytes; `None` after all lists were read to their ends and verified.
    pub fn next_entry(&mut self) -> Result<Option<ChainEntry>> {
        let pages_per_file = self.pages_per_file;
        let Some((newest, older)) = self.members.split_first_mut() else { return Ok(None) };
        let entry = newest.read()?;
        newest.next = None;
        let entry = match entry {
            None => {
                for member in older {
                    while member.read()?.is_some() {}
                }
                return Ok(None);
            }
            Some(IndexEntry::Directory(directory)) => return Ok(Some(ChainEntry::Directory(directory))),
            Some(IndexEntry::File(file)) => file,
        };
        let (path, bytes) = (entry.path.clone(), entry.whole_bytes());
        let (modified_unix_s, mode) = (entry.modified_unix_s, entry.mode);
        let mut older = older.iter_mut();
        let mut changes = Vec::new();
        let mut part = FilePart { member: 0, entry, pages_max: u64::MAX };
        while let FileForm::Incremental { whole_bytes } = part.entry.form {
            let pages = pages_of(&part.entry, whole_bytes, pages_per_file)?;
            let parent = older.next().ok_or_else(|| {
                Error::damaged(format!("\"{path}\" is incremental in a backup without a parent"))
            })?;
            let entry = parent.find(&path)?.ok_or_else(|| {
                Error::damaged(format!("\"{path}\" is incremental, but its parent does not hold it"))
            })?;
            let next = FilePart { member: part.member + 1, entry, pages_max: part.pages_max.min(pages) };
            let changed = std::mem::replace(&mut part, next);
            if changed.entry.bytes > UNCHANGED_BYTES {
                changes.push(changed);
            } else {
                check_unchanged(&changed.entry, pages, pages_per_file)?;
            }
        }
        Ok(Some(ChainEntry::File(ChainedFile { path, bytes, modified_unix_s, mode, base: part, changes })))
    }

    /// The sums of the members' file lists, the newest first. Valid only after the end.
    pub fn sums(&self) -> Vec<FileSetSum> {
        self.members.iter().map(|member| member.sum).collect()
    }
}

impl Member {
    /// The current entry, or the next one.
    fn read(&mut self) -> Result<Option<IndexEntry>> {
        if let Some(entry) = self.next.take() {
            return Ok(Some(entry));
        }
        let entry = self.index.next_entry()?;
        if let Some(IndexEntry::File(file)) = &entry {
            self.sum.add_entry(file);
        }
        Ok(entry)
    }

    /// The file at a path, which follows those of all earlier calls.
    fn find(&mut self, path: &StoredText) -> Result<Option<FileEntry>> {
        while let Some(entry) = self.read()? {
            if entry.path() > path {
                self.next = Some(entry);
                return Ok(None);
            }
            match entry {
                IndexEntry::File(file) if file.path == *path => return Ok(Some(file)),
                _ => {}
            }
        }
        Ok(None)
    }
}

/// The length of an incremental file's whole in pages.
fn pages_of(entry: &FileEntry, whole_bytes: u64, pages_per_file: u32) -> Result<u64> {
    let pages = whole_bytes / PAGE_BYTES as u64;
    if whole_bytes.is_multiple_of(PAGE_BYTES as u64) && pages <= u64::from(pages_per_file) {
        return Ok(pages);
    }
    Err(Error::damaged(format!("\"{}\" cannot have {whole_bytes} bytes", entry.path)))
}

/// An incremental file without pages contains only its length, so its checksum can be verified without reading it.
fn check_unchanged(entry: &FileEntry, pages: u64, pages_per_file: u32) -> Result<()> {
    // At most as many as a file of a relation has.
    let header = IncrementalHeader::new(pages as u32, Vec::new(), pages_per_file)?;
    if entry.bytes == UNCHANGED_BYTES && crc32c::crc32c(&header.to_bytes()) == entry.crc32c {
        return Ok(());
    }
    Err(Error::damaged(format!("the stored object of \"{}\" is not an incremental file", entry.path)))
}
