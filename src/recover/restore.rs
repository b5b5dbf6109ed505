//! Puts the files of a backup where they belong, every one verified.
//!
//! Owns: reading packs in parallel, and what is created where. A backup is not trusted: its paths stay below the
//! directory that was claimed for them, because while files are written there is no symbolic link in it; links come last.

use super::places::Places;
use super::restored_manifest::RestoredManifest;
use crate::durable::Disk;
use crate::error::{Context, Error, Result};
use crate::monitor::Monitor;
use crate::postgres::backup_label::without_incremental_from;
use crate::repository::Repository;
use crate::repository::backup::chain::{ChainEntry, ChainReader, ChainedFile, ChainedFiles};
use crate::repository::backup::{Chain, DirectoryEntry};
use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// The file without which no server starts; it is put in place when all the rest is durable.
pub const CONTROL_FILE: &[u8] = b"global/pg_control";

/// Where the server begins to replay.
const BACKUP_LABEL: &[u8] = b"backup_label";

/// Longer than any `pg_control`, which has 8 KiB.
const CONTROL_FILE_BYTES_MAX: u64 = 64 << 10;

/// How many files are known at a time. Within such a batch each stored byte is read once; some 20 MB of memory.
const BATCH_FILES_MAX: usize = 50_000;

/// How much one worker takes at a time, in raw bytes: enough that looking for a frame does not count.
const SHARE_BYTES: u64 = 64 << 20;

/// The permission bits that can be wanted: the owner's, and reading for the group.
const FILE_MODE_MASK: u32 = 0o640;
const DIRECTORY_MODE_MASK: u32 = 0o750;

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// How many files, `pg_control` among them.
    pub files: u64,
    /// Their length together.
    pub bytes: u64,
    /// The content of `pg_control`, which is not in place yet.
    pub control_file: Vec<u8>,
}

/// A file that was restored.
#[derive(Debug)]
pub struct RestoredFile {
    /// The file, with the length that it has now.
    pub file: ChainedFile,
    /// CRC-32C of what was written.
    pub crc32c: u32,
}

/// Some files of one pack, in the order of their places.
struct Share {
    files: Vec<ChainedFile>,
}

/// Restores all files but `pg_control`. Nothing is durable yet.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for everything in the backup that does not fit together, the
/// store's and the operating system's. The first one ends all workers.
pub fn restore(
    repository: &Repository,
    chain: &Chain,
    places: &Places,
    workers: NonZeroUsize,
    disk: &dyn Disk,
    monitor: &dyn Monitor,
) -> Result<Restored> {
    let mut restore = Restore {
        repository,
        chain,
        places,
        workers,
        disk,
        monitor,
        restored: Restored { files: 0, bytes: 0, control_file: Vec::new() },
    };
    restore.run()?;
    if restore.restored.control_file.is_empty() {
        return Err(Error::damaged("the backup has no global/pg_control"));
    }
    Ok(restore.restored)
}

struct Restore<'a> {
    repository: &'a Repository,
    chain: &'a Chain,
    places: &'a Places,
    workers: NonZeroUsize,
    disk: &'a dyn Disk,
    monitor: &'a dyn Monitor,
    restored: Restored,
}

impl Restore<'_> {
    fn run(&mut self) -> Result<()> {
        let mut files = ChainedFiles::open(self.repository, self.chain)?;
        let mut manifest = RestoredManifest::begin(self.repository, self.chain, self.places, self.disk)?;
        loop {
            let mut batch = Vec::new();
            let ended = self.read_batch(&mut files, &mut batch)?;
            let restored = self.restore_batch(batch)?;
            manifest.add(restored)?;
            if ended {
                return manifest.finish(&files.sums());
            }
        }
    }

    /// Creates the directories on the way, and collects files; whether the lists ended.
    fn read_batch(&mut self, files: &mut ChainedFiles, batch: &mut Vec<ChainedFile>) -> Result<bool> {
        while batch.len() < BATCH_FILES_MAX {
            match files.next_entry()? {
                None => return Ok(true),
                Some(ChainEntry::Directory(directory)) => self.create_directory(&directory)?,
                Some(ChainEntry::File(file)) => {
                    self.restored.files += 1;
                    self.restored.bytes += file.bytes;
                    if file.path.as_bytes() == CONTROL_FILE {
                        self.restored.control_file = self.read_control_file(&file)?;
                    }
                    batch.push(file);
                }
            }
        }
        Ok(false)
    }

    fn create_directory(&self, directory: &DirectoryEntry) -> Result<()> {
        let Some(path) = self.places.directory(directory.path.as_bytes())? else { return Ok(()) };
        self.disk
            .create_directory(&path, directory.mode & DIRECTORY_MODE_MASK | 0o700)
            .context(|| format!("could not create directory \"{}\"", path.display()))
    }

    fn read_control_file(&self, file: &ChainedFile) -> Result<Vec<u8>> {
        if file.bytes > CONTROL_FILE_BYTES_MAX {
            return Err(Error::damaged(format!("global/pg_control has {} bytes", file.bytes)));
        }
        let mut content = Vec::new();
        ChainReader::new(self.repository, self.chain).read_file(file, &mut |bytes| {
            content.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(content)
    }

    /// Restores these files with all workers; returns when every one of them has ended, with the files' checksums.
    fn restore_batch(&self, batch: Vec<ChainedFile>) -> Result<Vec<RestoredFile>> {
        let restored = Mutex::new(Vec::with_capacity(batch.len()));
        let shares = Mutex::new(shares_of(batch));
        let failed = AtomicBool::new(false);
        let work = || -> Result<()> {
            let mut reader = ChainReader::new(self.repository, self.chain);
            loop {
                let next = shares.lock().ok().and_then(|mut shares| shares.pop());
                let Some(share) = next else { return Ok(()) };
                reader.announce(&share.files)?;
                let mut done = Vec::with_capacity(share.files.len());
                for file in share.files {
                    if failed.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    done.push(self.restore_file(&mut reader, file)?);
                }
                restored.lock().unwrap_or_else(PoisonError::into_inner).append(&mut done);
            }
        };
        let guarded = || work().inspect_err(|_| failed.store(true, Ordering::Relaxed));
        thread::scope(|scope| {
            let workers: Vec<_> = (0..self.workers.get()).map(|_| scope.spawn(guarded)).collect();
            let results: Vec<Result<()>> = workers
                .into_iter()
                .map(|worker| {
                    worker.join().unwrap_or_else(|_| Err(Error::damaged("a worker of the restore failed")))
                })
                .collect();
            results.into_iter().collect::<Result<()>>()
        })?;
        Ok(restored.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn restore_file(&self, reader: &mut ChainReader<'_>, file: ChainedFile) -> Result<RestoredFile> {
        if file.path.as_bytes() == CONTROL_FILE {
            // Put in place last of all.
            let crc32c = crc32c::crc32c(&self.restored.control_file);
            return Ok(RestoredFile { file, crc32c });
        }
        let path = self.places.file(file.path.as_bytes())?;
        let what = || format!("could not write \"{}\"", path.display());
        // A path that the index names twice, or that is a link, fails here: the file must be new.
        let mut output = self.disk.create_new(&path, file.mode & FILE_MODE_MASK | 0o600).context(what)?;
        if self.chain.increments() > 0 && file.path.as_bytes() == BACKUP_LABEL {
            return self.restore_label(reader, file, &mut output).context(what);
        }
        let crc32c = reader.read_file(&file, &mut |bytes| {
            self.monitor.advance(bytes.len() as u64);
            output.write_all(bytes).context(what)
        })?;
        Ok(RestoredFile { file, crc32c })
    }

    /// The label of an incremental backup says that it is one; what is restored is whole.
    fn restore_label(
        &self,
        reader: &mut ChainReader<'_>,
        mut file: ChainedFile,
        output: &mut File,
    ) -> Result<RestoredFile> {
        let recorded = self.chain.newest().backup_label.as_bytes();
        let mut differs = file.bytes != recorded.len() as u64;
        let mut rest = recorded;
        reader.read_file(&file, &mut |bytes| {
            match rest.strip_prefix(bytes) {
                Some(after) => rest = after,
                None => differs = true,
            }
            Ok(())
        })?;
        if differs {
            return Err(Error::damaged("the backup's backup_label is not the one that its manifest records"));
        }
        let label = without_incremental_from(recorded);
        output.write_all(&label).context(|| "could not write it")?;
        file.bytes = label.len() as u64;
        Ok(RestoredFile { file, crc32c: crc32c::crc32c(&label) })
    }
}

/// Divides files among workers: by pack, in the order of their places; the smallest shares are taken last.
fn shares_of(mut batch: Vec<ChainedFile>) -> Vec<Share> {
    let pack = |file: &ChainedFile| (file.base.member, file.base.entry.place.pack);
    batch.sort_by_key(|file| (file.base.member, file.base.entry.place));
    let mut shares: Vec<(u64, Share)> = Vec::new();
    for file in batch {
        match shares.last_mut() {
            Some((bytes, share))
                if *bytes < SHARE_BYTES
                    && share.files.last().is_some_and(|last| pack(last) == pack(&file)) =>
            {
                *bytes += file.bytes;
                share.files.push(file);
            }
            _ => shares.push((file.bytes, Share { files: vec![file] })),
        }
    }
    // Popped from the end.
    shares.sort_by_key(|(bytes, _)| *bytes);
    shares.into_iter().map(|(_, share)| share).collect()
}

/// Reads a small file of the restored data directory; `None` if there is none.
///
/// # Errors
/// The operating system's.
pub fn read_restored(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>> {
    let what = || format!("could not read \"{}\"", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(what(), error)),
    };
    let mut content = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut content).context(what)?;
    if content.len() as u64 > bytes_max {
        return Err(Error::damaged(format!("\"{}\" has more than {bytes_max} bytes", path.display())));
    }
    Ok(Some(content))
}
