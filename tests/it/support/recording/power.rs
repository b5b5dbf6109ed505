//! A simulated file system that is certain to keep only durable changes after a power failure.
//!
//! The rules are those of POSIX, with one concession to real file systems: a rename is atomic. Content is durable up to
//! its length at the last sync, except where it was overwritten since. A name is durable once its directory was synced
//! after its creation. Changes that are not durable may survive as well, independently of each other.

use super::{Operation, Recording};
use crate::support::checker::Tree;
use crate::support::random::Random;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Unbounded};
use std::path::{Path, PathBuf};

/// Replays a record operation by operation.
#[derive(Debug)]
pub struct PowerCuts {
    operations: Vec<Operation>,
    data: Vec<u8>,
    next: usize,
    files: Vec<Content>,
    by_inode: HashMap<u64, usize>,
    durable: BTreeMap<PathBuf, Entry>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    written: Vec<u8>,
    durable_length: usize,
    /// Durable content before it was overwritten or truncated, as offset and bytes; the newest is last.
    replaced: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    File(usize),
    Directory,
    Link(PathBuf),
}

/// A change of names that is not durable yet.
#[derive(Clone, Debug)]
enum Change {
    Add(PathBuf, Entry),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, Entry),
}

impl PowerCuts {
    pub fn of(recording: &Recording) -> PowerCuts {
        PowerCuts {
            operations: recording.operations(),
            data: recording.data(),
            next: 0,
            files: Vec::new(),
            by_inode: HashMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
        }
    }

    /// Adds files that exist durably before the first operation.
    pub fn beginning_with(mut self, files: &[(PathBuf, u64, Vec<u8>)]) -> PowerCuts {
        for (path, inode, content) in files {
            let file = self.new_file(*inode);
            if let Some(file) = self.files.last_mut() {
                file.written.clone_from(content);
                file.sync();
            }
            self.durable.insert(path.clone(), file);
        }
        self
    }

    /// Replays the next operation; `None` after the last.
    pub fn step(&mut self) -> Option<Operation> {
        let operation = self.operations.get(self.next)?.clone();
        self.next += 1;
        let path = PathBuf::from(&operation.path);
        let other = PathBuf::from(&operation.other);
        match operation.name.as_str() {
            "create" => {
                let file = self.new_file(operation.inode);
                self.pending.push(Change::Add(path, file));
            }
            "create-nameless" => drop(self.new_file(operation.inode)),
            "name" => self.pending.push(Change::Add(path, Entry::File(self.by_inode[&operation.inode]))),
            "create-directory" => self.pending.push(Change::Add(path, Entry::Directory)),
            "create-link" => self.pending.push(Change::Add(path, Entry::Link(other))),
            "write" => {
                if let Some(file) = self.by_inode.get(&operation.inode) {
                    self.files[*file].written.extend_from_slice(&self.data[operation.content.clone()]);
                }
            }
            "write-over-start" => {
                if let Some(file) = self.by_inode.get(&operation.inode) {
                    let (file, bytes) = (&mut self.files[*file], &self.data[operation.content.clone()]);
                    assert_eq!(file.durable_length, 0, "what is durable is never written over");
                    file.written[..bytes.len()].copy_from_slice(bytes);
                }
            }
            "write-at" => {
                if let Some(file) = self.by_inode.get(&operation.inode) {
                    let bytes = &self.data[operation.content.clone()];
                    self.files[*file].write_at(operation.place, bytes);
                }
            }
            "set-length" => {
                if let Some(file) = self.by_inode.get(&operation.inode) {
                    self.files[*file].set_length(operation.place);
                }
            }
            "sync-file" => {
                if let Some(file) = self.by_inode.get(&operation.inode) {
                    self.files[*file].sync();
                }
            }
            "sync-directory" => self.sync_directory(&path),
            "sync-file-system" => {
                self.files.iter_mut().for_each(Content::sync);
                for change in std::mem::take(&mut self.pending) {
                    apply(&mut self.durable, change);
                }
            }
            "rename-new" | "rename-over" => {
                if let Some(entry) = self.now().remove(&path) {
                    self.pending.push(Change::Rename(path, other, entry));
                }
            }
            "remove-file" | "remove-directory" => self.pending.push(Change::Remove(path)),
            _ => {}
        }
        Some(operation)
    }

    /// The state after a power failure: any part of the changes that are not durable may survive.
    pub fn cut(&self, random: &mut Random, root: &Path) -> Tree {
        let kept = *random.choose(&[0, 30, 70, 100]);
        let mut names = self.durable.clone();
        for change in &self.pending {
            if random.percent(kept) {
                apply(&mut names, change.clone());
            }
        }
        self.tree(&names, root, |content| {
            let lost = content.written.len() - content.durable_length;
            let length =
                content.durable_length + if random.percent(kept) { random.below(lost + 1) } else { 0 };
            let mut left = content.written[..length].to_vec();
            if random.percent(30) {
                // The length survives, the written data does not.
                left[content.durable_length..].fill(0);
            }
            for (offset, old) in content.replaced.iter().rev() {
                if !random.percent(kept) {
                    left.resize(left.len().max(offset + old.len()), 0);
                    left[*offset..offset + old.len()].copy_from_slice(old);
                }
            }
            left
        })
    }

    /// The state without a power failure.
    pub fn uncut(&self, root: &Path) -> Tree {
        self.tree(&self.now(), root, |content| content.written.clone())
    }

    fn new_file(&mut self, inode: u64) -> Entry {
        self.files.push(Content::default());
        self.by_inode.insert(inode, self.files.len() - 1);
        Entry::File(self.files.len() - 1)
    }

    fn now(&self) -> BTreeMap<PathBuf, Entry> {
        let mut names = self.durable.clone();
        self.pending.iter().for_each(|change| apply(&mut names, change.clone()));
        names
    }

    fn sync_directory(&mut self, directory: &Path) {
        let within = |path: &Path| path.parent() == Some(directory);
        for change in std::mem::take(&mut self.pending) {
            match &change {
                Change::Add(path, _) | Change::Remove(path) if within(path) => self.make_durable(change),
                Change::Rename(from, _, _) if within(from) => self.make_durable(change),
                Change::Rename(from, to, entry) if within(to) => {
                    let old_name = Change::Remove(from.clone());
                    self.make_durable(Change::Add(to.clone(), entry.clone()));
                    // The old name is in another directory, and may reappear.
                    self.pending.push(old_name);
                }
                _ => self.pending.push(change),
            }
        }
    }

    /// Drops earlier changes in a directory whose removal is durable, or its names would reappear without it.
    fn make_durable(&mut self, change: Change) {
        for gone in change.ends().into_iter().flatten() {
            self.pending.retain(|earlier| !earlier.is_below(gone));
        }
        apply(&mut self.durable, change);
    }

    /// The files below `root` whose names and parent directories all exist.
    fn tree(
        &self,
        names: &BTreeMap<PathBuf, Entry>,
        root: &Path,
        mut content: impl FnMut(&Content) -> Vec<u8>,
    ) -> Tree {
        let made = |directory: &Path| {
            let recorded =
                |change: &Change| matches!(change, Change::Add(path, Entry::Directory) if path == directory);
            match names.get(directory) {
                Some(entry) => *entry == Entry::Directory,
                None => !self.pending.iter().any(recorded),
            }
        };
        let mut tree = Tree::default();
        for (path, entry) in names {
            let Ok(relative) = path.strip_prefix(root) else { continue };
            let reachable = path.ancestors().skip(1).take_while(|above| above.starts_with(root)).all(made);
            if let (Entry::File(file), true) = (entry, reachable) {
                tree.insert(relative.to_str().unwrap(), content(&self.files[*file]));
            }
        }
        tree
    }
}

impl Content {
    fn write_at(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.keep(offset, end);
        self.written.resize(self.written.len().max(end), 0);
        self.written[offset..end].copy_from_slice(bytes);
    }

    fn set_length(&mut self, length: usize) {
        self.keep(length, self.written.len());
        self.written.resize(length, 0);
        self.durable_length = self.durable_length.min(length);
    }

    /// Remembers durable content, which may reappear after a power failure.
    fn keep(&mut self, start: usize, end: usize) {
        let end = end.min(self.durable_length);
        if start < end {
            self.replaced.push((start, self.written[start..end].to_vec()));
        }
    }

    fn sync(&mut self) {
        self.durable_length = self.written.len();
        self.replaced.clear();
    }
}

impl Change {
    /// The names that cease to be directories, so that everything below them becomes unreachable.
    fn ends(&self) -> [Option<&Path>; 2] {
        match self {
            Change::Add(_, Entry::Directory) => [None, None],
            Change::Add(path, _) | Change::Remove(path) => [Some(path), None],
            Change::Rename(from, to, _) => [Some(from), Some(to)],
        }
    }

    fn is_below(&self, directory: &Path) -> bool {
        let below = |path: &Path| path != directory && path.starts_with(directory);
        match self {
            Change::Add(path, _) | Change::Remove(path) => below(path),
            Change::Rename(from, to, _) => below(from) && below(to),
        }
    }
}

/// Applies a change. When a directory ends, all names in it end too, including those whose own removal was lost.
fn apply(names: &mut BTreeMap<PathBuf, Entry>, change: Change) {
    for gone in change.ends().into_iter().flatten() {
        let within = names.range::<Path, _>((Excluded(gone), Unbounded)).map(|(path, _)| path);
        let within: Vec<PathBuf> = within.take_while(|path| path.starts_with(gone)).cloned().collect();
        within.iter().for_each(|path| drop(names.remove(path)));
    }
    match change {
        Change::Add(path, entry) => drop(names.insert(path, entry)),
        Change::Remove(path) => drop(names.remove(&path)),
        Change::Rename(from, to, entry) => {
            names.remove(&from);
            names.insert(to, entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    /// Replays lines of `operation inode path [other]`; all written data is `x`. Some operations have an offset in
    /// place of a path.
    fn play(lines: &[&str]) -> PowerCuts {
        let mut log = String::new();
        for line in lines {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap_or_default();
            let (name, inode, path, other) = (word(), word(), word(), word());
            let length = usize::from(name.starts_with("write"));
            let place: usize = path.parse().unwrap_or_default();
            writeln!(log, "1\t{name}\t{inode}\t0\t{length}\t{path}\t{other}\t{place}").unwrap();
        }
        let operations = log.lines().map(super::super::operation).collect();
        let mut cuts = PowerCuts {
            operations,
            data: b"x".to_vec(),
            next: 0,
            files: Vec::new(),
            by_inode: HashMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
        };
        while cuts.step().is_some() {}
        cuts
    }

    /// The states after many simulated power failures: paths, each with its length.
    fn outcomes(lines: &[&str]) -> std::collections::BTreeSet<String> {
        let (cuts, mut random) = (play(lines), Random::seeded("power cuts"));
        let left = |tree: Tree| {
            tree.files()
                .map(|(path, content)| format!("{path}:{}", content.len()))
                .collect::<Vec<_>>()
                .join(" ")
        };
        (0..500).map(|_| left(cuts.cut(&mut random, Path::new("/r")))).collect()
    }

    #[test]
    fn what_is_synced_is_there_and_the_rest_may_be() {
        let written = ["create 5 /r/a", "write 5", "sync-file 5 /r/a"];
        assert_eq!(outcomes(&written), ["", "a:1"].map(str::to_owned).into());
        let named = [&written[..], &["sync-directory 0 /r"]].concat();
        assert_eq!(outcomes(&named), ["a:1"].map(str::to_owned).into());
        let unsynced = ["create 5 /r/a", "write 5", "sync-directory 0 /r"];
        assert_eq!(outcomes(&unsynced), ["a:0", "a:1"].map(str::to_owned).into());
        assert_eq!(
            outcomes(&["create 5 /r/a", "write 5", "sync-file-system 0"]),
            ["a:1"].map(str::to_owned).into()
        );
    }

    #[test]
    fn a_rename_is_all_or_nothing_until_its_directory_is_synced() {
        let renamed = [
            "create-directory 0 /r/t",
            "sync-directory 0 /r",
            "create 5 /r/t/a",
            "write 5",
            "sync-file 5 /r/t/a",
            "sync-directory 0 /r/t",
            "rename-new 0 /r/t/a /r/b",
        ];
        assert_eq!(outcomes(&renamed), ["b:1", "t/a:1"].map(str::to_owned).into());
        let synced = [&renamed[..], &["sync-directory 0 /r"]].concat();
        assert_eq!(outcomes(&synced), ["b:1", "b:1 t/a:1"].map(str::to_owned).into());
    }

    #[test]
    fn what_was_durable_and_is_written_over_may_be_seen_again_until_the_next_sync() {
        let bytes = |lines: &[&str]| {
            let (cuts, mut random) = (play(lines), Random::seeded("power cuts"));
            let cut = |_| cuts.cut(&mut random, Path::new("/r")).get("a").map(|content| content.to_vec());
            (0..500).map(cut).collect::<std::collections::BTreeSet<_>>()
        };
        let zeros = ["create 5 /r/a", "set-length 5 2", "sync-file 5 /r/a", "sync-directory 0 /r"];
        let over = [&zeros[..], &["write-at 5 1"]].concat();
        assert_eq!(bytes(&over), [Some(vec![0, 0]), Some(vec![0, b'x'])].into());
        assert_eq!(bytes(&[&over[..], &["sync-file 5 /r/a"]].concat()), [Some(vec![0, b'x'])].into());
        let cut_off = [&zeros[..], &["set-length 5 1"]].concat();
        assert_eq!(bytes(&cut_off), [Some(vec![0, 0]), Some(vec![0])].into());
        assert_eq!(bytes(&[&cut_off[..], &["sync-file-system 0"]].concat()), [Some(vec![0])].into());
    }

    #[test]
    fn a_name_is_never_a_file_and_a_directory() {
        let directory = [
            "create-directory 0 /r/d",
            "create 5 /r/d/a",
            "sync-file 5 /r/d/a",
            "sync-directory 0 /r",
            "sync-directory 0 /r/d",
        ];
        let removed = ["remove-file 0 /r/d/a", "remove-directory 0 /r/d"];
        let replaced = [&directory[..], &removed, &["create 6 /r/d"]].concat();
        assert_eq!(outcomes(&replaced), ["", "d:0", "d/a:0"].map(str::to_owned).into());
        // The directory's own removal of the name is never synced: the directory is gone as a whole.
        let durable = [&replaced[..], &["sync-directory 0 /r"]].concat();
        assert_eq!(outcomes(&durable), ["d:0"].map(str::to_owned).into());
        // A name that was never durable does not reappear either, in a removed directory.
        let brief = ["create-directory 0 /r/d", "sync-directory 0 /r", "create 5 /r/d/a"];
        let gone = [&brief[..], &removed, &["sync-directory 0 /r"]].concat();
        assert_eq!(outcomes(&gone), [String::new()].into());

        let file = ["create 5 /r/d", "sync-directory 0 /r"];
        let replaced = ["remove-file 0 /r/d", "create-directory 0 /r/d", "create 6 /r/d/a"];
        let replaced = [&file[..], &replaced].concat();
        assert_eq!(outcomes(&replaced), ["", "d:0", "d/a:0"].map(str::to_owned).into());
        let renamed = [&directory[..], &["create 6 /r/t"], &removed, &["rename-new 0 /r/t /r/d"]].concat();
        let either = |left: &String| !(left.contains("d:0") && left.contains("d/a:0"));
        assert!(outcomes(&renamed).iter().all(either), "{:?}", outcomes(&renamed));
    }

    #[test]
    fn what_lies_in_a_directory_that_is_lost_is_lost() {
        let lines =
            ["create-directory 0 /r/d", "create 5 /r/d/a", "sync-file 5 /r/d/a", "sync-directory 0 /r/d"];
        assert_eq!(outcomes(&lines), ["", "d/a:0"].map(str::to_owned).into());
    }
}
