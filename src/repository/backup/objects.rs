//! The objects that the manifest of a backup names.

use super::index::IndexReader;
use super::manifest::StoredBackup;
use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::store::{ObjectKey, StoreExt};
use std::collections::BTreeMap;

/// All objects of a backup that its manifest names, with their recorded lengths in bytes.
///
/// # Errors
/// Those of [`Layout`](crate::repository::Layout).
pub fn objects_of(repository: &Repository, backup: &StoredBackup) -> Result<Vec<(ObjectKey, u64)>> {
    let (layout, label) = (repository.layout(), &backup.label);
    let lists = [
        Ok((layout.backup_index(label)?, backup.index.object.stored_bytes)),
        Ok((layout.postgres_manifest(label)?, backup.postgres_manifest.stored_bytes)),
    ];
    let packs =
        backup.packs.iter().map(|pack| Ok((layout.backup_pack(label, pack.number)?, pack.stored_bytes)));
    lists.into_iter().chain(packs).collect()
}

/// Checks by one listing that all objects of a backup exist and have the recorded lengths. Does not read them.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for the first object that is missing or has another length;
/// those of the store.
pub fn check_objects(repository: &Repository, backup: &StoredBackup) -> Result<()> {
    let (store, label) = (repository.store(), &backup.label);
    let directory = repository.layout().backup(label)?;
    let stored: BTreeMap<String, u64> = store
        .list(Some(&directory))?
        .objects
        .into_iter()
        .map(|(name, info)| (name, info.length_bytes))
        .collect();
    for (key, length) in objects_of(repository, backup)? {
        let name = key.as_str().rsplit('/').next().unwrap_or_default();
        let what = |state: String| {
            Error::damaged(format!("backup {label} cannot be restored: \"{}\" {state}", store.locate(&key)))
                .hint("Choose another backup with --backup; pgark info lists them.")
        };
        match stored.get(name) {
            Some(found) if *found == length => {}
            Some(found) => return Err(what(format!("has {found} bytes instead of {length}"))),
            None => return Err(what("is missing".to_owned())),
        }
    }
    Ok(())
}

/// Opens the index of a backup.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if it is missing; those of [`IndexReader::open`].
pub fn open_index(repository: &Repository, backup: &StoredBackup) -> Result<IndexReader> {
    let key = repository.layout().backup_index(&backup.label)?;
    IndexReader::open(repository.store().as_ref(), &key, backup.index)?
        .ok_or_else(|| missing(repository, &key))
}

/// The error for an object that the manifest names and the store does not hold.
pub(super) fn missing(repository: &Repository, key: &ObjectKey) -> Error {
    Error::damaged(format!("\"{}\" is missing", repository.store().locate(key)))
}
