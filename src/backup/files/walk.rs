//! Walks the data directory and its tablespaces as they are when the copy begins. WAL replay creates anything that
//! appears later.

use super::exclusions::{self, Decision};
use super::list::{DIRECTORY_MODE, FileList, join, tablespace_oid};
use crate::data_directory::DataDirectory;
use crate::durable::{Disk, Symlinks};
use crate::error::{Context, Error, Result};
use crate::interruption::Interruption;
use crate::monitor::{CommandWarning, Monitor};
use crate::postgres::{ForkName, ServerVersion};
use std::collections::HashSet;
use std::fs::{Metadata, ReadDir};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Permission bits of a mode.
const PERMISSIONS: u32 = 0o7777;

impl FileList {
    /// Walks a data directory.
    ///
    /// # Errors
    /// Those of the operating system, except for vanished files; those of [`Interruption::check`].
    pub fn scan(
        data_directory: &DataDirectory,
        version: ServerVersion,
        monitor: &dyn Monitor,
        interruption: &Interruption<'_>,
    ) -> Result<FileList> {
        let base = data_directory.path();
        let mut walk = Walk {
            disk: data_directory.disk(),
            list: FileList::empty(base.to_owned()),
            version,
            monitor,
            interruption,
            pending: Vec::new(),
            linked: HashSet::new(),
        };
        walk.run(base)?;
        Ok(walk.list)
    }
}

/// State of the walk.
struct Walk<'a> {
    disk: &'a dyn Disk,
    list: FileList,
    version: ServerVersion,
    monitor: &'a dyn Monitor,
    interruption: &'a Interruption<'a>,
    /// Indexes of the directories that are listed but not yet read.
    pending: Vec<usize>,
    /// Device and inode of the tablespaces' link targets, because a tablespace may lie inside the data directory.
    linked: HashSet<(u64, u64)>,
}

impl Walk<'_> {
    fn run(&mut self, base: &Path) -> Result<()> {
        let what = || format!("could not inspect \"{}\"", base.display());
        let metadata = self.disk.data_metadata(base, Symlinks::Follow).context(what)?;
        self.find_linked(base)?;
        self.add_directory(Vec::new(), 0, &metadata, Walked::Yes);
        while let Some(index) = self.pending.pop() {
            self.interruption.check()?;
            self.read_directory(index)?;
        }
        Ok(())
    }

    fn find_linked(&mut self, base: &Path) -> Result<()> {
        let Some(entries) = open_directory(self.disk, &base.join("pg_tblspc"))? else { return Ok(()) };
        for entry in entries {
            let path = entry.context(|| "could not read \"pg_tblspc\"")?.path();
            if path.is_symlink()
                && let Ok(metadata) = self.disk.data_metadata(&path, Symlinks::Follow)
            {
                self.linked.insert((metadata.dev(), metadata.ino()));
            }
        }
        Ok(())
    }

    fn read_directory(&mut self, index: usize) -> Result<()> {
        let Some(directory) = self.list.directories.get(index) else { return Ok(()) };
        let (path, root) = (directory.path.clone(), directory.root);
        let location = self.list.location_of(&path);
        let unlogged = if exclusions::is_database(&path, self.version) {
            unlogged_relations(self.disk, &location)?
        } else {
            HashSet::new()
        };
        let Some(entries) = open_directory(self.disk, &location)? else { return Ok(()) };
        for entry in entries {
            let name = entry
                .context(|| format!("could not read \"{}\"", location.display()))?
                .file_name()
                .into_vec();
            let left_out = exclusions::relation_file(&name)
                .is_some_and(|file| file.fork != ForkName::Init && unlogged.contains(file.number));
            if !left_out {
                self.take(index, &path, root, &name)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, directory: usize, parent: &[u8], root: usize, name: &[u8]) -> Result<()> {
        let decision = exclusions::decide(parent, name, self.version);
        if matches!(decision, Decision::Skip | Decision::CopyLast) {
            return Ok(());
        }
        let path = join(parent, name);
        let location = self.list.location_of(&path);
        let metadata = match self.disk.data_metadata(&location, Symlinks::NoFollow) {
            Ok(metadata) => metadata,
            // Removed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(Error::io(format!("could not inspect \"{}\"", location.display()), error));
            }
        };
        if decision == Decision::KeepEmpty {
            self.keep_empty(path, root, &metadata);
            return Ok(());
        }
        if metadata.is_dir() {
            let is_linked = self.linked.contains(&(metadata.dev(), metadata.ino()));
            self.note_in_place(&path);
            self.add_directory(path, root, &metadata, if is_linked { Walked::No } else { Walked::Yes });
            Ok(())
        } else if metadata.is_symlink() && exclusions::is_tablespace(&path) {
            self.follow_tablespace(&path, &location)
        } else if metadata.is_file() {
            self.add_file(directory, name, &metadata)
        } else {
            let kind = kind_of(&metadata);
            if exclusions::is_data(&path) {
                return Err(not_a_file(kind, &location.display().to_string()));
            }
            self.monitor.warn(CommandWarning::NotPartOfBackup { kind, path: &location });
            Ok(())
        }
    }

    fn keep_empty(&mut self, path: Vec<u8>, root: usize, metadata: &Metadata) {
        let is_wal = path == b"pg_wal";
        self.add_directory(path, root, metadata, Walked::No);
        if is_wal {
            for name in self.version.formats.facts().directories_in_pg_wal {
                self.add_directory(join(b"pg_wal", name.as_bytes()), root, metadata, Walked::No);
            }
        }
    }

    fn note_in_place(&mut self, path: &[u8]) {
        if exclusions::is_tablespace(path) {
            self.list.in_place_tablespaces.extend(tablespace_oid(path));
        }
    }

    fn follow_tablespace(&mut self, path: &[u8], location: &Path) -> Result<()> {
        let what = || format!("could not follow \"{}\"", location.display());
        let target = match self.disk.read_data_link(location) {
            // Dropped since the directory was read; WAL contains the removal.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.context(what)?,
        };
        let Some(oid) = tablespace_oid(path) else { return Ok(()) };
        let index = self.list.add_tablespace(oid, target.into_os_string().into_vec());
        let directory = join(path, self.version.tablespace_directory().as_bytes());
        match self.disk.data_metadata(&self.list.location_of(&directory), Symlinks::NoFollow) {
            Ok(metadata) if metadata.is_dir() => {
                self.add_directory(directory, index, &metadata, Walked::Yes);
                Ok(())
            }
            Ok(metadata) => {
                let shown = self.list.location_of(&directory).display().to_string();
                Err(not_a_file(kind_of(&metadata), &shown))
            }
            // The directory is being created or dropped.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io(what(), error)),
        }
    }

    fn add_directory(&mut self, path: Vec<u8>, root: usize, metadata: &Metadata, walked: Walked) {
        if walked == Walked::Yes {
            self.pending.push(self.list.directories.len());
        }
        let mode = if metadata.is_symlink() { DIRECTORY_MODE } else { metadata.mode() & PERMISSIONS };
        self.list.add_directory(path, root, mode, metadata.mtime());
    }

    fn add_file(&mut self, directory: usize, name: &[u8], metadata: &Metadata) -> Result<()> {
        self.list.add_file(directory, name, metadata.len()).map(drop)
    }
}

/// Describes an entry that is neither a directory nor a regular file.
fn kind_of(metadata: &Metadata) -> &'static str {
    if metadata.is_symlink() { "symbolic link" } else { "special file" }
}

/// The error for server data behind an entry that a base backup does not follow.
pub fn not_a_file(kind: &str, shown: &str) -> Error {
    Error::usage(format!("the {kind} \"{shown}\" replaces data of the server, which would be missing from the backup")).hint(
        "PostgreSQL's own base backup also skips it. Stop the server, and replace it with the file or directory itself. To \
         keep data on another file system, create a tablespace.",
    )
}

/// Whether the content of a directory is walked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Walked {
    Yes,
    No,
}

/// The numbers of the relations in a directory that have an init fork.
fn unlogged_relations(disk: &dyn Disk, directory: &Path) -> Result<HashSet<Vec<u8>>> {
    let mut numbers = HashSet::new();
    for entry in open_directory(disk, directory)?.into_iter().flatten() {
        let name =
            entry.context(|| format!("could not read \"{}\"", directory.display()))?.file_name().into_vec();
        if let Some(file) = exclusions::relation_file(&name).filter(|file| file.fork == ForkName::Init) {
            numbers.insert(file.number.to_vec());
        }
    }
    Ok(numbers)
}

/// Opens a directory; `None` if it no longer exists.
fn open_directory(disk: &dyn Disk, path: &Path) -> Result<Option<ReadDir>> {
    match disk.list_data(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.context(|| format!("could not read \"{}\"", path.display())).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::RecordingMonitor;
    use crate::postgres::{MajorVersion, Oid, RelFileNumber};
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    fn make(base: &Path, files: &[&str]) {
        for file in files {
            let path = base.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if !file.ends_with('/') {
                fs::write(path, file).unwrap();
            }
        }
    }

    /// A disk on which no symbolic link can be read.
    #[derive(Debug)]
    struct UnreadableLinks;

    impl Disk for UnreadableLinks {
        fn read_data_link(&self, _: &Path) -> io::Result<PathBuf> {
            Err(io::Error::from_raw_os_error(nix::libc::EIO))
        }
    }

    #[test]
    fn walks_through_data_directory_and_tablespaces() {
        let scratch = tempfile::tempdir().unwrap();
        let (base, space) = (scratch.path().join("data"), scratch.path().join("space"));
        make(
            &base,
            &[
                "PG_VERSION",
                "postmaster.pid",
                "base/5/1259",
                "base/5/16384",
                "base/5/16384_fsm",
                "base/5/16384.1",
                "base/5/16384_init",
                "base/5/163840",
                "base/5/t3_16390",
                "global/pg_control",
                "global/1262",
                "pg_replslot/slot/state",
                "pg_tblspc/16500/PG_15_202209061/5/16384",
                "inside/PG_15_202209061/5/2",
                "inside/PG_14_202107181/5/2",
            ],
        );
        make(&space, &["PG_15_202209061/5/1", "PG_14_202107181/5/1", "mine"]);
        let wal = scratch.path().join("wal");
        make(&wal, &["000000010000000000000001"]);
        symlink(&wal, base.join("pg_wal")).unwrap();
        symlink(&space, base.join("pg_tblspc/16400")).unwrap();
        symlink(base.join("inside"), base.join("pg_tblspc/16401")).unwrap();
        symlink("/etc/passwd", base.join("elsewhere")).unwrap();

        let interrupted = AtomicBool::new(false);
        let monitor = RecordingMonitor::default();
        let broken = DataDirectory::open(&base).unwrap().reading_through(Arc::new(UnreadableLinks));
        let error = FileList::scan(
            &broken,
            MajorVersion::V15.into(),
            &RecordingMonitor::default(),
            &Interruption::new(&interrupted),
        )
        .unwrap_err();
        let report = error.report();
        assert!(
            report.starts_with(&format!("could not follow \"{}/pg_tblspc/16400\"", base.display())),
            "{report}"
        );
        assert!(report.contains("input/output error"), "{report}");
        let list = FileList::scan(
            &DataDirectory::open(&base).unwrap(),
            MajorVersion::V15.into(),
            &monitor,
            &Interruption::new(&interrupted),
        )
        .unwrap();
        let mut files = list.files.clone();
        files.sort_by_key(|file| list.path_of(file));
        let paths: Vec<String> =
            files.iter().map(|file| String::from_utf8(list.path_of(file)).unwrap()).collect();
        assert_eq!(
            paths,
            [
                "PG_VERSION",
                "base/5/1259",
                "base/5/163840",
                "base/5/16384_init",
                "global/1262",
                "pg_tblspc/16400/PG_15_202209061/5/1",
                "pg_tblspc/16401/PG_15_202209061/5/2",
                "pg_tblspc/16500/PG_15_202209061/5/16384",
            ]
        );
        let mut directories: Vec<String> = list
            .directories
            .iter()
            .map(|directory| String::from_utf8(directory.path.clone()).unwrap())
            .collect();
        directories.sort();
        assert_eq!(
            directories,
            [
                "",
                "base",
                "base/5",
                "global",
                "inside",
                "pg_replslot",
                "pg_tblspc",
                "pg_tblspc/16400/PG_15_202209061",
                "pg_tblspc/16400/PG_15_202209061/5",
                "pg_tblspc/16401/PG_15_202209061",
                "pg_tblspc/16401/PG_15_202209061/5",
                "pg_tblspc/16500",
                "pg_tblspc/16500/PG_15_202209061",
                "pg_tblspc/16500/PG_15_202209061/5",
                "pg_wal",
                "pg_wal/archive_status",
            ]
        );
        assert_eq!(list.in_place_tablespaces, [Oid::new(16500)]);
        let in_space = files.iter().find(|file| list.root_of(file) != 0).unwrap();
        let root = list.root_of(in_space);
        assert_eq!(list.path_in_pack(root, &list.path_of(in_space)), b"PG_15_202209061/5/1");
        assert_eq!(list.roots[root].tablespace, Some(Oid::new(16400)));
        assert_eq!(list.roots[root].target, space.as_os_str().as_bytes());
        assert_eq!(monitor.events().len(), 1, "the link to /etc/passwd");
        let relation = list.relation(&files[1], MajorVersion::V15.into()).unwrap();
        assert_eq!(
            (relation.database, relation.number, relation.segment),
            (Some(Oid::new(5)), RelFileNumber::new(1259), 0)
        );
        let tablespaces = [1, 4, 5]
            .map(|at: usize| list.relation(&files[at], MajorVersion::V15.into()).unwrap().tablespace);
        assert_eq!(tablespaces, [Oid::PG_DEFAULT, Oid::PG_GLOBAL, Oid::new(16400)]);
        assert_eq!(list.relation(&files[0], MajorVersion::V15.into()), None);
        assert_eq!(list.relation(&files[4], MajorVersion::V15.into()).unwrap().database, None);
        let sorted: Vec<_> =
            list.sorted().iter().map(|number| list.path_of(&list.files[*number as usize])).collect();
        assert!(sorted.is_sorted() && sorted.len() == paths.len());
    }
}
