//! Copies the files of a data directory into packs with several workers.

pub mod last_pack;
pub mod lists;
pub mod pages;

use crate::backup::files::{FileList, ServerFile};
use crate::backup::increment::Increment;
use crate::backup::increment::candidate::Candidate;
use crate::config::Compression;
use crate::durable::Disk;
use crate::error::{Context, Error, Result};
use crate::interruption::Interruption;
use crate::monitor::Monitor;
use crate::pace::Pace;
use crate::postgres::backup::incremental::incremental_path;
use crate::postgres::page::PAGE_BYTES;
use crate::postgres::{RelativeBlockNumber, ServerVersion};
use crate::repository::Repository;
use crate::repository::backup::Label;
use crate::repository::backup::manifest::StoredPack;
use crate::repository::backup::pack::{FinishedPack, PackOwner, PackWriter, PlacedFile, TARGET_RAW_BYTES};
use pages::{PageFindings, PageRules, Piece};
use std::cmp::Reverse;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes of a file read at a time: a frame, which is a multiple of the page size.
const READ_BYTES: usize = crate::codec::FRAME_RAW_BYTES;

/// Interval at which the waiting main thread pings the session.
const PING: Duration = Duration::from_secs(5);

/// Source, destination and options of the copy.
pub struct DataDirectoryCopy<'a> {
    /// The disk through which the files are read.
    pub disk: &'a dyn Disk,
    /// The destination repository.
    pub repository: &'a Repository,
    /// The backup.
    pub label: &'a Label,
    /// The files.
    pub files: &'a FileList,
    /// The version of the server.
    pub version: ServerVersion,
    /// Rules for page checks; `None` if pages have no checksums.
    pub pages: Option<PageRules>,
    /// Selects the content that an incremental backup stores; `None` stores everything.
    pub increment: Option<Increment>,
    /// How packs are compressed.
    pub compression: Compression,
    /// Owner and group of the files.
    pub owner: PackOwner,
    /// Number of packs written in parallel.
    pub workers: NonZeroUsize,
    /// Limits on the use of the machine's resources.
    pub pace: &'a Pace,
    /// Receives the progress.
    pub monitor: &'a dyn Monitor,
    /// Interruption and deadlines.
    pub interruption: &'a Interruption<'a>,
}

/// Result of the copy.
#[derive(Debug, Default)]
pub struct Copied {
    /// The packs, by number.
    pub packs: Vec<StoredPack>,
    /// The files that did not vanish, numbered by their index in the list.
    pub files: Vec<PlacedFile>,
    /// Results of the page checks.
    pub findings: PageFindings,
    /// Number of bytes read.
    pub read_bytes: u64,
}

/// A file that is being copied.
struct Source<'a> {
    file: &'a ServerFile<'a>,
    path: &'a [u8],
    location: &'a Path,
    /// The segment number within its relation's fork, if it is a relation file.
    segment: Option<u32>,
    /// Whether its bytes were already counted by an earlier pass.
    counted: bool,
    findings: &'a mut PageFindings,
}

/// State shared by the workers.
struct Queue<'a> {
    files: &'a FileList,
    state: Mutex<QueueState>,
}

struct QueueState {
    /// Remaining steps; the next one is at the end.
    steps: Vec<CopyStep>,
    next_pack: u32,
}

/// Content to pack.
#[derive(Clone, Copy, Debug)]
enum CopyStep {
    /// All directories of a root, by its number.
    Directories(u32),
    /// A file, by its index in the list.
    File(u32),
}

/// The next work of a worker.
struct AssignedStep {
    root: usize,
    /// Number of the new pack to begin first, if any.
    begin: Option<u32>,
    step: CopyStep,
}

impl DataDirectoryCopy<'_> {
    /// Copies everything except the files that must come last.
    ///
    /// Calls `ping` from this thread every few seconds.
    ///
    /// # Errors
    /// Those of the operating system and the store; those of `ping`; those of [`Interruption::check`].
    pub fn run(&self, ping: &mut dyn FnMut() -> Result<()>) -> Result<Copied> {
        let queue = Queue::new(self.files);
        let copied = Mutex::new(Copied::default());
        thread::scope(|scope| {
            // The channel carries no messages; it closes when the last worker ends for any reason.
            let (working, all_ended) = mpsc::channel::<()>();
            for _ in 0..self.workers.get() {
                let (working, queue, copied) = (working.clone(), &queue, &copied);
                scope.spawn(move || {
                    let _working = working;
                    if let Err(error) = self.work(queue, copied) {
                        self.interruption.fail(error);
                    }
                });
            }
            drop(working);
            while all_ended.recv_timeout(PING) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = ping() {
                    self.interruption.fail(error);
                }
            }
        });
        self.interruption.check()?;
        let mut copied = copied.into_inner().unwrap_or_else(PoisonError::into_inner);
        copied.packs.sort_by_key(|pack| pack.number);
        Ok(copied)
    }

    /// Begins a pack.
    ///
    /// # Errors
    /// The store's.
    pub fn begin_pack(&self, number: u32, root: usize) -> Result<PackWriter> {
        let key = self.repository.layout().backup_pack(self.label, number)?;
        let tablespace = self.files.roots.get(root).and_then(|root| root.tablespace);
        PackWriter::create(
            self.repository.store().as_ref(),
            &key,
            number,
            tablespace,
            self.compression,
            self.owner,
        )
    }

    fn work(&self, queue: &Queue<'_>, copied: &Mutex<Copied>) -> Result<()> {
        self.pace.give_way(self.monitor);
        let mut buffer = vec![0; READ_BYTES];
        let mut findings = PageFindings::default();
        let mut read_bytes = 0;
        let mut pack: Option<(usize, PackWriter)> = None;
        loop {
            self.interruption.check()?;
            let open = pack.as_ref().map(|(root, pack)| (*root, pack.raw_bytes()));
            let Some(work) = queue.take(open) else { break };
            if let Some(number) = work.begin {
                if let Some((_, full)) = pack.take() {
                    finish(full, copied)?;
                }
                pack = Some((work.root, self.begin_pack(number, work.root)?));
            }
            let Some((_, pack)) = pack.as_mut() else {
                return Err(Error::damaged("there is no pack to write to"));
            };
            match work.step {
                CopyStep::Directories(_) => self.pack_directories(pack, work.root)?,
                CopyStep::File(number) => {
                    read_bytes +=
                        self.copy_file(pack, work.root, number as usize, &mut buffer, &mut findings)?;
                }
            }
        }
        if let Some((_, pack)) = pack {
            finish(pack, copied)?;
        }
        let mut copied = copied.lock().unwrap_or_else(PoisonError::into_inner);
        copied.findings.merge(findings);
        copied.read_bytes += read_bytes;
        Ok(())
    }

    fn pack_directories(&self, pack: &mut PackWriter, root: usize) -> Result<()> {
        // Parents come before their children. The data directory itself is left to the program that extracts
        // the pack.
        for directory in self.files.directories.iter().filter(|directory| directory.root == root) {
            let path = self.files.path_in_pack(root, &directory.path);
            if !path.is_empty() {
                pack.add_directory(path, directory.mode, directory.modified_unix_s)?;
            }
        }
        Ok(())
    }

    fn copy_file(
        &self,
        pack: &mut PackWriter,
        root: usize,
        number: usize,
        buffer: &mut [u8],
        findings: &mut PageFindings,
    ) -> Result<u64> {
        let Some(planned) = self.files.files.get(number) else { return Ok(0) };
        let path = self.files.path_of(planned);
        let relation = self.files.relation(planned, self.version);
        let increment = self.increment.as_ref();
        if increment.zip(relation).is_some_and(|(increment, relation)| increment.leaves_out(relation)) {
            self.monitor.advance(planned.bytes);
            return Ok(0);
        }
        let location = self.files.location_of(&path);
        let what = || format!("could not read \"{}\"", location.display());
        let Some(file) = ServerFile::open(self.disk, &location).context(what)? else {
            // The file was dropped after the directory was read; WAL contains the removal.
            self.monitor.advance(planned.bytes);
            return Ok(0);
        };
        // The listed length may be outdated: a longer configuration file may have replaced it.
        let metadata = file.metadata().context(what)?;
        let mut read_bytes = 0;
        let changed = match (increment, relation) {
            (Some(increment), Some(relation)) => {
                let candidate =
                    Candidate { number, relation, file: &file, location: &location, bytes: metadata.len() };
                increment.changed_pages(&candidate, buffer, &mut read_bytes, self.pace, self.interruption)?
            }
            _ => None,
        };
        let (stored_path, stored_bytes) = match &changed {
            None => (path.clone(), metadata.len()),
            Some(header) => (incremental_path(&path), header.file_bytes()),
        };
        pack.begin_file(
            number,
            self.files.path_in_pack(root, &stored_path),
            stored_bytes,
            metadata.mode() & 0o7777,
            metadata.mtime(),
        )?;
        let mut source = Source {
            file: &file,
            path: &path,
            location: &location,
            segment: relation.map(|found| found.segment),
            counted: changed.is_some(),
            findings,
        };
        read_bytes += match &changed {
            None => metadata.len(),
            Some(header) => header.pages().len() as u64 * PAGE_BYTES as u64,
        };
        match changed {
            None => self.copy_range(pack, &mut source, 0..metadata.len(), buffer)?,
            Some(header) => {
                self.monitor.advance(metadata.len());
                pack.is_incremental(metadata.len());
                pack.write(&header.to_bytes())?;
                for pages in runs(header.pages()) {
                    let range = pages.start * PAGE_BYTES as u64..pages.end * PAGE_BYTES as u64;
                    self.copy_range(pack, &mut source, range, buffer)?;
                }
            }
        }
        pack.end_file()?;
        Ok(read_bytes)
    }

    /// Copies a range of a file. If the file was truncated meanwhile, zeros fill the rest; WAL repeats the
    /// truncation.
    fn copy_range(
        &self,
        pack: &mut PackWriter,
        source: &mut Source<'_>,
        range: Range<u64>,
        buffer: &mut [u8],
    ) -> Result<()> {
        let mut offset = range.start;
        while offset < range.end {
            self.interruption.check()?;
            let missing = range.end - offset;
            let wanted = usize::try_from(missing).map_or(buffer.len(), |missing| missing.min(buffer.len()));
            let bytes = buffer.get_mut(..wanted).unwrap_or_default();
            self.pace.take(wanted as u64);
            // Adds context to read errors only. Other errors come from the repository or from another worker.
            let length = source
                .file
                .read_full(bytes, offset)
                .context(|| format!("could not read \"{}\"", source.location.display()))?;
            bytes.get_mut(length..).unwrap_or_default().fill(0);
            if let (Some(rules), Some(segment)) = (self.pages, source.segment) {
                let piece = Piece { file: source.file, path: source.path, segment, offset };
                rules.check(&piece, bytes.get_mut(..length).unwrap_or_default(), source.findings)?;
            }
            pack.write(bytes)?;
            if !source.counted {
                self.monitor.advance(wanted as u64);
            }
            offset += wanted as u64;
        }
        Ok(())
    }
}

impl<'a> Queue<'a> {
    /// Orders the roots by size, largest first, so that the workers finish together. The directories of each
    /// root come first: an extraction in pack order creates each directory, with its permissions, before its
    /// content.
    fn new(files: &'a FileList) -> Queue<'a> {
        let mut bytes = vec![0_u64; files.roots.len()];
        for file in &files.files {
            if let Some(bytes) = bytes.get_mut(files.root_of(file)) {
                *bytes += file.bytes;
            }
        }
        // Sorts equal sizes by number to keep the order deterministic.
        let bytes_of = |root: usize| bytes.get(root).copied().unwrap_or_default();
        let key = |step: &CopyStep| match *step {
            CopyStep::Directories(root) => (Reverse(bytes_of(root as usize)), root, Reverse(u64::MAX), 0),
            CopyStep::File(number) => {
                let file = files.files.get(number as usize);
                let root = file.map_or(0, |file| files.root_of(file));
                let length = file.map_or(0, |file| file.bytes);
                (Reverse(bytes_of(root)), root as u32, Reverse(length), number)
            }
        };
        let has_directories = |root: &u32| files.directories.iter().any(|found| found.root == *root as usize);
        let directories = (0..files.roots.len() as u32).filter(has_directories).map(CopyStep::Directories);
        let mut steps: Vec<CopyStep> =
            (0..files.files.len() as u32).map(CopyStep::File).chain(directories).collect();
        steps.sort_unstable_by_key(|step| Reverse(key(step)));
        Queue { files, state: Mutex::new(QueueState { steps, next_pack: 1 }) }
    }

    /// The next work for a worker whose open pack belongs to a root and has this size; `None` if none is
    /// left.
    fn take(&self, open: Option<(usize, u64)>) -> Option<AssignedStep> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let step = state.steps.pop()?;
        let (root, bytes) = match step {
            CopyStep::Directories(root) => (root as usize, 0),
            CopyStep::File(number) => {
                let file = self.files.files.get(number as usize)?;
                (self.files.root_of(file), file.bytes)
            }
        };
        let fits = open.is_some_and(|(open_root, raw_bytes)| {
            open_root == root && raw_bytes.saturating_add(bytes) <= TARGET_RAW_BYTES
        });
        let begin = if fits { None } else { Some(state.next_pack) };
        state.next_pack += u32::from(begin.is_some());
        Some(AssignedStep { root, begin, step })
    }
}

fn finish(pack: PackWriter, copied: &Mutex<Copied>) -> Result<()> {
    let FinishedPack { pack, files } = pack.finish()?;
    let mut copied = copied.lock().unwrap_or_else(PoisonError::into_inner);
    copied.packs.push(pack);
    copied.files.extend(files);
    Ok(())
}

/// Groups consecutive blocks into ranges.
fn runs(blocks: &[RelativeBlockNumber]) -> impl Iterator<Item = Range<u64>> + '_ {
    let mut rest = blocks.iter().map(|block| u64::from(block.as_u32())).peekable();
    std::iter::from_fn(move || {
        let first = rest.next()?;
        let mut end = first + 1;
        while rest.next_if_eq(&end).is_some() {
            end += 1;
        }
        Some(first..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigRequest};
    use crate::data_directory::DataDirectory;
    use crate::durable::{RealDisk, UnreadableDisk};
    use crate::error::ErrorKind;
    use crate::monitor::RecordingMonitor;
    use crate::postgres::MajorVersion;
    use crate::store::DirectoryStore;
    use std::fs;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let [data, store] = ["data", "repository"].map(|name| scratch.path().join(name));
        fs::create_dir_all(data.join("base/5")).unwrap();
        fs::create_dir(&store).unwrap();
        fs::write(data.join("base/5/1259"), b"content").unwrap();
        let request = ConfigRequest {
            cluster: Some("main".to_owned()),
            repository: Some(store.display().to_string()),
            data_directory: Some(data.clone()),
            ..ConfigRequest::default()
        };
        let pace = Config::resolve(&request).unwrap().backup.pace;
        let store = Arc::new(DirectoryStore::new(store, Arc::new(RealDisk)));
        let repository = Repository::new(store, "main", "7301234567890123456".parse().unwrap()).unwrap();
        repository.make().unwrap();
        let (monitor, interrupted) = (RecordingMonitor::default(), AtomicBool::new(false));
        let interruption = Interruption::new(&interrupted);
        let version = MajorVersion::V15.into();
        let data_directory = DataDirectory::open(&data).unwrap();
        let files = FileList::scan(&data_directory, version, &monitor, &interruption).unwrap();
        let copy = |disk: &dyn Disk| {
            let copy = DataDirectoryCopy {
                disk,
                repository: &repository,
                label: &"one".parse().unwrap(),
                files: &files,
                version,
                pages: None,
                increment: None,
                compression: Compression::None,
                owner: PackOwner { uid: 0, gid: 0 },
                workers: NonZeroUsize::MIN,
                pace: &Pace::new(pace),
                monitor: &monitor,
                interruption: &interruption,
            };
            copy.run(&mut || Ok(()))
        };
        let error = copy(&UnreadableDisk).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let path = data.join("base/5/1259");
        assert_eq!(error.report(), format!("could not read \"{}\": input/output error", path.display()));
    }

    #[test]
    fn neighbours_are_read_together() {
        let blocks = [0, 1, 2, 5, 7, 8].map(RelativeBlockNumber::new);
        assert_eq!(runs(&[]).count(), 0);
        assert_eq!(runs(&blocks).collect::<Vec<_>>(), [0..3, 5..6, 7..9]);
    }
}
