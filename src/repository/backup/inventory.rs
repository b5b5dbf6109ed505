//! Lists the backups in the repository.

use super::label::Label;
use super::manifest::StoredBackup;
use super::running::Running;
use crate::error::{Error, ErrorKind, Result};
use crate::repository::Repository;
use jiff::Timestamp;

/// A label with objects below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedBackup {
    /// The label.
    pub label: Label,
    /// Its state.
    pub state: BackupState,
}

/// The state of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupState {
    /// A complete backup.
    Complete,
    /// A running backup.
    Running(Running),
    /// The remains of an unfinished backup.
    Abandoned,
    /// The mark cannot be read, for this reason. The backup may be running.
    Unknown(String),
}

/// A backup with an unusable manifest, and the reason: [`ErrorKind::Damaged`], or [`ErrorKind::Usage`] if a newer pgark
/// wrote it.
pub type DamagedBackup = (Label, Error);

/// All labels, sorted. Takes a listing and a lookup for each, and does not read the manifests.
///
/// # Errors
/// Those of the store.
pub fn list(repository: &Repository, now: Timestamp) -> Result<Vec<ListedBackup>> {
    let (store, layout) = (repository.store(), repository.layout());
    let mut backups = Vec::new();
    for label in labels(repository)? {
        let state = match store.stat(&layout.stored_backup(&label)?)? {
            Some(_) => Some(BackupState::Complete),
            None => match unfinished(repository, &label, now) {
                Err(error) if is_of_one(&error) => Some(BackupState::Unknown(error.to_string())),
                other => other?,
            },
        };
        backups.extend(state.map(|state| ListedBackup { label, state }));
    }
    Ok(backups)
}

/// All backups with their manifests.
#[derive(Debug, Default)]
pub struct BackupInventory {
    /// The usable backups, ordered by the times of their stop points.
    pub usable: Vec<StoredBackup>,
    /// Damaged backups and those of a newer version.
    pub damaged: Vec<DamagedBackup>,
    /// Running backups.
    pub running: Vec<Label>,
}

/// Reads all manifests. Takes a listing and a request for each backup. Reports damaged backups and those of a newer
/// version, which do not hide the others.
///
/// # Errors
/// As [`StoredBackup::read`], except for these.
pub fn survey(repository: &Repository, now: Timestamp) -> Result<BackupInventory> {
    let mut survey = BackupInventory::default();
    for label in labels(repository)? {
        let looked = match StoredBackup::read(repository, &label) {
            // A backup that was just published is found the next time.
            Ok(None) => unfinished(repository, &label, now).map(|state| {
                if let Some(BackupState::Running(_)) = state {
                    survey.running.push(label.clone());
                }
            }),
            Ok(Some(backup)) => {
                survey.usable.push(backup);
                Ok(())
            }
            Err(error) => Err(error),
        };
        match looked {
            Err(error) if is_of_one(&error) => survey.damaged.push((label, error)),
            other => other?,
        }
    }
    survey.usable.sort_by_key(|backup| (backup.stop.time, backup.stop.lsn));
    Ok(survey)
}

/// The backups with a usable manifest, as in [`read_all`], and the unusable ones, which do not hide the others.
///
/// # Errors
/// As [`StoredBackup::read`], except for these.
pub fn read_usable(repository: &Repository) -> Result<(Vec<StoredBackup>, Vec<DamagedBackup>)> {
    let (mut backups, mut damaged) = (Vec::new(), Vec::new());
    for label in labels(repository)? {
        match StoredBackup::read(repository, &label) {
            Ok(backup) => backups.extend(backup),
            Err(error) if is_of_one(&error) => damaged.push((label, error)),
            Err(error) => return Err(error),
        }
    }
    backups.sort_by_key(|backup| (backup.stop.time, backup.stop.lsn));
    Ok((backups, damaged))
}

/// The existing backups, ordered by the times of their stop points.
///
/// # Errors
/// As [`StoredBackup::read`].
pub fn read_all(repository: &Repository) -> Result<Vec<StoredBackup>> {
    let (backups, damaged) = read_usable(repository)?;
    damaged.into_iter().next().map_or(Ok(backups), |(_, error)| Err(error))
}

/// The labels with objects below them, sorted.
fn labels(repository: &Repository) -> Result<impl Iterator<Item = Label>> {
    let listing = repository.store().list(Some(&repository.layout().backups()?))?;
    // Other names do not belong to pgark.
    Ok(listing.directories.into_iter().filter_map(|name| name.parse().ok()))
}

/// Whether an error concerns one backup only.
fn is_of_one(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Usage)
}

/// The state of a label that had no manifest a moment ago; `None` if nothing is below it, as with a remaining
/// directory.
fn unfinished(repository: &Repository, label: &Label, now: Timestamp) -> Result<Option<BackupState>> {
    let (store, layout) = (repository.store(), repository.layout());
    if let Some(running) = Running::read(repository, label)?
        && running.is_alive(now)
    {
        return Ok(Some(BackupState::Running(running)));
    }
    // The order matters: a backup that is published between the two lookups loses `running` only afterwards.
    if store.stat(&layout.stored_backup(label)?)?.is_some() {
        return Ok(Some(BackupState::Complete));
    }
    let left = !store.list(Some(&layout.backup(label)?))?.objects.is_empty();
    Ok(left.then_some(BackupState::Abandoned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::RealDisk;
    use crate::postgres::SystemIdentifier;
    use crate::repository::backup::manifest::tests::sample;
    use crate::store::{DirectoryStore, Store, StoreExt};
    use jiff::SignedDuration;
    use std::sync::Arc;

    #[test]
    fn a_backup_exists_when_its_manifest_does() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Arc::new(DirectoryStore::new(scratch.path().to_owned(), Arc::new(RealDisk)));
        let repository = Repository::new(store.clone(), "main", SystemIdentifier::new(7).unwrap()).unwrap();
        let label = |text: &str| text.parse::<Label>().unwrap();
        let now: Timestamp = "2026-01-15T15:00:00Z".parse().unwrap();
        let earlier = now - Running::ALIVE - SignedDuration::from_secs(1);
        assert_eq!(list(&repository, now).unwrap(), []);

        let mut running = Running::begin(now - SignedDuration::from_secs(60));
        running.create(&repository, &label("c")).unwrap();
        let clash = Running::begin(now).create(&repository, &label("c")).unwrap_err();
        assert_eq!(clash.kind(), ErrorKind::Conflict);
        running.beat(&repository, &label("c"), now).unwrap();
        Running::begin(earlier).create(&repository, &label("d")).unwrap();
        store.put_new(&repository.layout().backup_pack(&label("e"), 1).unwrap(), &[b"x"]).unwrap();
        let mut later = sample("a");
        later.stop.time = now;
        later.publish(&repository).unwrap();
        sample("b").publish(&repository).unwrap();
        assert_eq!(sample("b").publish(&repository).unwrap_err().kind(), ErrorKind::Conflict);

        let listed = list(&repository, now).unwrap();
        let expected = [
            ("a", BackupState::Complete),
            ("b", BackupState::Complete),
            ("c", BackupState::Running(running.clone())),
            ("d", BackupState::Abandoned),
            ("e", BackupState::Abandoned),
        ];
        let expected = expected.map(|(text, state)| ListedBackup { label: label(text), state });
        assert_eq!(listed, expected);
        let all = read_all(&repository).unwrap();
        assert_eq!(all.iter().map(|backup| backup.label.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(StoredBackup::read(&repository, &label("c")).unwrap(), None);

        store.delete(&repository.layout().backup_running(&label("c")).unwrap()).unwrap();
        let swept = running.beat(&repository, &label("c"), now).unwrap_err();
        assert_eq!(swept.kind(), ErrorKind::Conflict);
    }

    #[test]
    fn a_manifest_under_another_name_is_damage() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Arc::new(DirectoryStore::new(scratch.path().to_owned(), Arc::new(RealDisk)));
        let repository = Repository::new(store.clone(), "main", SystemIdentifier::new(7).unwrap()).unwrap();
        sample("a").publish(&repository).unwrap();
        let key = |text: &str| repository.layout().stored_backup(&text.parse().unwrap()).unwrap();
        let text = store.read_small(&key("a"), 1 << 20).unwrap().unwrap();
        store.put_new(&key("b"), &[&text]).unwrap();
        let error = StoredBackup::read(&repository, &"b".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert_eq!(read_all(&repository).unwrap_err().kind(), ErrorKind::Damaged);
        let (usable, damaged) = read_usable(&repository).unwrap();
        assert_eq!((usable.len(), damaged.len(), damaged[0].0.as_str()), (1, 1, "b"));
    }
}
