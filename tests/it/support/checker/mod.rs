//! Checks a repository against `docs/repository-format.md` and against the acknowledged files, without any code of
//! pgark.
//!
//! Decompresses with `lz4` and `zstd`, and parses with a few lines of its own. Takes a [`Tree`] that was read from a
//! directory or a bucket, or simulated as the state after a power failure.

mod backup;
mod objects;
mod tree;
mod wal;

pub use tree::Tree;

use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// The files and backups that pgark has acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    /// WAL files: name, and SHA-256 of the content.
    pub files: BTreeMap<String, [u8; 32]>,
    /// Labels of base backups.
    pub backups: BTreeSet<String>,
}

impl Acknowledged {
    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.files.insert(name.to_owned(), sha256(content));
    }

    pub fn with_file(name: &str, content: &[u8]) -> Acknowledged {
        let mut acknowledged = Acknowledged::default();
        acknowledged.file(name, content);
        acknowledged
    }
}

pub fn sha256(content: &[u8]) -> [u8; 32] {
    Sha256::digest(content).into()
}

/// All problems of a repository, one per line; empty if it is intact.
pub fn complaints(tree: &Tree, acknowledged: &Acknowledged) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut stored = BTreeMap::new();
    for place in tree.places() {
        let place_tree = tree.below(&place);
        if place_tree.is_empty() {
            continue;
        }
        complaints.extend(objects::check_format(&place_tree, &place));
        let (files, wrong) = wal::check(&place_tree, &place);
        complaints.extend(wrong);
        complaints.extend(backup::check(&place_tree, &files));
        stored.extend(files);
    }
    for (name, digest) in &acknowledged.files {
        let further = format!("{name}.");
        let is_further = |(stored, found): (&String, _)| stored.starts_with(&further) && found == digest;
        match stored.get(name) {
            Some(_) if name.ends_with(".partial") && stored.iter().any(is_further) => {}
            None => complaints.push(format!("{name} was acknowledged and is not stored")),
            Some(found) if found != digest => {
                complaints.push(format!("{name} was acknowledged with other bytes than are stored"));
            }
            Some(_) => {}
        }
    }
    for label in &acknowledged.backups {
        let manifest = format!("/backup/{label}/manifest.json");
        if !tree.paths().any(|path| path.ends_with(&manifest)) {
            complaints.push(format!("backup {label} was acknowledged and does not exist"));
        }
    }
    complaints
}

/// Asserts that a repository is intact.
#[track_caller]
pub fn expect_sound(tree: &Tree, acknowledged: &Acknowledged, when: &str) {
    let complaints = complaints(tree, acknowledged);
    assert!(complaints.is_empty(), "{when}:\n{}", complaints.join("\n"));
}
