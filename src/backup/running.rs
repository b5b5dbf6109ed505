//! Marks a running backup in the repository with a heartbeat, and removes the mark when it ends.

use crate::error::{Error, ErrorKind, Result};
use crate::interruption::Interruption;
use crate::monitor::{CommandStep, CommandWarning, Monitor};
use crate::repository::Repository;
use crate::repository::backup::inventory::{self, BackupState};
use crate::repository::backup::{Label, NewLabel, Running};
use jiff::Timestamp;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long heartbeats may fail because the repository is unavailable: half the time after which others treat
/// the backup as abandoned.
const SILENT_MAX: Duration = Duration::from_secs(Running::ALIVE.as_secs() as u64 / 2);

/// The mark of this backup in the repository.
pub struct RunningBackup<'a> {
    repository: &'a Repository,
    label: Label,
    running: Mutex<Running>,
}

impl<'a> RunningBackup<'a> {
    /// Claims a label with a mark.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if it is in use; those of the store.
    pub fn begin(repository: &'a Repository, wanted: &NewLabel) -> Result<RunningBackup<'a>> {
        let mut taken = None;
        for label in wanted.candidates() {
            match RunningBackup::mark(repository, label) {
                Err(error) if error.kind() == ErrorKind::Conflict => taken = Some(error),
                other => return other,
            }
        }
        Err(taken.unwrap_or_else(|| Error::usage("a backup needs a label")))
    }

    /// The label.
    pub fn label(&self) -> &Label {
        &self.label
    }

    fn mark(repository: &'a Repository, label: Label) -> Result<RunningBackup<'a>> {
        let running = Running::begin(repository.store().now()?);
        let exists = || -> Result<bool> {
            Ok(repository.store().stat(&repository.layout().stored_backup(&label)?)?.is_some())
        };
        match running.create(repository, &label) {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                // The mark may be damaged, or belong to a process that died after publication.
                if exists()? {
                    return Err(taken(&label));
                }
                return match Running::read(repository, &label)? {
                    // Abandoned backups were swept earlier where possible.
                    Some(running) if !running.is_alive(repository.store().now()?) => {
                        Err(abandoned_backup_error(&label))
                    }
                    _ => Err(error),
                };
            }
            other => other?,
        }
        // Checked last: a backup of this label that was being published may have removed its mark meanwhile.
        if exists()? {
            repository.store().delete(&repository.layout().backup_running(&label)?)?;
            return Err(taken(&label));
        }
        Ok(RunningBackup { repository, label, running: Mutex::new(running) })
    }

    /// Runs `make` while the heartbeat continues, and removes the mark at the end. Removes only the mark of a
    /// published backup, but all stored objects of any other.
    ///
    /// # Errors
    /// Those of `make`; `interruption` interrupts it if the heartbeat fails.
    pub fn during<T>(
        self,
        interruption: &Interruption<'_>,
        make: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<T> {
        let made = thread::scope(|scope| {
            // The channel carries no messages; it closes when the backup ends for any reason.
            let (_going_on, ended) = mpsc::channel();
            let backup = &self;
            scope.spawn(move || backup.keep_alive(interruption, &ended));
            make(&self)
        });
        match &made {
            Ok(_) => self.forget(),
            Err(_) => self.remove(),
        }
        made
    }

    /// Renews the heartbeat until the backup ends; interrupts the backup if the mark is lost.
    fn keep_alive(&self, interruption: &Interruption<'_>, ended: &Receiver<()>) {
        let mut last = Instant::now();
        while ended.recv_timeout(Running::HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
            match self.beat() {
                Ok(()) => last = Instant::now(),
                Err(error) if error.kind() == ErrorKind::Unavailable && last.elapsed() < SILENT_MAX => {}
                Err(error) => {
                    interruption.fail(error);
                    return;
                }
            }
        }
    }

    /// Renews the heartbeat now.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the backup was swept as abandoned; those of the store.
    pub fn beat(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.beat(self.repository, &self.label, self.repository.store().now()?)
    }

    /// Names the parent in the mark, which protects it against removal.
    ///
    /// # Errors
    /// As [`RunningBackup::beat`].
    pub fn name_parent(&self, parent: &Label) -> Result<()> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).parent = Some(parent.clone());
        self.beat()
    }

    /// Checks that the mark still belongs to this backup.
    ///
    /// # Errors
    /// As [`RunningBackup::beat`].
    pub fn check_ours(&self) -> Result<()> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        running.check_ours(self.repository, &self.label)
    }

    /// Removes the mark of a published backup. A remaining mark does no harm and is swept later.
    pub fn forget(&self) {
        if let Ok(key) = self.repository.layout().backup_running(&self.label) {
            let _ = self.repository.store().delete(&key);
        }
    }

    /// Removes the objects of a failed backup as far as possible; a later sweep removes the rest.
    pub fn remove(&self) {
        if self.check_ours().is_ok() {
            let _ = remove_all(self.repository, &self.label);
        }
    }
}

fn taken(label: &Label) -> Error {
    Error::new(ErrorKind::Conflict, format!("the repository already holds a backup {label}"))
        .hint("Choose another label with --label.")
}

fn abandoned_backup_error(label: &Label) -> Error {
    Error::new(ErrorKind::Conflict, format!("the remains of an abandoned backup {label} are in the way")).hint(
        "They could not be removed: delete permission is missing, or objects are locked. Choose another label with --label, or \
         remove them.",
    )
}

/// Removes the remains of unfinished backups without a heartbeat. Warns if that fails, because a backup does
/// not require delete permission.
pub fn sweep_abandoned(repository: &Repository, monitor: &dyn Monitor) {
    if let Err(error) = try_sweep_abandoned(repository, monitor) {
        monitor.warn(CommandWarning::AbandonedBackupsNotRemoved { error: &error });
    }
}

/// Removes temporary remains of dead writers below all backups. Remains take space but do no harm.
pub fn sweep_store(repository: &Repository, monitor: &dyn Monitor) {
    if let Err(error) = repository.store().sweep() {
        monitor.warn(CommandWarning::AbandonedFilesNotRemoved { error: &error });
    }
}

fn try_sweep_abandoned(repository: &Repository, monitor: &dyn Monitor) -> Result<()> {
    let now = repository.store().now()?;
    for listed in inventory::list(repository, now)? {
        match listed.state {
            BackupState::Abandoned => {
                let label = listed.label.as_str();
                monitor.step(CommandStep::RemovingAbandonedBackup { label });
                if let Err(error) = sweep(repository, &listed.label, now) {
                    monitor.warn(CommandWarning::AbandonedBackupNotRemoved { label, error: &error });
                }
            }
            // Left unchanged: the backup may be alive, and its owner finds out at the next heartbeat.
            BackupState::Unknown(why) => {
                monitor.warn(CommandWarning::BackupStateUnknown { label: listed.label.as_str(), why: &why });
            }
            BackupState::Complete | BackupState::Running(_) => {}
        }
    }
    Ok(())
}

/// Sweeps one abandoned backup.
///
/// Takes the mark over first. A backup that is alive after all notices that before publication, or was
/// published before this function looks for its manifest. See `publish`.
fn sweep(repository: &Repository, label: &Label, now: Timestamp) -> Result<()> {
    let (store, layout) = (repository.store(), repository.layout());
    let ours = Running::begin(now);
    match Running::read(repository, label)? {
        Some(running) if running.is_alive(now) => return Ok(()),
        Some(_) => ours.take_over(repository, label)?,
        // No mark: the sweep of another host, or a new backup, may have been faster.
        None => match ours.create(repository, label) {
            Err(error) if error.kind() == ErrorKind::Conflict => return Ok(()),
            other => other?,
        },
    }
    if store.stat(&layout.stored_backup(label)?)?.is_some() {
        return store.delete(&layout.backup_running(label)?);
    }
    remove_all(repository, label).inspect_err(|_| {
        // Without delete permission the remains stay; mark them as abandoned so that they do not look like a
        // running backup.
        let _ = Running::begin(Timestamp::UNIX_EPOCH).take_over(repository, label);
    })
}

/// Removes all objects of an invalid backup, its mark last.
///
/// Removes the manifest first, because publication may have failed after the manifest was in place. An
/// interrupted removal must leave remains, never a backup.
fn remove_all(repository: &Repository, label: &Label) -> Result<()> {
    let (store, layout) = (repository.store(), repository.layout());
    let (backup, running) = (layout.backup(label)?, layout.backup_running(label)?);
    store.delete(&layout.stored_backup(label)?)?;
    for (name, _) in store.list(Some(&backup))?.objects {
        let key = backup.join(name)?;
        if key != running {
            store.delete(&key)?;
        }
    }
    store.delete(&running)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::{Disk, RealDisk};
    use crate::monitor::Silent;
    use crate::postgres::SystemIdentifier;
    use crate::store::{DirectoryStore, Store, StoreExt};
    use jiff::SignedDuration;
    use std::io;
    use std::path::Path;
    use std::sync::Arc;

    #[test]
    fn only_the_dead_are_swept() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Arc::new(DirectoryStore::new(scratch.path().to_owned(), Arc::new(RealDisk)));
        let repository = Repository::new(store.clone(), "main", SystemIdentifier::new(7).unwrap()).unwrap();
        let layout = repository.layout();
        let label = |text: &str| text.parse::<Label>().unwrap();
        let pack = |text: &str| layout.backup_pack(&label(text), 1).unwrap();
        let long_ago = Timestamp::now() - Running::ALIVE - SignedDuration::from_secs(60);
        for name in ["complete", "running", "silent", "unmarked"] {
            store.put_new(&pack(name), &[b"x"]).unwrap();
        }
        store.put_new(&layout.stored_backup(&label("complete")).unwrap(), &[b"x"]).unwrap();
        let (running_label, silent_label) = (label("running"), label("silent"));
        let running = RunningBackup::begin(&repository, &NewLabel::Named(running_label.clone())).unwrap();
        Running::begin(long_ago).create(&repository, &silent_label).unwrap();

        sweep_abandoned(&repository, &Silent);
        let exists = |name: &str| store.stat(&pack(name)).unwrap().is_some();
        assert!(exists("complete") && exists("running") && !exists("silent") && !exists("unmarked"));
        assert!(Running::read(&repository, &silent_label).unwrap().is_none());
        running.check_ours().unwrap();

        let complete = label("complete");
        let error = RunningBackup::begin(&repository, &NewLabel::Named(complete.clone())).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(Running::read(&repository, &complete).unwrap().is_none());

        running.name_parent(&complete).unwrap();
        assert_eq!(Running::read(&repository, &running_label).unwrap().unwrap().parent, Some(complete));
        running.remove();
        assert!(!exists("running"));
        assert_eq!(running.beat().unwrap_err().kind(), ErrorKind::Conflict);
    }

    #[test]
    fn backups_that_are_called_after_one_second_have_labels_of_their_own() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Arc::new(DirectoryStore::new(scratch.path().to_owned(), Arc::new(RealDisk)));
        let repository = Repository::new(store, "main", SystemIdentifier::new(7).unwrap()).unwrap();
        let time: Label = "20260115T143000Z".parse().unwrap();
        let begin = |wanted: NewLabel| {
            RunningBackup::begin(&repository, &wanted).map(|running| running.label().to_string())
        };
        for expected in ["20260115T143000Z", "20260115T143000Z-2", "20260115T143000Z-3"] {
            assert_eq!(begin(NewLabel::OfTime(time.clone())).unwrap(), expected);
            assert!(expected.parse::<Label>().is_ok());
        }
        let error = begin(NewLabel::Named(time)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "whoever names a label means that one");
    }

    #[test]
    fn a_removal_that_ends_halfway_leaves_no_backup() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Arc::new(DirectoryStore::new(scratch.path().to_owned(), Arc::new(RealDisk)));
        let repository = Repository::new(store.clone(), "main", SystemIdentifier::new(7).unwrap()).unwrap();
        let (layout, label) = (repository.layout(), "one".parse::<Label>().unwrap());
        let running = RunningBackup::begin(&repository, &NewLabel::Named(label.clone())).unwrap();
        // Publication failed after the manifest was in place.
        store.put_new(&layout.stored_backup(&label).unwrap(), &[b"x"]).unwrap();
        // An object that cannot be removed sorts before the manifest.
        let stuck = scratch.path().join(layout.postgres_manifest(&label).unwrap().to_string());
        std::fs::write(&stuck, b"x").unwrap();
        let disk = Arc::new(StuckDisk(stuck));
        let store = Arc::new(DirectoryStore::new(scratch.path().to_owned(), disk));
        let stuck = Repository::new(store, "main", SystemIdentifier::new(7).unwrap()).unwrap();
        assert!(remove_all(&stuck, &label).is_err());
        assert!(repository.store().stat(&layout.stored_backup(&label).unwrap()).unwrap().is_none());
        running.remove();
        assert!(Running::read(&repository, &label).unwrap().is_none());
    }

    /// A disk that cannot remove one file.
    #[derive(Debug)]
    struct StuckDisk(std::path::PathBuf);

    impl Disk for StuckDisk {
        fn remove_file(&self, path: &Path) -> io::Result<()> {
            if path == self.0 {
                Err(io::ErrorKind::PermissionDenied.into())
            } else {
                RealDisk.remove_file(path)
            }
        }
    }
}
