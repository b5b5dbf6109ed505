//! Writes PostgreSQL's own file list into the data directory, for `pg_verifybackup`.

use crate::durable::{self, Disk, DiskFile};
use crate::error::{Context, Error, Result};
use crate::postgres::{BackupManifestWriter, ManifestFile, ManifestVersion};
use crate::recover::place::destinations::Destinations;
use crate::repository::Repository;
use crate::repository::backup::chain::ChainedFile;
use crate::repository::backup::file_set::{
    FileSetSum, compare_with_postgres_manifest, open_postgres_manifest,
};
use crate::repository::backup::{Chain, StoredBackup};
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::PathBuf;

/// A restored file.
#[derive(Debug)]
pub struct RestoredFile {
    /// The file, with its restored length.
    pub file: ChainedFile,
    /// CRC-32C of the written content.
    pub crc32c: u32,
}

/// File name of the list.
const NAME: &[u8] = b"backup_manifest";

/// The file that names the locations of tablespaces.
const MAP_NAME: &[u8] = b"tablespace_map";

/// Whether the restored files match the list of the newest backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// All files match it.
    Listed,
    /// Some files differ from it.
    Other,
}

/// A file list under construction.
pub struct RestoredManifest<'a> {
    repository: &'a Repository,
    chain: &'a Chain,
    path: PathBuf,
    /// The `tablespace_map` that replaces the backup's, if a different one is written.
    map: Option<Vec<u8>>,
    /// The writer of a new list. The list of a full backup is copied instead, in the form that the server's
    /// tools expect.
    writer: Option<BackupManifestWriter<BufWriter<DiskFile<'a>>>>,
}

impl<'a> RestoredManifest<'a> {
    /// Begins the list: copies that of a full backup, or writes a new one for the result of a chain.
    ///
    /// # Errors
    /// The store's and the operating system's, here and in the other functions.
    pub fn begin(
        repository: &'a Repository,
        chain: &'a Chain,
        content: Content,
        map: Option<Vec<u8>>,
        destinations: &Destinations,
        disk: &'a dyn Disk,
    ) -> Result<RestoredManifest<'a>> {
        let path = destinations.file(NAME)?;
        let what = || format!("could not write \"{}\"", path.display());
        // The old list of an overwritten cluster is obsolete.
        durable::remove_all(disk, &path)?;
        let file = DiskFile::new(disk, disk.create_new(&path, 0o600).context(what)?);
        let writer = if content == Content::Other || map.is_some() || chain.increments() > 0 {
            let newest = chain.newest();
            let version = ManifestVersion::written_by(newest.major_version()?, newest.system_identifier);
            Some(BackupManifestWriter::new(BufWriter::new(file), version)?)
        } else {
            copy(repository, chain.newest(), file, &what)?;
            None
        };
        Ok(RestoredManifest { repository, chain, path, map, writer })
    }

    /// Adds restored files to the list.
    pub fn add(&mut self, mut files: Vec<RestoredFile>) -> Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        files.sort_by(|a, b| a.file.path.cmp(&b.file.path));
        files.iter().try_for_each(|restored| {
            let path = restored.file.path.as_bytes();
            let (size_bytes, crc32c) = match &self.map {
                Some(map) if path == MAP_NAME => (map.len() as u64, crc32c::crc32c(map)),
                _ => (restored.file.bytes, restored.crc32c),
            };
            writer.add_file(&ManifestFile {
                path: Cow::Borrowed(path),
                size_bytes,
                modified_unix_s: restored.file.modified_unix_s,
                crc32c: Some(crc32c),
            })
        })
    }

    /// Completes the list, and checks that the list of each chain member covers the files of its index.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) when one does not.
    pub fn finish(self, sums: &[FileSetSum]) -> Result<()> {
        let mut members: Vec<_> = self.chain.members().zip(sums).collect();
        if let Some(writer) = self.writer {
            let ranges: Vec<_> =
                self.chain.newest().wal_ranges.iter().rev().map(|range| (*range).into()).collect();
            drop(writer.finish(&ranges)?);
        } else if let Some((backup, sum)) = members.pop() {
            // Reads the copy again, because pg_verifybackup will read this file.
            let what = || format!("could not read \"{}\"", self.path.display());
            let input = BufReader::new(File::open(&self.path).context(what)?);
            compare_with_postgres_manifest(self.repository, backup, *sum, input)?;
        }
        for (backup, sum) in members {
            let input = open_postgres_manifest(self.repository, backup)?;
            compare_with_postgres_manifest(self.repository, backup, *sum, input)?;
        }
        Ok(())
    }
}

fn copy(
    repository: &Repository,
    backup: &StoredBackup,
    mut output: DiskFile<'_>,
    what: &dyn Fn() -> String,
) -> Result<()> {
    let mut stored = open_postgres_manifest(repository, backup)?;
    loop {
        let piece =
            stored.fill().context(|| "could not read the backup's manifest of files from the repository")?;
        if piece.is_empty() {
            return Ok(());
        }
        output.write_all(piece).map_err(|error| Error::io(what(), error))?;
        let length = piece.len();
        stored.take(length);
    }
}
