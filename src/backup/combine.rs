//! Combines a chain into a full backup inside the repository: the implementation of `pgark combine`.
//!
//! Owns: the distribution of files over packs. Does not contact the server. The result equals the newest
//! backup of the chain: it has the same start and stop points and needs the same WAL.

use super::copy::lists::{self, Scope};
use super::draft::{CREATED_BY, totals};
use super::parent;
use super::publish::publish;
use super::running::{self, RunningBackup};
use super::summary::BackupSummary;
use crate::config::Compression;
use crate::error::{Error, ErrorKind, Result};
use crate::interruption::Interruption;
use crate::monitor::{MeasuredWork, Monitor};
use crate::postgres::backup::label::without_incremental_from;
use crate::postgres::{ManifestVersion, Oid, SegmentName};
use crate::repository::Repository;
use crate::repository::backup::chain::{ChainEntry, ChainReader, ChainedFile, ChainedFiles};
use crate::repository::backup::file_set::{compare_with_postgres_manifest, open_postgres_manifest};
use crate::repository::backup::manifest::{BackupKind, DamagedPages, StoredPack};
use crate::repository::backup::pack::{FinishedPack, PackOwner, PackWriter, PlacedFile, TARGET_RAW_BYTES};
use crate::repository::backup::{
    Chain, DirectoryEntry, IndexEntry, Label, NewLabel, StoredBackup, StoredText, inventory,
};
use nix::unistd::{Gid, Uid};
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// Files of the last pack, in this order; they determine where WAL replay starts.
const LAST: [&[u8]; 3] = [b"backup_label", b"tablespace_map", b"global/pg_control"];

/// Upper limit for the number of files held in memory.
const BATCH_FILES_MAX: usize = 20_000;

/// Parameters of a combination.
#[derive(Debug)]
pub struct CombineRequest {
    /// The newest backup of the chain.
    pub of: Label,
    /// Label of the full backup.
    pub label: NewLabel,
    /// Number of packs written in parallel.
    pub workers: NonZeroUsize,
    /// How packs are compressed.
    pub compression: Compression,
}

/// Creates the full backup. On return, it is complete and durable, and no longer depends on the chain.
///
/// Stops early, without listing a backup, if `interrupted` becomes true.
///
/// # Errors
/// [`ErrorKind::Absent`] if there is no such backup, [`ErrorKind::Usage`] if it is already full,
/// [`ErrorKind::Damaged`] if stored content of the chain is wrong, [`ErrorKind::Hole`] if required WAL is
/// missing, [`ErrorKind::Conflict`] if the label is in use; those of the store.
pub fn combine(
    request: &CombineRequest,
    repository: &Repository,
    interrupted: &AtomicBool,
    monitor: &dyn Monitor,
) -> Result<BackupSummary> {
    let began = Instant::now();
    let interruption = Interruption::new(interrupted);
    repository.check()?;
    let chain = find_chain(request, repository)?;
    let wal_segments = check_wal(chain.newest(), repository)?;
    running::sweep_store(repository, monitor);
    running::sweep_abandoned(repository, monitor);
    let running = RunningBackup::begin(repository, &request.label)?;
    let label = running.label().clone();
    let combination = Combination {
        request,
        label: &label,
        repository,
        chain: &chain,
        interruption: &interruption,
        monitor,
        next_pack: AtomicU32::new(1),
        owner: PackOwner { uid: Uid::effective().as_raw(), gid: Gid::effective().as_raw() },
        packed: Mutex::default(),
    };
    let combined = running.during(&interruption, |running| combination.make(running))?;
    Ok(BackupSummary::of(&combined, wal_segments, began.elapsed()).noting_maps_of(chain.newest()))
}

fn find_chain(request: &CombineRequest, repository: &Repository) -> Result<Chain> {
    let (backups, damaged) = inventory::read_usable(repository)?;
    if let Some((_, error)) = damaged.into_iter().find(|(label, _)| *label == request.of) {
        return Err(error);
    }
    let newest = backups.iter().find(|backup| backup.label == request.of).ok_or_else(|| {
        Error::absent(format!("the repository holds no backup {}", request.of))
            .hint("pgark info lists the backups.")
    })?;
    if newest.parent().is_none() {
        return Err(Error::usage(format!("backup {} is already a full backup", request.of))
            .hint("Choose an incremental backup; pgark info shows which backups build on others."));
    }
    Chain::of(newest, &backups)
}

/// Checks that all WAL that the backup needs is stored; returns the number of segments.
fn check_wal(backup: &StoredBackup, repository: &Repository) -> Result<u64> {
    let size = backup.segment_size()?;
    let mut count = 0;
    for range in &backup.wal_ranges {
        let mut segment = range.start.segment(size);
        let last = range.end.previous().unwrap_or(range.end).segment(size);
        while segment <= last {
            let name = SegmentName::new(range.timeline, segment, size)
                .ok_or_else(|| Error::damaged("the backup's WAL ends past the last segment"))?;
            if repository.store().stat(&repository.layout().segment(name)?)?.is_none() {
                return Err(Error::new(
                    ErrorKind::Hole,
                    format!("backup {} needs WAL segment {name}, which is missing", backup.label),
                )
                .hint("The combined backup could not be recovered. Take a full backup: pgark base-backup --type full"));
            }
            count += 1;
            segment = segment.next();
        }
    }
    Ok(count)
}

/// A full backup under construction.
struct Combination<'a> {
    request: &'a CombineRequest,
    label: &'a Label,
    repository: &'a Repository,
    chain: &'a Chain,
    interruption: &'a Interruption<'a>,
    monitor: &'a dyn Monitor,
    next_pack: AtomicU32,
    owner: PackOwner,
    packed: Mutex<Packed>,
}

/// The content packed so far.
#[derive(Default)]
struct Packed {
    packs: Vec<StoredPack>,
    /// Identified by their index in the chain's list, which is read again for their paths.
    files: Vec<PlacedFile>,
}

/// A file with its index in the chain's list.
type Numbered = (usize, ChainedFile);

impl Combination<'_> {
    fn make(&self, running: &RunningBackup<'_>) -> Result<StoredBackup> {
        let newest = self.chain.newest();
        running.name_parent(&newest.label)?;
        // Removal checks the marks first, so everything still present now remains.
        parent::check_intact(self.chain, self.repository)?;
        let labels = self.chain.labels();
        let labels: Vec<&str> = labels.iter().map(|label| label.as_str()).collect();
        let work = MeasuredWork::CombiningBackups { labels: &labels };
        self.monitor.during(work, Some(newest.whole_bytes()), || self.pack())?;
        let stored = self.stored()?;
        publish(self.repository, &stored, Some(self.chain), running, self.interruption)?;
        Ok(stored)
    }

    /// Writes all packs of the combined backup.
    fn pack(&self) -> Result<()> {
        let newest = self.chain.newest();
        let tablespaces = newest.tablespaces.iter().filter(|tablespace| tablespace.path.is_some());
        let outside: BTreeSet<Oid> = tablespaces.map(|tablespace| tablespace.oid).collect();
        let mut last = Vec::new();
        for root in [None].into_iter().chain(outside.iter().copied().map(Some)) {
            self.pack_root(root, &outside, &mut last)?;
        }
        self.pack_last(last)
    }

    /// Packs the content of the data directory or of one external tablespace, directories first.
    fn pack_root(&self, root: Option<Oid>, outside: &BTreeSet<Oid>, last: &mut Vec<Numbered>) -> Result<()> {
        let mut directories = Vec::new();
        let mut lists = ChainedFiles::open(self.repository, self.chain)?;
        while let Some(entry) = lists.next_entry()? {
            match entry {
                ChainEntry::Directory(directory) if root_of(directory.path.as_bytes(), outside) == root => {
                    directories.push(directory);
                }
                _ => {}
            }
        }
        let mut open: Vec<Option<PackWriter>> = Vec::new();
        open.resize_with(self.request.workers.get(), || None);
        if let Some(first) = open.first_mut() {
            *first = Some(self.begin(root, &directories)?);
        }
        let mut lists = ChainedFiles::open(self.repository, self.chain)?;
        let mut numbers = 0..;
        loop {
            let (mut batch, mut ended) = (Vec::new(), false);
            while batch.len() < BATCH_FILES_MAX && !ended {
                match lists.next_entry()? {
                    None => ended = true,
                    Some(ChainEntry::File(file)) => {
                        let number = numbers.next().unwrap_or_default();
                        if root_of(file.path.as_bytes(), outside) == root {
                            let is_last = LAST.contains(&file.path.as_bytes());
                            if is_last { last.push((number, file)) } else { batch.push((number, file)) }
                        }
                    }
                    Some(ChainEntry::Directory(_)) => {}
                }
            }
            self.pack_batch(root, batch, &mut open)?;
            if ended {
                break;
            }
        }
        for (member, sum) in self.chain.members().zip(lists.sums()) {
            let manifest = open_postgres_manifest(self.repository, member)?;
            compare_with_postgres_manifest(self.repository, member, sum, manifest)?;
        }
        open.into_iter().flatten().try_for_each(|pack| self.finish(pack))
    }

    fn pack_batch(
        &self,
        root: Option<Oid>,
        mut batch: Vec<Numbered>,
        open: &mut [Option<PackWriter>],
    ) -> Result<()> {
        // Taken from the end, in the order of the oldest backup, so that each pack is read sequentially once.
        batch.sort_by_key(|(_, file)| std::cmp::Reverse((file.base.member, file.base.entry.place)));
        let queue = Mutex::new(batch);
        let work = |open: &mut Option<PackWriter>| -> Result<()> {
            let mut reader = ChainReader::new(self.repository, self.chain);
            loop {
                self.interruption.check()?;
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some((number, file)) = next else { return Ok(()) };
                let is_full = open
                    .as_ref()
                    .is_some_and(|pack| pack.raw_bytes().saturating_add(file.bytes) > TARGET_RAW_BYTES);
                if let Some(full) = open.take_if(|_| is_full) {
                    self.finish(full)?;
                }
                let pack = match open {
                    Some(pack) => pack,
                    None => open.insert(self.begin(root, &[])?),
                };
                self.pack_file(root, pack, &mut reader, number, &file)?;
            }
        };
        thread::scope(|scope| {
            let workers: Vec<_> = open
                .iter_mut()
                .map(|open| {
                    scope.spawn(|| work(open).inspect_err(|error| self.interruption.fail(error.replica())))
                })
                .collect();
            let failed = || Err(Error::damaged("a worker that combines files failed"));
            let results: Vec<Result<()>> =
                workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| failed())).collect();
            results.into_iter().collect()
        })
    }

    fn pack_file(
        &self,
        root: Option<Oid>,
        pack: &mut PackWriter,
        reader: &mut ChainReader<'_>,
        number: usize,
        file: &ChainedFile,
    ) -> Result<()> {
        let path = path_in_pack(root, file.path.as_bytes());
        pack.begin_file(number, path, file.bytes, file.mode, file.modified_unix_s)?;
        reader.read_file(file, &mut |bytes| {
            self.monitor.advance(bytes.len() as u64);
            pack.write(bytes)
        })?;
        pack.end_file()
    }

    fn pack_last(&self, mut last: Vec<Numbered>) -> Result<()> {
        let mut pack = self.begin(None, &[])?;
        let mut reader = ChainReader::new(self.repository, self.chain);
        last.sort_by_key(|(_, file)| LAST.iter().position(|name| *name == file.path.as_bytes()));
        for (number, file) in last {
            if file.path.as_bytes() != b"backup_label" {
                self.pack_file(None, &mut pack, &mut reader, number, &file)?;
                continue;
            }
            let label = without_incremental_from(self.chain.newest().backup_label.as_bytes());
            let length = label.len() as u64;
            pack.begin_file(number, file.path.as_bytes(), length, file.mode, file.modified_unix_s)?;
            pack.write(&label)?;
            pack.end_file()?;
        }
        self.finish(pack)
    }

    fn begin(&self, root: Option<Oid>, directories: &[DirectoryEntry]) -> Result<PackWriter> {
        let number = self.next_pack.fetch_add(1, Ordering::Relaxed);
        let key = self.repository.layout().backup_pack(self.label, number)?;
        let store = self.repository.store().as_ref();
        let mut pack = PackWriter::create(store, &key, number, root, self.request.compression, self.owner)?;
        for directory in directories {
            let path = path_in_pack(root, directory.path.as_bytes());
            pack.add_directory(path, directory.mode, directory.modified_unix_s)?;
        }
        Ok(pack)
    }

    fn finish(&self, pack: PackWriter) -> Result<()> {
        let FinishedPack { pack, files } = pack.finish()?;
        let mut packed = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        packed.packs.push(pack);
        packed.files.extend(files);
        Ok(())
    }

    /// Writes the lists and returns the backup made of them and the packs.
    fn stored(&self) -> Result<StoredBackup> {
        let newest = self.chain.newest();
        let mut packed = std::mem::take(&mut *self.packed.lock().unwrap_or_else(PoisonError::into_inner));
        packed.packs.sort_by_key(|pack| pack.number);
        packed.files.sort_unstable_by_key(|file| file.number);
        let ranges: Vec<_> = newest.wal_ranges.iter().rev().map(|range| (*range).into()).collect();
        let lists = lists::write(
            self.entries(packed.files)?,
            Scope::Full,
            self.repository,
            self.label,
            ManifestVersion::written_by(newest.major_version()?, newest.system_identifier),
            &ranges,
            self.request.compression,
        )?;
        if lists.file_count != newest.totals.files {
            return Err(Error::damaged(format!(
                "{} files were combined, but backup {} has {}",
                lists.file_count, newest.label, newest.totals.files
            )));
        }
        let kind = BackupKind::Full;
        Ok(StoredBackup {
            version: StoredBackup::version_of(&kind),
            label: self.label.clone(),
            created_by: CREATED_BY.to_owned(),
            backup_label: StoredText::new(without_incremental_from(newest.backup_label.as_bytes())),
            totals: totals(&kind, &packed.packs, &lists),
            kind,
            packs: packed.packs,
            index: lists.index,
            postgres_manifest: lists.postgres_manifest,
            damaged_pages: damaged_pages(self.chain),
            ..newest.clone()
        })
    }

    /// The index entries: paths come from the chain's list, which has the same order, together with where
    /// each file was packed.
    fn entries(&self, placed: Vec<PlacedFile>) -> Result<impl Iterator<Item = Result<IndexEntry>> + use<>> {
        let mut lists = ChainedFiles::open(self.repository, self.chain)?;
        let (mut numbers, mut placed) = (0.., placed.into_iter().peekable());
        let mut file_entry = move |file: ChainedFile| {
            let number = numbers.next();
            let placed = placed.next_if(|placed| Some(placed.number) == number);
            let placed = placed.ok_or_else(|| Error::damaged(format!("\"{}\" was not packed", file.path)))?;
            Ok(IndexEntry::File(placed.entry(file.path)))
        };
        Ok(std::iter::from_fn(move || {
            Some(match lists.next_entry().transpose()? {
                Ok(ChainEntry::Directory(directory)) => Ok(IndexEntry::Directory(directory)),
                Ok(ChainEntry::File(file)) => file_entry(file),
                Err(error) => Err(error),
            })
        }))
    }
}

/// The damaged pages found by any backup of the chain; a page that was not read again is not reported again
/// by later ones.
fn damaged_pages(chain: &Chain) -> DamagedPages {
    let mut damaged = DamagedPages::default();
    for found in chain.members().map(|member| &member.damaged_pages) {
        damaged.count = damaged.count.max(found.count);
        for page in &found.listed {
            if !damaged.listed.iter().any(|known| known.path == page.path && known.block == page.block) {
                damaged.listed.push(page.clone());
            }
        }
    }
    damaged.count = damaged.count.max(damaged.listed.len() as u64);
    damaged
}

/// The external tablespace that a path belongs to; `None` for the data directory.
fn root_of(path: &[u8], outside: &BTreeSet<Oid>) -> Option<Oid> {
    let oid = path.strip_prefix(b"pg_tblspc/")?.split(|byte| *byte == b'/').next()?;
    std::str::from_utf8(oid).ok()?.parse().ok().filter(|oid| outside.contains(oid))
}

/// A path below its root.
fn path_in_pack(root: Option<Oid>, path: &[u8]) -> &[u8] {
    let prefix = root.map(|oid| format!("pg_tblspc/{oid}/")).unwrap_or_default();
    path.strip_prefix(prefix.as_bytes()).unwrap_or(path)
}
