//! Whether all objects of a backup are there.

use super::manifest::StoredBackup;
use crate::error::{Error, Result};
use crate::repository::Repository;
use std::collections::BTreeMap;

/// Checks that everything a manifest names is stored with the length that it says, by one listing. What the objects hold is
/// not looked at.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for the first object that is missing or of another length; and the
/// store's own.
pub fn check_objects(repository: &Repository, backup: &StoredBackup) -> Result<()> {
    let (store, layout, label) = (repository.store(), repository.layout(), &backup.label);
    let directory = layout.backup(label)?;
    let stored: BTreeMap<String, u64> = store
        .list(Some(&directory))?
        .objects
        .into_iter()
        .map(|(name, info)| (name, info.length_bytes))
        .collect();
    let mut expected = vec![
        (layout.backup_index(label)?, backup.index.object.stored_bytes),
        (layout.postgres_manifest(label)?, backup.postgres_manifest.stored_bytes),
    ];
    for pack in &backup.packs {
        expected.push((layout.backup_pack(label, pack.number)?, pack.stored_bytes));
    }
    for (key, length) in expected {
        let name = key.as_str().rsplit('/').next().unwrap_or_default();
        let what = |state: String| {
            Error::damaged(format!(
                "backup {label} cannot be restored: \"{}/{key}\" {state}",
                store.location()
            ))
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
