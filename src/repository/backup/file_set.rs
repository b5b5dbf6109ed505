//! Sums of file lists, which compare two lists without keeping either in memory.

use super::FileEntry;
use super::framed::FramedReader;
use super::manifest::StoredBackup;
use super::objects::missing;
use crate::codec::Digest;
use crate::error::{Context, Error, Result};
use crate::postgres::BackupManifestReader;
use crate::repository::Repository;
use crate::store::StoreExt;
use std::io::BufRead;

/// The sum of a set of files. Equal sets have equal sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSetSum {
    /// Number of files.
    pub files: u64,
    /// Their total length.
    pub bytes: u64,
    sum: u128,
}

impl FileSetSum {
    /// Adds an entry of an index.
    pub fn add_entry(&mut self, file: &FileEntry) {
        self.add(&file.stored_path(), file.bytes, file.crc32c);
    }

    /// Adds a file.
    pub fn add(&mut self, path: &[u8], bytes: u64, crc32c: u32) {
        let mut line = path.to_vec();
        line.push(0);
        line.extend_from_slice(&bytes.to_le_bytes());
        line.extend_from_slice(&crc32c.to_le_bytes());
        let digest = Digest::of(&line);
        let half = digest.as_bytes().first_chunk::<16>().copied().unwrap_or_default();
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(half));
    }
}

/// Opens PostgreSQL's own manifest of a backup.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if it is missing; those of the store.
pub fn open_postgres_manifest(repository: &Repository, backup: &StoredBackup) -> Result<FramedReader> {
    let key = repository.layout().postgres_manifest(&backup.label)?;
    FramedReader::open(repository.store().as_ref(), &key, backup.postgres_manifest)?
        .ok_or_else(|| missing(repository, &key))
}

/// Checks that PostgreSQL's own manifest of a backup, read from `input`, lists the same files as the index.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if it does not; those of the store.
pub fn compare_with_postgres_manifest(
    repository: &Repository,
    backup: &StoredBackup,
    index: FileSetSum,
    input: impl BufRead,
) -> Result<()> {
    let key = repository.layout().postgres_manifest(&backup.label)?;
    let location = || format!("\"{}\"", repository.store().locate(&key));
    let sum = sum_of(input).context(location)?;
    if sum == index {
        return Ok(());
    }
    Err(Error::damaged(format!(
        "{} and the index of the backup list different files: {} and {}",
        location(),
        sum.files,
        index.files
    )))
}

fn sum_of(input: impl BufRead) -> Result<FileSetSum> {
    let mut sum = FileSetSum::default();
    let mut manifest = BackupManifestReader::new(input)?;
    while let Some(file) = manifest.next_file()? {
        let crc32c = file.crc32c.ok_or_else(|| {
            Error::damaged(format!("it has no checksum of \"{}\"", String::from_utf8_lossy(&file.path)))
        })?;
        sum.add(&file.path, file.size_bytes, crc32c);
    }
    manifest.finish().map(|_| sum)
}
