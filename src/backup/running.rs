//! That a backup is being taken is told by a heartbeat, and forgotten when it ends.

use crate::error::{Error, ErrorKind, Result};
use crate::monitor::Monitor;
use crate::repository::Repository;
use crate::repository::backup::inventory::{self, BackupState};
use crate::repository::backup::{Label, NewLabel, Running};
use crate::server::Watch;
use jiff::Timestamp;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long heartbeats may fail because the repository is out of reach: half of what others take for dead.
const SILENT_MAX: Duration = Duration::from_secs(Running::ALIVE.as_secs() as u64 / 2);

/// Our mark in the repository.
pub struct RunningBackup<'a> {
    repository: &'a Repository,
    label: Label,
    running: Mutex<Running>,
}

impl<'a> RunningBackup<'a> {
    /// Marks a label as ours.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it is in use, and the store's.
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
                // The mark may be of one that died when it was published already, or be damaged.
                if exists()? {
                    return Err(taken(&label));
                }
                return match Running::read(repository, &label)? {
                    // What is dead was swept before, where that could be done.
                    Some(running) if !running.is_alive(repository.store().now()?) => Err(left_over(&label)),
                    _ => Err(error),
                };
            }
            other => other?,
        }
        // Looked at only now: a backup of this label that was being published has taken its mark away.
        if exists()? {
            repository.store().delete(&repository.layout().backup_running(&label)?)?;
            return Err(taken(&label));
        }
        Ok(RunningBackup { repository, label, running: Mutex::new(running) })
    }

    /// Makes the backup with `make` while the heartbeat goes on, and takes the mark away in the end: that of a published
    /// backup alone, that of any other with all that was stored of it.
    ///
    /// # Errors
    /// Those of `make`. Through `watch` it hears when the heartbeat has failed.
    pub fn during<T>(self, watch: &Watch<'_>, make: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let made = thread::scope(|scope| {
            // Nothing is ever sent: it closes when the backup has ended, however that was.
            let (_going_on, ended) = mpsc::channel();
            let backup = &self;
            scope.spawn(move || backup.keep_alive(watch, &ended));
            make(&self)
        });
        match &made {
            Ok(_) => self.forget(),
            Err(_) => self.remove(),
        }
        made
    }

    /// Renews the heartbeat until the backup has ended; ends the backup when it is not ours any more.
    fn keep_alive(&self, watch: &Watch<'_>, ended: &Receiver<()>) {
        let mut last = Instant::now();
        while ended.recv_timeout(Running::HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
            match self.beat() {
                Ok(()) => last = Instant::now(),
                Err(error) if error.kind() == ErrorKind::Unavailable && last.elapsed() < SILENT_MAX => {}
                Err(error) => {
                    watch.fail(error);
                    return;
                }
            }
        }
    }

    /// Renews the heartbeat now.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when somebody has swept the backup, and the store's.
    pub fn beat(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.beat(self.repository, &self.label, self.repository.store().now()?)
    }

    /// Says in the mark on which backup this one builds, so that nobody removes it.
    ///
    /// # Errors
    /// As [`RunningBackup::beat`].
    pub fn name_parent(&self, parent: &Label) -> Result<()> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).parent = Some(parent.clone());
        self.beat()
    }

    /// Makes sure that the mark is ours.
    ///
    /// # Errors
    /// As [`RunningBackup::beat`].
    pub fn check_ours(&self) -> Result<()> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        running.check_ours(self.repository, &self.label)
    }

    /// Takes the mark of a published backup away. That it stays does no harm: it is swept.
    pub fn forget(&self) {
        if let Ok(key) = self.repository.layout().backup_running(&self.label) {
            let _ = self.repository.store().delete(&key);
        }
    }

    /// Removes everything of a backup that failed, as far as that can be done now; the rest is swept by a later one.
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

fn left_over(label: &Label) -> Error {
    Error::new(ErrorKind::Conflict, format!("the remains of an abandoned backup {label} are in the way")).hint(
        "They could not be removed: delete permission is missing, or objects are locked. Choose another label with --label, or \
         remove them.",
    )
}

/// Removes what is left of backups that were not finished and have no heartbeat. Where that cannot be done it warns: keys that
/// may not delete are as good for a backup as others.
pub fn sweep_abandoned(repository: &Repository, monitor: &dyn Monitor) {
    if let Err(error) = try_sweep_abandoned(repository, monitor) {
        monitor.warning(&format!("could not remove the remains of an abandoned backup: {error}"));
    }
}

/// Removes what dead writers left below all backups. What is left takes room and does no harm.
pub fn sweep_store(repository: &Repository, monitor: &dyn Monitor) {
    if let Err(error) = repository.store().sweep() {
        monitor.warning(&format!(
            "could not remove abandoned files of dead writers from the repository: {error}"
        ));
    }
}

fn try_sweep_abandoned(repository: &Repository, monitor: &dyn Monitor) -> Result<()> {
    let now = repository.store().now()?;
    for listed in inventory::list(repository, now)? {
        match listed.state {
            BackupState::Abandoned => {
                monitor.step(&format!("removing the remains of the abandoned backup {}", listed.label));
                if let Err(error) = sweep(repository, &listed.label, now) {
                    monitor.warning(&format!(
                        "could not remove the remains of the abandoned backup {}: {error}",
                        listed.label
                    ));
                }
            }
            // Left alone: it may be alive, and whoever takes it finds out at the next heartbeat.
            BackupState::Unknown(why) => monitor.warning(&format!(
                "could not determine whether backup {} is running, so its objects are kept: {why}",
                listed.label
            )),
            BackupState::Complete | BackupState::Running(_) => {}
        }
    }
    Ok(())
}

/// Sweeps one backup that was found abandoned.
///
/// The mark is taken over first: a backup that lives after all finds that out before it is published, or was published
/// before we look for its manifest. See `publish`.
fn sweep(repository: &Repository, label: &Label, now: Timestamp) -> Result<()> {
    let (store, layout) = (repository.store(), repository.layout());
    let ours = Running::begin(now);
    match Running::read(repository, label)? {
        Some(running) if running.is_alive(now) => return Ok(()),
        Some(_) => ours.take_over(repository, label)?,
        // Without a mark: the sweep of another host, or a new backup, may have been faster.
        None => match ours.create(repository, label) {
            Err(error) if error.kind() == ErrorKind::Conflict => return Ok(()),
            other => other?,
        },
    }
    if store.stat(&layout.stored_backup(label)?)?.is_some() {
        return store.delete(&layout.backup_running(label)?);
    }
    remove_all(repository, label).inspect_err(|_| {
        // Keys that may not delete: what stays must not look as if somebody were at work there.
        let _ = Running::begin(Timestamp::UNIX_EPOCH).take_over(repository, label);
    })
}

/// Removes all objects of a backup that must not be, its mark last.
///
/// Its manifest first: publishing may have failed when the manifest was in place already, and a removal that ends halfway
/// must leave remains and never a backup.
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
    use crate::store::{DirectoryStore, Store};
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
        // Publishing has failed after the manifest was in place.
        store.put_new(&layout.stored_backup(&label).unwrap(), &[b"x"]).unwrap();
        // What cannot be removed stands before the manifest in the order of names.
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
