//! Restores and verifies the files of a backup.
//!
//! Owns: reading packs in parallel and creating files. A backup is not trusted: its paths stay below the
//! directory claimed for them, because that directory contains no symbolic link while files are written;
//! links are created last.

use super::existing::{Existing, ExistingKind, Removal};
use super::file_output::{FileOutput, crc32c_of, not_created, set_mode};
use super::manifest::{Content, RestoredFile, RestoredManifest};
use super::shares::{Job, Shares};
use crate::durable::{self, Disk};
use crate::error::{Context, Error, Result};
use crate::monitor::Monitor;
use crate::pace::Pace;
use crate::postgres::backup::label::without_incremental_from;
use crate::recover::place::destinations::Destinations;
use crate::recover::place::staging::Found;
use crate::recover::plan::RecoveryPlan;
use crate::recover::plan::databases::OmittedDatabases;
use crate::repository::Repository;
use crate::repository::backup::chain::{ChainEntry, ChainReader, ChainedFile, ChainedFiles};
use crate::repository::backup::{Chain, DirectoryEntry, StoredBackup};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// The file without which no server starts; installed after all others are durable.
pub const CONTROL_FILE: &[u8] = b"global/pg_control";

/// The file that tells the server where replay begins.
const BACKUP_LABEL: &[u8] = b"backup_label";

/// Upper limit for the size of `pg_control`, in bytes; its actual size is 8 KiB.
const CONTROL_FILE_BYTES_MAX: u64 = 64 << 10;

/// Number of files held in memory. Each stored byte is read once within such a batch; needs some 20 MB of
/// memory.
const BATCH_FILES_MAX: usize = 50_000;

/// The permission bits that a backup may set: the owner's, and read access for the group.
const FILE_MODE_MASK: u32 = 0o640;
const DIRECTORY_MODE_MASK: u32 = 0o750;

/// Result of restoring the files.
#[derive(Debug)]
pub struct Restored {
    /// Number of files, including `pg_control`.
    pub files: u64,
    /// Their total size in bytes.
    pub bytes: u64,
    /// The content of `pg_control`, which is not installed yet.
    pub control_file: Vec<u8>,
    /// Existing content that was kept.
    pub kept: Kept,
}

/// What a restore kept, wrote and removed in an existing directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Number of files that matched by checksum before anything was fetched.
    pub files: u64,
    /// Their total size in bytes.
    pub file_bytes: u64,
    /// Number of bytes written.
    pub written_bytes: u64,
    /// Number of files and links removed because they are not part of the backup.
    pub removed: u64,
}

/// Restores all files except `pg_control`. Nothing is durable yet.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for any inconsistency in the backup; those of the
/// store and the operating system. The first error stops all workers.
pub fn restore_files(
    repository: &Repository,
    plan: &RecoveryPlan,
    workers: NonZeroUsize,
    pace: &Pace,
    disk: &dyn Disk,
    monitor: &dyn Monitor,
) -> Result<Restored> {
    let (chain, destinations) = (&plan.chain, &plan.destinations);
    let mut existing = match plan.found {
        Found::Kept => Existing::walk(destinations, &tablespace_version_directory(chain.newest())?)?,
        Found::Nothing | Found::Empty | Found::Unfinished => Existing::nothing(),
    };
    let mut restore = Restore {
        repository,
        chain,
        left_out: &plan.left_out,
        destinations,
        workers,
        pace,
        disk,
        monitor,
        restored: Restored { files: 0, bytes: 0, control_file: Vec::new(), kept: Kept::default() },
    };
    restore.run(&mut existing)?;
    restore.restored.kept.removed = existing.removed;
    if restore.restored.control_file.is_empty() {
        return Err(Error::damaged("the backup has no global/pg_control"));
    }
    Ok(restore.restored)
}

struct Restore<'a> {
    repository: &'a Repository,
    chain: &'a Chain,
    left_out: &'a OmittedDatabases,
    destinations: &'a Destinations,
    workers: NonZeroUsize,
    pace: &'a Pace,
    disk: &'a dyn Disk,
    monitor: &'a dyn Monitor,
    restored: Restored,
}

impl Restore<'_> {
    fn run(&mut self, existing: &mut Existing) -> Result<()> {
        let mut files = ChainedFiles::open(self.repository, self.chain)?;
        let content = if self.left_out.is_empty() { Content::Listed } else { Content::Other };
        let mut manifest = RestoredManifest::begin(
            self.repository,
            self.chain,
            content,
            self.map()?,
            self.destinations,
            self.disk,
        )?;
        loop {
            let mut batch = Vec::new();
            let ended = self.read_batch(&mut files, existing, &mut batch)?;
            let restored = self.restore_batch(batch)?;
            manifest.add(restored)?;
            if ended {
                return manifest.finish(&files.sums());
            }
        }
    }

    /// The `tablespace_map` that replaces the backup's, if it differs.
    fn map(&self) -> Result<Option<Vec<u8>>> {
        let backup = self.chain.newest();
        let Some(stored) = &backup.tablespace_map else { return Ok(None) };
        let map = self.destinations.tablespace_map(backup.major_version()?)?;
        Ok((map != stored.as_bytes()).then_some(map))
    }

    /// Creates directories and collects the next files; returns whether the lists ended.
    fn read_batch(
        &mut self,
        files: &mut ChainedFiles,
        existing: &mut Existing,
        batch: &mut Vec<Job>,
    ) -> Result<bool> {
        while batch.len() < BATCH_FILES_MAX {
            match files.next_entry()? {
                None => {
                    existing.finish(self.destinations, Removal::Done(self.disk))?;
                    return Ok(true);
                }
                Some(ChainEntry::Directory(directory)) => {
                    let found = existing.at(
                        directory.path.as_bytes(),
                        self.destinations,
                        Removal::Done(self.disk),
                    )?;
                    self.create_directory(&directory, found)?;
                }
                Some(ChainEntry::File(file)) => {
                    self.restored.files += 1;
                    self.restored.bytes += file.bytes;
                    if file.path.as_bytes() == CONTROL_FILE {
                        self.restored.control_file = self.read_control_file(&file)?;
                    }
                    let existing = match existing.at(
                        file.path.as_bytes(),
                        self.destinations,
                        Removal::Done(self.disk),
                    )? {
                        None => None,
                        Some(ExistingKind::File { bytes }) => Some(bytes),
                        Some(ExistingKind::Directory | ExistingKind::Other) => {
                            durable::remove_all(self.disk, &self.destinations.file(file.path.as_bytes())?)?;
                            None
                        }
                    };
                    let emptied = self.left_out.is_omitted(file.path.as_bytes());
                    batch.push(Job { file, existing, emptied });
                }
            }
        }
        Ok(false)
    }

    fn create_directory(&self, directory: &DirectoryEntry, found: Option<ExistingKind>) -> Result<()> {
        let Some(path) = self.destinations.directory(directory.path.as_bytes())? else { return Ok(()) };
        let mode = directory.mode & DIRECTORY_MODE_MASK | 0o700;
        let created = match found {
            Some(ExistingKind::Directory) => set_mode(&path, mode),
            Some(_) => {
                durable::remove_all(self.disk, &path)?;
                self.disk.create_directory(&path, mode)
            }
            None => self.disk.create_directory(&path, mode),
        };
        created
            .map_err(|error| not_created(format!("could not create directory \"{}\"", path.display()), error))
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

    /// Restores these files with all workers. Returns the files' checksums after every worker has finished.
    fn restore_batch(&mut self, batch: Vec<Job>) -> Result<Vec<RestoredFile>> {
        let restored = Mutex::new(Vec::with_capacity(batch.len()));
        let kept = Mutex::new(self.restored.kept);
        let shares = Mutex::new(Shares::of(batch, self.workers));
        let failed = AtomicBool::new(false);
        let work = |worker: usize| -> Result<()> {
            self.pace.give_way(self.monitor);
            let mut reader = ChainReader::new(self.repository, self.chain);
            let mut kept_here = Kept::default();
            loop {
                let next = shares.lock().ok().and_then(|mut shares| shares.take(worker));
                let Some(share) = next else {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).add(kept_here);
                    return Ok(());
                };
                // Existing files may need no fetch at all.
                if share.files.iter().all(|job| job.existing.is_none()) {
                    reader.announce(share.files.iter().map(|job| &job.file))?;
                }
                let mut done = Vec::with_capacity(share.files.len());
                for file in share.files {
                    if failed.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    done.push(self.restore_file(&mut reader, file, &mut kept_here)?);
                }
                restored.lock().unwrap_or_else(PoisonError::into_inner).append(&mut done);
            }
        };
        let guarded = |worker| work(worker).inspect_err(|_| failed.store(true, Ordering::Relaxed));
        thread::scope(|scope| {
            let guarded = &guarded;
            let workers: Vec<_> =
                (0..self.workers.get()).map(|worker| scope.spawn(move || guarded(worker))).collect();
            let results: Vec<Result<()>> = workers
                .into_iter()
                .map(|worker| {
                    worker.join().unwrap_or_else(|_| Err(Error::damaged("a worker of the restore failed")))
                })
                .collect();
            results.into_iter().collect::<Result<()>>()
        })?;
        self.restored.kept = kept.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(restored.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn restore_file(&self, reader: &mut ChainReader<'_>, job: Job, kept: &mut Kept) -> Result<RestoredFile> {
        let Job { mut file, existing, emptied } = job;
        if file.path.as_bytes() == CONTROL_FILE {
            // Installed last of all.
            let crc32c = crc32c::crc32c(&self.restored.control_file);
            return Ok(RestoredFile { file, crc32c });
        }
        let path = self.destinations.file(file.path.as_bytes())?;
        let what = || format!("could not write \"{}\"", path.display());
        let mode = file.mode & FILE_MODE_MASK | 0o600;
        if emptied {
            self.monitor.advance(file.bytes);
            FileOutput::create(self.disk, &path, mode)?;
            file.bytes = 0;
            return Ok(RestoredFile { file, crc32c: 0 });
        }
        if let (Some(existing), Some(crc32c)) = (existing, file.known_crc32c())
            && existing == file.bytes
            && file.path.as_bytes() != BACKUP_LABEL
            && crc32c_of(&path, existing).context(|| format!("could not read \"{}\"", path.display()))?
                == Some(crc32c)
        {
            set_mode(&path, mode).context(what)?;
            self.monitor.advance(file.bytes);
            kept.files += 1;
            kept.file_bytes += file.bytes;
            return Ok(RestoredFile { file, crc32c });
        }
        let mut output = match existing {
            // A path that the index names twice, or that is a link, fails here because the file must not
            // exist.
            None => FileOutput::create(self.disk, &path, mode)?,
            Some(_) => FileOutput::over(self.disk, &path, mode)?,
        };
        if self.chain.increments() > 0 && file.path.as_bytes() == BACKUP_LABEL {
            let restored = self.restore_label(reader, file, &mut output, &what)?;
            kept.written_bytes += output.finish().context(what)?;
            return Ok(restored);
        }
        let crc32c = reader.read_file(&file, &mut |bytes| {
            self.pace.take(bytes.len() as u64);
            self.monitor.advance(bytes.len() as u64);
            output.write(bytes).context(what)
        })?;
        kept.written_bytes += output.finish().context(what)?;
        Ok(RestoredFile { file, crc32c })
    }

    /// Removes the mark of an incremental backup from the label, because the restored cluster is complete.
    fn restore_label(
        &self,
        reader: &mut ChainReader<'_>,
        mut file: ChainedFile,
        output: &mut FileOutput<'_>,
        what: &dyn Fn() -> String,
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
            return Err(Error::damaged(
                "the backup's backup_label differs from the one recorded in its manifest",
            ));
        }
        let label = without_incremental_from(recorded);
        output.write(&label).context(what)?;
        file.bytes = label.len() as u64;
        Ok(RestoredFile { file, crc32c: crc32c::crc32c(&label) })
    }
}

impl Kept {
    fn add(&mut self, other: Kept) {
        self.files += other.files;
        self.file_bytes += other.file_bytes;
        self.written_bytes += other.written_bytes;
        self.removed += other.removed;
    }
}

/// The name of a tablespace's subdirectory for the version of a backup.
///
/// # Errors
/// As [`StoredBackup::server_version`].
pub fn tablespace_version_directory(backup: &StoredBackup) -> Result<String> {
    Ok(backup.server_version()?.tablespace_directory())
}
