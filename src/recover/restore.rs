//! Puts the files of a backup where they belong, every one verified.
//!
//! Owns: reading packs in parallel, and what is created where. A backup is not trusted: its paths stay below the
//! directory that was claimed for them, because while files are written there is no symbolic link in it; links come last.

use super::places::Places;
use crate::durable::Disk;
use crate::error::{Context, Error, Result};
use crate::monitor::Monitor;
use crate::postgres::BackupManifestReader;
use crate::repository::Repository;
use crate::repository::backup::framed::FramedReader;
use crate::repository::backup::index::{DirectoryEntry, FileEntry, IndexEntry, IndexReader};
use crate::repository::backup::{PackReader, StoredBackup};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// The file without which no server starts; it is put in place when all the rest is durable.
pub const CONTROL_FILE: &[u8] = b"global/pg_control";

/// PostgreSQL's own list of the files, left in the data directory for `pg_verifybackup`.
const POSTGRES_MANIFEST: &str = "backup_manifest";

/// Longer than any `pg_control`, which has 8 KiB.
const CONTROL_FILE_BYTES_MAX: u64 = 64 << 10;

/// How many files are known at a time. Within such a batch each stored byte is read once; 20 MB of memory.
const BATCH_FILES_MAX: usize = 100_000;

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

/// Some files of one pack, in the order of their places.
struct Share {
    pack: u32,
    files: Vec<FileEntry>,
}

/// What files there are, as two lists of them can be compared without holding either: equal sets have equal sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FileSetSum {
    files: u64,
    sum: u128,
}

/// Restores all files but `pg_control`. Nothing is durable yet.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for everything in the backup that does not fit together, the
/// store's and the operating system's. The first one ends all workers.
pub fn restore(
    repository: &Repository,
    backup: &StoredBackup,
    places: &Places,
    workers: NonZeroUsize,
    disk: &dyn Disk,
    monitor: &dyn Monitor,
) -> Result<Restored> {
    let mut restore = Restore {
        repository,
        backup,
        places,
        workers,
        disk,
        monitor,
        restored: Restored { files: 0, bytes: 0, control_file: Vec::new() },
        sum: FileSetSum::default(),
    };
    restore.run()?;
    if restore.restored.control_file.is_empty() {
        return Err(Error::damaged("the backup has no global/pg_control"));
    }
    Ok(restore.restored)
}

struct Restore<'a> {
    repository: &'a Repository,
    backup: &'a StoredBackup,
    places: &'a Places,
    workers: NonZeroUsize,
    disk: &'a dyn Disk,
    monitor: &'a dyn Monitor,
    restored: Restored,
    sum: FileSetSum,
}

impl Restore<'_> {
    fn run(&mut self) -> Result<()> {
        let (store, layout) = (self.repository.store(), self.repository.layout());
        let key = layout.backup_index(&self.backup.label)?;
        let mut index = IndexReader::open(store.as_ref(), &key, self.backup.index)?
            .ok_or_else(|| Error::damaged(format!("\"{}/{key}\" is missing", store.location())))?;
        loop {
            let mut batch = Vec::new();
            let ended = self.read_batch(&mut index, &mut batch)?;
            self.restore_batch(batch)?;
            if ended {
                return self.compare_with_postgres_manifest();
            }
        }
    }

    /// Creates the directories on the way, and collects files; whether the index ended.
    fn read_batch(&mut self, index: &mut IndexReader, batch: &mut Vec<FileEntry>) -> Result<bool> {
        while batch.len() < BATCH_FILES_MAX {
            match index.next_entry()? {
                None => return Ok(true),
                Some(IndexEntry::Directory(directory)) => self.create_directory(&directory)?,
                Some(IndexEntry::File(file)) => {
                    self.sum.add(file.path.as_bytes(), file.bytes, file.crc32c);
                    self.restored.files += 1;
                    self.restored.bytes += file.bytes;
                    if file.path.as_bytes() == CONTROL_FILE {
                        self.read_control_file(&file)?;
                    } else {
                        batch.push(file);
                    }
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

    fn read_control_file(&mut self, file: &FileEntry) -> Result<()> {
        if file.bytes > CONTROL_FILE_BYTES_MAX {
            return Err(Error::damaged(format!("global/pg_control has {} bytes", file.bytes)));
        }
        let mut content = Vec::new();
        self.pack_reader(file.place.pack)?.read_file(file, &mut |bytes| {
            content.extend_from_slice(bytes);
            Ok(())
        })?;
        self.restored.control_file = content;
        Ok(())
    }

    fn pack_reader(&self, pack: u32) -> Result<PackReader<'_>> {
        let key = self.repository.layout().backup_pack(&self.backup.label, pack)?;
        Ok(PackReader::new(self.repository.store().as_ref(), key))
    }

    /// Restores these files with all workers; returns when every one of them has ended.
    fn restore_batch(&self, batch: Vec<FileEntry>) -> Result<()> {
        let shares = Mutex::new(shares_of(batch));
        let failed = AtomicBool::new(false);
        let work = || -> Result<()> {
            let mut buffer = Vec::new();
            loop {
                let next = shares.lock().ok().and_then(|mut shares| shares.pop());
                let Some(share) = next else { return Ok(()) };
                let mut reader = self.pack_reader(share.pack)?;
                reader.announce(&share.files);
                for file in &share.files {
                    if failed.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    self.restore_file(&mut reader, file, &mut buffer)?;
                }
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
            results.into_iter().collect()
        })
    }

    fn restore_file(
        &self,
        reader: &mut PackReader<'_>,
        entry: &FileEntry,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        let path = self.places.file(entry.path.as_bytes())?;
        let what = || format!("could not write \"{}\"", path.display());
        // A path that the index names twice, or that is a link, fails here: the file must be new.
        let mut file = self.disk.create_new(&path, entry.mode & FILE_MODE_MASK | 0o600).context(what)?;
        buffer.clear();
        reader.read_file(entry, &mut |bytes| {
            self.monitor.advance(bytes.len() as u64);
            file.write_all(bytes).context(what)
        })
    }

    /// Leaves PostgreSQL's own manifest in the data directory, and checks that it tells of the same files.
    fn compare_with_postgres_manifest(&self) -> Result<()> {
        let store = self.repository.store();
        let key = self.repository.layout().postgres_manifest(&self.backup.label)?;
        let location = || format!("\"{}/{key}\"", store.location());
        let mut stored = FramedReader::open(store.as_ref(), &key, self.backup.postgres_manifest)?
            .ok_or_else(|| Error::damaged(format!("{} is missing", location())))?;
        let path = self.places.file(POSTGRES_MANIFEST.as_bytes())?;
        let what = || format!("could not write \"{}\"", path.display());
        let mut copy = self.disk.create_new(&path, 0o600).context(what)?;
        loop {
            let piece = stored.fill().context(|| format!("could not read {}", location()))?;
            if piece.is_empty() {
                break;
            }
            copy.write_all(piece).context(what)?;
            let length = piece.len();
            FramedReader::take(&mut stored, length);
        }
        let mut sum = FileSetSum::default();
        let read = || -> Result<()> {
            let input = BufReader::new(File::open(&path).context(what)?);
            let mut manifest = BackupManifestReader::new(input)?;
            while let Some(file) = manifest.next_file()? {
                let crc32c = file.crc32c.ok_or_else(|| {
                    Error::damaged(format!(
                        "it has no checksum of \"{}\"",
                        String::from_utf8_lossy(&file.path)
                    ))
                })?;
                sum.add(&file.path, file.size_bytes, crc32c);
            }
            manifest.finish().map(drop)
        };
        let mut read = read;
        read().context(location)?;
        if sum == self.sum {
            return Ok(());
        }
        Err(Error::damaged(format!(
            "{} and the index of the backup do not tell of the same files: {} and {} of them",
            location(),
            sum.files,
            self.sum.files
        )))
    }
}

impl FileSetSum {
    fn add(&mut self, path: &[u8], bytes: u64, crc32c: u32) {
        let mut line = path.to_vec();
        line.push(0);
        line.extend_from_slice(&bytes.to_le_bytes());
        line.extend_from_slice(&crc32c.to_le_bytes());
        let digest = crate::codec::Digest::of(&line);
        let half = digest.as_bytes().first_chunk::<16>().copied().unwrap_or_default();
        self.files += 1;
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(half));
    }
}

/// Divides files among workers: by pack, in the order of their places; the smallest shares are taken last.
fn shares_of(mut batch: Vec<FileEntry>) -> Vec<Share> {
    batch.sort_by_key(|file| file.place);
    let mut shares: Vec<(u64, Share)> = Vec::new();
    for file in batch {
        match shares.last_mut() {
            Some((bytes, share)) if share.pack == file.place.pack && *bytes < SHARE_BYTES => {
                *bytes += file.bytes;
                share.files.push(file);
            }
            _ => shares.push((file.bytes, Share { pack: file.place.pack, files: vec![file] })),
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
