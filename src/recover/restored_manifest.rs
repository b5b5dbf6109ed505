//! PostgreSQL's own list of the files, left in the data directory for `pg_verifybackup`.

use super::places::Places;
use crate::durable::{self, Disk, DiskFile};
use crate::error::{Context, Error, Result};
use crate::postgres::{BackupManifestWriter, ManifestFile, ManifestVersion};
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

/// A file that was restored.
#[derive(Debug)]
pub struct RestoredFile {
    /// The file, with the length that it has now.
    pub file: ChainedFile,
    /// CRC-32C of what was written.
    pub crc32c: u32,
}

/// The list's name.
const NAME: &[u8] = b"backup_manifest";

/// The file that says where tablespaces lie.
const MAP_NAME: &[u8] = b"tablespace_map";

/// Whether the files are restored as the newest backup lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// As it lists them.
    Listed,
    /// Some are not.
    Other,
}

/// The list that is being made.
pub struct RestoredManifest<'a> {
    repository: &'a Repository,
    chain: &'a Chain,
    path: PathBuf,
    /// The `tablespace_map` that replaces the backup's, if another one is written.
    map: Option<Vec<u8>>,
    /// Where the list of what comes out is written; that of a full backup is copied as the server's tools know it.
    writer: Option<BackupManifestWriter<BufWriter<DiskFile<'a>>>>,
}

impl<'a> RestoredManifest<'a> {
    /// Begins the list: copies it from a full backup, or writes one of what a chain becomes.
    ///
    /// # Errors
    /// The store's and the operating system's, here and in the other functions.
    pub fn begin(
        repository: &'a Repository,
        chain: &'a Chain,
        content: Content,
        map: Option<Vec<u8>>,
        places: &Places,
        disk: &'a dyn Disk,
    ) -> Result<RestoredManifest<'a>> {
        let path = places.file(NAME)?;
        let what = || format!("could not write \"{}\"", path.display());
        // That of a cluster that is restored over is of no more use.
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

    /// Adds files.
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

    /// Ends the list, and checks that the list of each member of the chain tells of the files that its index did.
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
            // What was copied is read again: it is what pg_verifybackup will see.
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
