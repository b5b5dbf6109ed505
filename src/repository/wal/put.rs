//! Stores one WAL file, once.

use super::check::{HistoryLookup, WalExpectation};
use super::decode;
use super::encode::{Encoding, PageCheck};
use super::{header, inventory};
use crate::codec::ContentSum;
use crate::config::Compression;
use crate::durable::{self, Disk, Symlinks};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::postgres::value::timeline::HISTORY_BYTES_MAX;
use crate::postgres::{SegmentSize, TimelineHistory, TimelineId, WalFileName};
use crate::repository::Repository;
use crate::repository::object::{HeadedWriter, PutError};
use crate::store::PutOutcome;
use std::cell::Cell;
use std::fs::{File, Metadata};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A WAL file of the server.
#[derive(Clone, Debug)]
pub struct WalSource {
    /// The name under which it is archived.
    pub name: WalFileName,
    /// Its absolute path; its directory is the server's `pg_wal`.
    pub path: PathBuf,
    /// The server's segment size.
    pub segment_size: SegmentSize,
    /// How thoroughly it is checked.
    pub pages: PageCheck,
    /// The disk through which it is read.
    pub disk: Arc<dyn Disk>,
}

/// Identifies the content of a file: any write or rename changes one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    length_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// How many different partial segments of one name are stored.
const PARTIALS_MAX: usize = 8;

/// What was stored.
#[derive(Debug)]
pub struct StoredWal {
    /// Its name in the repository: that of the source, except for a further partial segment.
    pub name: WalFileName,
    /// The file with the stored bytes.
    pub identity: FileIdentity,
    /// Length and digest of those bytes.
    pub sum: ContentSum,
    /// Whether the object was created, or existed with the same content.
    pub outcome: PutOutcome,
    /// The damage of the object under the source's own name, if a partial segment was stored beside it.
    pub damage_beside: Option<Error>,
}

impl FileIdentity {
    /// The identity of the file that `path` names now.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn of(disk: &dyn Disk, path: &Path) -> io::Result<FileIdentity> {
        disk.data_metadata(path, Symlinks::Follow).map(|metadata| FileIdentity::from(&metadata))
    }

    /// The identity of a file that does not exist, for tests.
    #[cfg(test)]
    pub fn invented(inode: u64) -> FileIdentity {
        FileIdentity { device: 1, inode, length_bytes: 1, modified: (0, 0), changed: (0, 0) }
    }
}

impl From<&Metadata> for FileIdentity {
    fn from(metadata: &Metadata) -> FileIdentity {
        FileIdentity {
            device: metadata.dev(),
            inode: metadata.ino(),
            length_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Stores a WAL file. After success the repository durably holds exactly the bytes of the file with the returned
/// identity.
///
/// A partial segment that differs from the stored one of its name gets a name of its own. Servers that are promoted one
/// after the other out of the same segment leave different ones, and if one is refused, PostgreSQL archives nothing
/// after it. The same applies if the object under the name is damaged. No recovery reads partial segments.
///
/// The place must have been created. `scratch` is a directory for what exceeds the memory limit; `threads` is the
/// number of threads, including the calling one.
///
/// # Errors
/// [`PutError`] tells whether this host or the repository failed. [`ErrorKind::Conflict`] if the repository holds other
/// bytes under this name, or for a partial segment [`PARTIALS_MAX`] others; [`ErrorKind::Usage`] if there is no such
/// file; those of [`WalExpectation::check`] and the store.
pub fn put(
    repository: &Repository,
    source: &WalSource,
    compression: Compression,
    scratch: &Path,
    threads: NonZeroUsize,
) -> std::result::Result<StoredWal, PutError> {
    let (stored, held) = put_as(source.name, repository, source, compression, scratch, threads)?;
    let (segment, damage_beside) = match (source.name, held) {
        (WalFileName::Partial(segment), Held::Other) => (segment, None),
        (WalFileName::Partial(segment), Held::Damaged(error)) => (segment, Some(error)),
        (_, held) => return held.same(repository, stored),
    };
    let name = WalFileName::FurtherPartial(segment, stored.sum.digest.beginning());
    let known = inventory::partials_of(repository, segment).map_err(PutError::Repository)?;
    if !known.contains(&name) && known.len() >= PARTIALS_MAX {
        return Err(PutError::Repository(another_file(repository).context(format!(
            "{} different files of this name are stored, which is the maximum",
            known.len()
        ))));
    }
    let (further, held) = put_as(name, repository, source, compression, scratch, threads)?;
    if (further.identity, further.sum) != (stored.identity, stored.sum) {
        return Err(PutError::Local(changed(&source.path)));
    }
    held.same(repository, StoredWal { damage_beside, ..further })
}

/// Stores the file under this name, unless the repository holds one.
fn put_as(
    name: WalFileName,
    repository: &Repository,
    source: &WalSource,
    compression: Compression,
    scratch: &Path,
    threads: NonZeroUsize,
) -> std::result::Result<(StoredWal, Held), PutError> {
    let key = repository.layout().wal_file(name).map_err(PutError::Local)?;
    let mut object = HeadedWriter::new(repository.store().as_ref(), &key, header::FRAME_BYTES, scratch);
    // The repository is read and written while the file is read, so either of them may fail.
    let of_repository = Cell::new(false);
    let mut append = |frames: &[u8]| {
        object.append(frames).map_err(|error| {
            of_repository.set(matches!(error, PutError::Repository(_)));
            Error::from(error)
        })
    };
    let history = |timeline| match repository.history(timeline) {
        Ok(Some(history)) => Ok(Some(history)),
        Ok(None) => history_in(source.disk.as_ref(), source.pg_wal(), timeline),
        Err(error) => {
            of_repository.set(true);
            Err(error)
        }
    };
    let (identity, sum) =
        read(repository, source, compression, threads, &history, &mut append).map_err(|error| {
            if of_repository.get() { PutError::Repository(error) } else { PutError::Local(error) }
        })?;
    let header = header::frame(&sum).map_err(PutError::Local)?;
    let outcome = object.finish(&header, sum.digest)?;
    let held = match outcome {
        PutOutcome::Created => Held::Same,
        PutOutcome::Exists => confirm_same(repository, name, &sum).map_err(PutError::Repository)?,
    };
    Ok((StoredWal { name, identity, sum, outcome, damage_beside: None }, held))
}

/// What the repository holds under a name after an attempt to store a file.
#[derive(Debug)]
enum Held {
    /// The file, durably.
    Same,
    /// Other bytes. The file was not stored.
    Other,
    /// An unreadable object. The file was not stored.
    Damaged(Error),
}

impl Held {
    fn same(self, repository: &Repository, stored: StoredWal) -> std::result::Result<StoredWal, PutError> {
        match self {
            Held::Same => Ok(stored),
            Held::Other => Err(PutError::Repository(another_file(repository))),
            Held::Damaged(error) => Err(PutError::Repository(error)),
        }
    }
}

fn another_file(repository: &Repository) -> Error {
    Error::new(ErrorKind::Conflict, "the repository already holds another file of this name").hint(format!(
        "Two servers may be archiving into \"{}\". Check that the old primary is stopped.",
        repository.store().location()
    ))
}

fn changed(path: &Path) -> Error {
    Error::unavailable(format!("\"{}\" changed while it was read", path.display())).hint(
        "PostgreSQL does not write to a WAL file while it is archived. Check whether another program does.",
    )
}

impl WalSource {
    fn pg_wal(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}

/// Reads and encodes the file, which must not change meanwhile. On error, the output is not usable.
fn read(
    repository: &Repository,
    source: &WalSource,
    compression: Compression,
    threads: NonZeroUsize,
    history: HistoryLookup<'_>,
    output: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<(FileIdentity, ContentSum)> {
    let (path, disk) = (&source.path, source.disk.as_ref());
    let what = || format!("could not read \"{}\"", path.display());
    let file = open_source(disk, path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::usage(format!("file \"{}\" does not exist", path.display())),
        io::ErrorKind::IsADirectory | io::ErrorKind::InvalidData => {
            Error::damaged(format!("\"{}\" is not a regular file", path.display()))
        }
        _ => Error::io(what(), error),
    })?;
    let identity = FileIdentity::from(&file.metadata().context(what)?);
    let expected = WalExpectation::of(repository, source.name, Some(source.segment_size));
    let encoding = Encoding {
        disk,
        path,
        expected,
        length_bytes: identity.length_bytes,
        pages: source.pages,
        compression,
        threads,
    };
    let sum = encoding.run(&file, history, output)?;
    let after = FileIdentity::from(&file.metadata().context(what)?);
    if after == identity && FileIdentity::of(disk, path).context(what)? == identity {
        return Ok((identity, sum));
    }
    Err(changed(path))
}

/// Opens a file of the server without blocking, as a FIFO in its place would.
fn open_source(disk: &dyn Disk, path: &Path) -> io::Result<File> {
    durable::only_regular(disk.open_data(path, Symlinks::Follow)?)
}

/// A timeline's history from the repository, or else from the server's `pg_wal`: after a promotion the new timeline's
/// first segment may be checked before its history file is stored.
///
/// # Errors
/// [`ErrorKind::Damaged`]; those of the store; as [`PutError::Local`] those of the server's file.
pub fn history_beside(
    repository: &Repository,
    disk: &dyn Disk,
    pg_wal: &Path,
    timeline: TimelineId,
) -> std::result::Result<Option<TimelineHistory>, PutError> {
    match repository.history(timeline).map_err(PutError::Repository)? {
        Some(history) => Ok(Some(history)),
        None => history_in(disk, pg_wal, timeline).map_err(PutError::Local),
    }
}

fn history_in(disk: &dyn Disk, pg_wal: &Path, timeline: TimelineId) -> Result<Option<TimelineHistory>> {
    let path = pg_wal.join(WalFileName::History(timeline).to_string());
    match disk.data_metadata(&path, Symlinks::Follow) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= HISTORY_BYTES_MAX as u64 => {}
        _ => return Ok(None),
    }
    let content = durable::read_data(disk, &path, HISTORY_BYTES_MAX as u64)
        .context(|| format!("could not read \"{}\"", path.display()))?;
    TimelineHistory::parse(timeline, &content).map(Some)
}

/// Compares the object under our name with what would have been stored. If they are the same, makes the object durable.
fn confirm_same(repository: &Repository, name: WalFileName, ours: &ContentSum) -> Result<Held> {
    let stored =
        match decode::sum(repository, name).context(|| "the repository already holds a file of this name") {
            Err(error) if error.kind() == ErrorKind::Damaged => return Ok(Held::Damaged(error)),
            stored => stored?.ok_or_else(|| {
                Error::unavailable("the repository held a file of this name, which then disappeared")
            })?,
        };
    if stored.sum != *ours {
        return Ok(Held::Other);
    }
    // Its writer may have died before the name was durable. Only after this call is it known to be stored.
    let durable = repository.store().make_durable(&repository.layout().wal_file(name)?);
    durable.map(|()| Held::Same).map_err(|error| match error.kind() {
        // Removed since the comparison. PostgreSQL retries.
        ErrorKind::Absent => error.with_kind(ErrorKind::Unavailable),
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::{RealDisk, UnreadableDisk};
    use crate::store::DirectoryStore;
    use std::fs;

    #[test]
    fn a_source_that_cannot_be_read_is_this_hosts_failure() {
        let scratch = tempfile::tempdir().unwrap();
        let store = scratch.path().join("repository");
        fs::create_dir(&store).unwrap();
        let store = Arc::new(DirectoryStore::new(store, Arc::new(RealDisk)));
        let repository = Repository::new(store, "main", "7301234567890123456".parse().unwrap()).unwrap();
        repository.make().unwrap();
        let path = scratch.path().join("00000002.history");
        fs::write(&path, b"1\t0/300148\tno recovery target specified\n").unwrap();
        let source = |disk: Arc<dyn Disk>| WalSource {
            name: "00000002.history".parse().unwrap(),
            path: path.clone(),
            segment_size: SegmentSize::DEFAULT,
            pages: PageCheck::FirstPage,
            disk,
        };
        let put = |disk: Arc<dyn Disk>| {
            put(&repository, &source(disk), Compression::None, scratch.path(), NonZeroUsize::MIN)
        };
        let Err(PutError::Local(error)) = put(Arc::new(UnreadableDisk)) else {
            panic!("not a local failure")
        };
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let report = error.report();
        assert!(report.starts_with(&format!("could not read \"{}\"", path.display())), "{report}");
        assert!(report.contains("input/output error"), "{report}");
        assert!(put(Arc::new(RealDisk)).is_ok());
    }
}
