//! A store in a directory of a local or mounted file system.
//!
//! An object is written under a temporary name, synced, read back and compared. A rename that does not overwrite gives
//! it its name; then the directory is synced. A visible object is therefore always complete.

mod reader;
mod temporary;
mod writer;

use super::{
    Capabilities, Listing, NewObject, ObjectInfo, ObjectKey, ObjectReader, ObjectVisitor, ObjectWriter,
    Observation, PutOutcome, ReadRange, Store, StoreService,
};
use crate::durable::{self, Disk};
use crate::error::{Context, Error, ErrorKind, Result};
use jiff::Timestamp;
use reader::FileReader;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use writer::FileWriter;

/// Permissions of new directories and files. A repository holds all data of a cluster, so others have no access.
const DIRECTORY_MODE: u32 = 0o750;
const FILE_MODE: u32 = 0o640;

/// Limit for the directories remembered as durable. Each is then synced once, not for every object.
const KNOWN_DIRECTORIES_MAX: usize = 1024;

/// A store in a directory, which must exist. pgark never creates it: the empty mount point of a file system that is not
/// mounted would pass for a repository.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    inner: Arc<DirectoryInner>,
}

#[derive(Debug)]
struct DirectoryInner {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    /// Directories below the root whose names this process has made durable.
    known: Mutex<HashSet<PathBuf>>,
}

impl DirectoryStore {
    /// The store in `root`. Accesses nothing.
    pub fn new(root: PathBuf, disk: Arc<dyn Disk>) -> DirectoryStore {
        DirectoryStore { inner: Arc::new(DirectoryInner { root, disk, known: Mutex::default() }) }
    }
}

impl DirectoryStore {
    /// Visits the objects below `path`, which is empty or ends in a slash, below `root`.
    fn walk_directory(
        &self,
        root: &ObjectKey,
        path: &str,
        from: &str,
        visit: ObjectVisitor<'_>,
    ) -> Result<ControlFlow<()>> {
        let directory = match path.strip_suffix('/') {
            Some(path) => root.join(path)?,
            None => root.clone(),
        };
        let listing = self.list(Some(&directory))?;
        // In the order of keys, where a slash follows the name of a directory.
        let directories = listing.directories.into_iter().map(|name| (format!("{path}{name}/"), None));
        let objects = listing.objects.into_iter().map(|(name, info)| (format!("{path}{name}"), Some(info)));
        let mut entries: Vec<(String, Option<ObjectInfo>)> = directories.chain(objects).collect();
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (name, info) in entries {
            let flow = match info {
                Some(info) if name.as_str() >= from => visit(&name, info),
                None if name.as_str() >= from || from.starts_with(&name) => {
                    self.walk_directory(root, &name, from, visit)?
                }
                _ => ControlFlow::Continue(()),
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl DirectoryInner {
    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Checks that the root exists. Only then does "no such file" prove that an object is absent.
    fn check_root(&self) -> Result<()> {
        match fs::metadata(&self.root) {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            Ok(_) => Err(Error::unavailable(format!("the repository \"{}\" is not a directory", self.root.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::unavailable(format!("the repository \"{}\" does not exist", self.root.display())).hint(format!(
                    "Check that its file system is mounted. To create a new repository, run: install -d -o OWNER -m 0750 \"{}\"",
                    self.root.display()
                )))
            }
            Err(error) => Err(Error::io(format!("could not inspect the repository \"{}\"", self.root.display()), error)),
        }
    }

    /// Creates the directories above an object and makes their names durable, once per process.
    fn prepare_parent(&self, key: &ObjectKey) -> Result<()> {
        let Some((parent, _)) = key.as_str().rsplit_once('/') else { return self.check_root() };
        let parent = Path::new(parent);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(parent) {
            return Ok(());
        }
        self.check_root()?;
        durable::create_directories(self.disk.as_ref(), &self.root, parent, DIRECTORY_MODE)
            .map_err(|error| self.below_a_file(&self.path(key)).unwrap_or(error))?;
        if known.len() >= KNOWN_DIRECTORIES_MAX {
            known.clear();
        }
        known.insert(parent.to_owned());
        Ok(())
    }

    fn forget_directories(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Gives a synced temporary file its name, durably.
    fn publish(&self, temporary: &Path, key: &ObjectKey) -> Result<PutOutcome> {
        let path = self.path(key);
        let what = || format!("could not store \"{}\"", path.display());
        self.prepare_parent(key)?;
        let mut renamed = self.disk.rename_new(temporary, &path);
        if renamed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            // Another process has removed a known directory. Expiry does so after it has removed the last object in it.
            self.forget_directories();
            self.prepare_parent(key)?;
            renamed = self.disk.rename_new(temporary, &path);
        }
        match renamed {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(PutOutcome::Exists),
            other => other.context(what)?,
        }
        self.disk.sync_directory(durable::parent_directory(&path)).context(what)?;
        Ok(PutOutcome::Created)
    }

    /// The error of an operation on `path` or below. A path through something other than a directory is damage, because
    /// waiting does not help.
    fn failed(&self, what: String, path: &Path, error: io::Error) -> Error {
        if matches!(error.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::InvalidData) {
            return Error::damaged(format!("\"{}\" is not a file", path.display()));
        }
        let below_a_file = (error.kind() == io::ErrorKind::NotADirectory).then(|| self.below_a_file(path));
        match below_a_file.flatten() {
            Some(damage) => damage.context(what),
            None => Error::io(what, error),
        }
    }

    /// The error for a path that leads through something other than a directory.
    fn below_a_file(&self, path: &Path) -> Option<Error> {
        let below_root = |above: &&Path| above.starts_with(&self.root) && *above != self.root;
        let file = path.ancestors().take_while(below_root).find(|above| above.exists() && !above.is_dir())?;
        Some(Error::damaged(format!("\"{}\" is not a directory", file.display())).hint(
            "Another program has written into the repository. Move that file away. The contents of the directory may be lost.",
        ))
    }

    /// Whether an error proves that an object does not exist. The root must exist for that.
    fn is_absent(&self, error: &io::Error) -> Result<bool> {
        match error.kind() {
            io::ErrorKind::NotFound => self.check_root().map(|()| true),
            _ => Ok(false),
        }
    }
}

impl StoreService for DirectoryStore {
    fn location(&self) -> String {
        self.inner.root.display().to_string()
    }

    /// By the clock of this host.
    fn now(&self) -> Result<Timestamp> {
        Ok(Timestamp::now())
    }

    /// No call is retried.
    fn trouble(&self) -> Option<Error> {
        None
    }

    fn examine(&self) -> Result<Vec<Observation>> {
        Ok(Vec::new())
    }

    fn sweep(&self) -> Result<u64> {
        self.inner.check_root()?;
        temporary::sweep(self.inner.disk.as_ref(), &self.inner.root)
    }
}

impl Store for DirectoryStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities { header_last: true, keeps_digest: false, can_be_unmounted: true }
    }

    fn create(&self, key: &ObjectKey, object: NewObject) -> Result<Box<dyn ObjectWriter>> {
        self.inner.check_root()?;
        let mut writer = FileWriter::begin(self.inner.clone(), key.clone())?;
        writer.reserve_header(object.header_bytes)?;
        Ok(Box::new(writer))
    }

    fn replace(&self, key: &ObjectKey, content: &[u8]) -> Result<()> {
        self.inner.check_root()?;
        let mut writer = FileWriter::begin(self.inner.clone(), key.clone())?;
        writer.write(content)?;
        writer.finish_overwriting()
    }

    /// The kernel reads ahead by itself.
    fn open(&self, key: &ObjectKey, range: ReadRange) -> Result<Option<Box<dyn ObjectReader>>> {
        let path = self.inner.path(key);
        let disk = &self.inner.disk;
        match disk.open(&path) {
            Ok(file) => Ok(Some(Box::new(FileReader::new(disk.clone(), file, path, range.from)))),
            Err(error) if self.inner.is_absent(&error)? => Ok(None),
            Err(error) => {
                Err(self.inner.failed(format!("could not open \"{}\"", path.display()), &path, error))
            }
        }
    }

    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        let path = self.inner.path(key);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(ObjectInfo { length_bytes: metadata.len() })),
            Ok(_) => Err(Error::damaged(format!("\"{}\" is not a file", path.display()))),
            Err(error) if self.inner.is_absent(&error)? => Ok(None),
            Err(error) => {
                Err(self.inner.failed(format!("could not inspect \"{}\"", path.display()), &path, error))
            }
        }
    }

    fn list(&self, below: Option<&ObjectKey>) -> Result<Listing> {
        let path = below.map_or_else(|| self.inner.root.clone(), |key| self.inner.path(key));
        let what = || format!("could not list \"{}\"", path.display());
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if self.inner.is_absent(&error)? => return Ok(Listing::default()),
            Err(error) => return Err(self.inner.failed(what(), &path, error)),
        };
        let mut listing = Listing::default();
        for entry in entries {
            let entry = entry.context(what)?;
            // Other names cannot be keys: they belong to other programs, or are temporary ones of pgark.
            let Some(name) =
                entry.file_name().to_str().filter(|name| ObjectKey::new(*name).is_ok()).map(str::to_owned)
            else {
                continue;
            };
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => listing.directories.push(name),
                Ok(metadata) => listing.objects.push((name, ObjectInfo { length_bytes: metadata.len() })),
                // Removed during the listing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(what(), error)),
            }
        }
        listing.directories.sort_unstable();
        listing.objects.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(listing)
    }

    fn walk(&self, below: &ObjectKey, from: Option<&ObjectKey>, visit: ObjectVisitor<'_>) -> Result<()> {
        let from = from.and_then(|key| key.as_str().strip_prefix(&format!("{below}/"))).unwrap_or_default();
        self.walk_directory(below, "", from, visit).map(drop)
    }

    fn make_durable(&self, key: &ObjectKey) -> Result<()> {
        let path = self.inner.path(key);
        let what = || format!("could not make \"{}\" durable", path.display());
        let file = match self.inner.disk.open(&path) {
            Err(error) if self.inner.is_absent(&error)? => {
                return Err(Error::new(ErrorKind::Absent, format!("\"{}\" was removed", path.display())));
            }
            other => other.map_err(|error| self.inner.failed(what(), &path, error))?,
        };
        self.inner.disk.sync_file(&file, &path).context(what)?;
        self.inner.prepare_parent(key)?;
        self.inner.disk.sync_directory(durable::parent_directory(&path)).context(what)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        let path = self.inner.path(key);
        let what = || format!("could not remove \"{}\"", path.display());
        match self.inner.disk.remove_file(&path) {
            Err(error) if self.inner.is_absent(&error)? => return Ok(()),
            other => other.context(what)?,
        }
        self.inner.disk.sync_directory(durable::parent_directory(&path)).context(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::RealDisk;
    use crate::store::StoreExt;

    fn store() -> (tempfile::TempDir, DirectoryStore) {
        let scratch = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(scratch.path().to_owned(), Arc::new(RealDisk));
        (scratch, store)
    }

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    #[test]
    fn an_object_is_written_once() {
        let (_scratch, store) = store();
        assert_eq!(store.put_new(&key("a/b/c"), &[b"one", b" two"]).unwrap(), PutOutcome::Created);
        assert_eq!(store.put_new(&key("a/b/c"), &[b"three"]).unwrap(), PutOutcome::Exists);
        assert_eq!(store.read_small(&key("a/b/c"), 100).unwrap().unwrap(), b"one two");
        assert_eq!(store.stat(&key("a/b/c")).unwrap(), Some(ObjectInfo { length_bytes: 7 }));
        assert!(store.read_small(&key("a/b/c"), 3).is_err());
    }

    #[test]
    fn a_header_that_is_known_last_comes_first() {
        let (_scratch, store) = store();
        let object = NewObject { header_bytes: 4, digest: None };
        let mut writer = store.create(&key("a"), object).unwrap();
        writer.write(b"body").unwrap();
        writer.write_header(b"head").unwrap();
        assert_eq!(writer.finish().unwrap(), PutOutcome::Created);
        assert_eq!(store.read_small(&key("a"), 100).unwrap().unwrap(), b"headbody");
        let mut writer = store.create(&key("b"), object).unwrap();
        assert!(writer.write_header(b"longer").is_err());
        assert!(writer.finish().is_err(), "its header is missing");
        assert_eq!(store.stat(&key("b")).unwrap(), None);
    }

    #[test]
    fn of_many_writers_one_wins() {
        let (_scratch, store) = store();
        let created = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..8)
                .map(|number| {
                    let store = store.clone();
                    scope.spawn(move || {
                        store.put_new(&key("race"), &[format!("{number}").as_bytes()]).unwrap()
                    })
                })
                .collect();
            writers
                .into_iter()
                .map(|writer| writer.join().unwrap())
                .filter(|o| *o == PutOutcome::Created)
                .count()
        });
        assert_eq!(created, 1);
        assert_eq!(store.read_small(&key("race"), 10).unwrap().unwrap().len(), 1);
    }

    #[test]
    fn an_unfinished_object_is_invisible_and_a_dropped_one_leaves_nothing() {
        let (scratch, store) = store();
        let mut writer = store.create(&key("a/b"), NewObject::default()).unwrap();
        writer.write(b"half").unwrap();
        assert_eq!(store.stat(&key("a/b")).unwrap(), None);
        assert_eq!(store.list(None).unwrap(), Listing::default());
        drop(writer);
        let temporary = scratch.path().join(temporary::DIRECTORY);
        assert_eq!(fs::read_dir(temporary).unwrap().count(), 0);
    }

    #[test]
    fn a_sweep_removes_only_files_of_dead_writers() {
        let (scratch, store) = store();
        let mut writer = store.create(&key("alive"), NewObject::default()).unwrap();
        writer.write(b"alive").unwrap();
        let temporary = scratch.path().join(temporary::DIRECTORY);
        for number in 1..4 {
            fs::write(temporary.join(format!("host.1.{number}")), b"dead").unwrap();
        }
        // An entry that cannot be removed does not stop the sweep.
        fs::create_dir(temporary.join("host.1.0")).unwrap();
        assert_eq!(store.sweep().unwrap(), 3);
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 2);
        assert_eq!(writer.finish().unwrap(), PutOutcome::Created);
    }

    #[test]
    fn absent_differs_from_unavailable() {
        let (scratch, store) = store();
        assert!(store.open(&key("a"), ReadRange::WHOLE).unwrap().is_none());
        assert_eq!(store.list(Some(&key("a"))).unwrap(), Listing::default());
        let missing = DirectoryStore::new(scratch.path().join("gone"), Arc::new(RealDisk));
        for error in [
            missing.open(&key("a"), ReadRange::WHOLE).err().unwrap(),
            missing.stat(&key("a")).unwrap_err(),
            missing.list(None).unwrap_err(),
            missing.put_new(&key("a"), &[b"x"]).unwrap_err(),
            missing.replace(&key("a"), b"x").unwrap_err(),
            missing.sweep().unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.hint_text().unwrap().contains("mounted"));
        }
    }

    #[test]
    fn lists_one_level_sorted() {
        let (scratch, store) = store();
        for name in ["b/1", "b/2", "a/x/y", "c"] {
            store.put_new(&key(name), &[name.as_bytes()]).unwrap();
        }
        fs::write(scratch.path().join(".hidden"), b"").unwrap();
        let listing = store.list(None).unwrap();
        assert_eq!(listing.directories, ["a", "b"]);
        assert_eq!(listing.objects, [("c".to_owned(), ObjectInfo { length_bytes: 1 })]);
    }

    #[test]
    fn walks_in_the_order_of_keys() {
        let (_scratch, store) = store();
        let names = ["r/a-1", "r/a.b", "r/a/1", "r/a/2/x", "r/a/3", "r/b/1", "r/c"];
        for name in names.iter().rev() {
            store.put_new(&key(name), &[name.as_bytes()]).unwrap();
        }
        let walked = |from: Option<&str>, count: usize| {
            let mut found = Vec::new();
            store
                .walk(&key("r"), from.map(key).as_ref(), &mut |name, info| {
                    assert_eq!(info.length_bytes, name.len() as u64 + 2);
                    found.push(format!("r/{name}"));
                    if found.len() == count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
                .unwrap();
            found
        };
        assert_eq!(walked(None, 100), names);
        assert_eq!(walked(Some("r/a/2/x"), 2), ["r/a/2/x", "r/a/3"]);
        assert_eq!(walked(Some("r/a/2/y"), 100), ["r/a/3", "r/b/1", "r/c"]);
        assert_eq!(walked(Some("r/z"), 100), [""; 0]);
    }

    #[test]
    fn removed_directories_are_created_again() {
        let (scratch, store) = store();
        store.put_new(&key("a/b"), &[b"1"]).unwrap();
        fs::remove_dir_all(scratch.path().join("a")).unwrap();
        assert_eq!(store.put_new(&key("a/c"), &[b"2"]).unwrap(), PutOutcome::Created);
        store.make_durable(&key("a/c")).unwrap();
        assert_eq!(store.make_durable(&key("a/b")).unwrap_err().kind(), ErrorKind::Absent);
        store.delete(&key("a/c")).unwrap();
        store.delete(&key("a/c")).unwrap();
    }
}
