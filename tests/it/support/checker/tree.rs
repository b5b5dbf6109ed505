//! File trees in memory.

use super::super::archive::files_below;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// The content of a directory or a bucket: relative paths with content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<String, Arc<[u8]>>);

impl Tree {
    /// Reads all files below a directory.
    pub fn read(root: &Path) -> Tree {
        let read = |path: std::path::PathBuf| {
            let relative = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            // Skips a file that is removed meanwhile.
            Some((relative, std::fs::read(path).ok()?.into()))
        };
        Tree(files_below(root).into_iter().filter_map(read).collect())
    }

    pub fn insert(&mut self, path: &str, content: impl Into<Arc<[u8]>>) {
        self.0.insert(path.to_owned(), content.into());
    }

    pub fn remove(&mut self, path: &str) -> Option<Arc<[u8]>> {
        self.0.remove(path)
    }

    pub fn get(&self, path: &str) -> Option<&Arc<[u8]>> {
        self.0.get(path)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn files(&self) -> impl Iterator<Item = (&str, &Arc<[u8]>)> {
        self.0.iter().map(|(path, content)| (path.as_str(), content))
    }

    /// The subtree below a path, with relative paths.
    pub fn below(&self, path: &str) -> Tree {
        let prefix = format!("{path}/");
        let below = self.0.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        Tree(below.map(|(key, content)| (key[prefix.len()..].to_owned(), content.clone())).collect())
    }

    /// The distinct `<cluster>/<system identifier>` prefixes.
    pub fn places(&self) -> BTreeSet<String> {
        let place = |path: &str| {
            let mut parts = path.split('/');
            let (cluster, system) = (parts.next()?, parts.next()?);
            let counts = !cluster.starts_with('.') && parts.next().is_some();
            counts.then(|| format!("{cluster}/{system}"))
        };
        self.paths().filter_map(place).collect()
    }

    /// Writes the tree below a directory.
    pub fn write(&self, root: &Path) {
        for (path, content) in &self.0 {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
}
