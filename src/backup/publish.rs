//! The last steps of every backup: its history, its warnings, and its publication.

use super::parent;
use super::running::RunningBackup;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::interruption::Interruption;
use crate::monitor::{CommandWarning, Monitor};
use crate::postgres::{TimelineHistory, TimelineId, WalFileName};
use crate::repository::Repository;
use crate::repository::backup::manifest::BackupPoint;
use crate::repository::backup::{Chain, StoredBackup};

/// The history of the backup's timeline; `None` for the first timeline. A backup whose timeline has no history file in
/// the repository cannot be recovered along any path.
///
/// # Errors
/// [`ErrorKind::Hole`] if the history file is missing; those of the store.
pub fn history(repository: &Repository, start: &BackupPoint) -> Result<Option<TimelineHistory>> {
    let name = WalFileName::History(start.timeline);
    let history = repository.history(start.timeline)?;
    if start.timeline == TimelineId::FIRST || history.is_some() {
        return Ok(history);
    }
    Err(Error::new(
        ErrorKind::Hole,
        format!("{name} is not in the repository: the backup could not be recovered"),
    )
    .hint(format!("As the owner of the data directory, run in that directory: archive-push pg_wal/{name}")))
}

/// Reports the pages that are damaged in the cluster itself.
pub fn warn_of_damage(stored: &StoredBackup, monitor: &dyn Monitor) {
    for page in &stored.damaged_pages.listed {
        let (path, problem) = (&page.path.to_string(), &page.problem);
        monitor.warn(CommandWarning::DamagedBlock { block: page.block, path, problem });
    }
    let unlisted = stored.damaged_pages.count.saturating_sub(stored.damaged_pages.listed.len() as u64);
    if unlisted > 0 {
        monitor.warn(CommandWarning::FurtherDamagedBlocks { count: unlisted });
    }
}

/// Publishes the backup if all its objects and its parent still exist, and if later readers will accept it.
///
/// Checks the mark before and after. A sweep takes the mark over before it looks for the manifest, so either
/// the sweep sees the manifest, or this function sees the lost mark.
///
/// # Errors
/// [`ErrorKind::Damaged`] if an object is missing or inconsistent, [`ErrorKind::Conflict`] if the mark
/// belongs to another process; those of the store.
pub fn publish(
    repository: &Repository,
    stored: &StoredBackup,
    parent: Option<&Chain>,
    running: &RunningBackup<'_>,
    interruption: &Interruption<'_>,
) -> Result<()> {
    interruption.check()?;
    running.beat()?;
    let (store, layout) = (repository.store(), repository.layout());
    parent::check_objects(stored, repository).map_err(|error| match error.kind() {
        ErrorKind::Damaged => {
            error.hint("Check whether objects of the running backup were removed from the repository.")
        }
        _ => error,
    })?;
    if let Some(parent) = parent {
        parent::check_intact(parent, repository)
            .context(|| "the parent of the backup was removed during the backup")?;
    }
    let members: Vec<StoredBackup> = parent.into_iter().flat_map(Chain::members).cloned().collect();
    Chain::of(stored, &members)?;
    stored.publish(repository)?;
    let ours = running.check_ours();
    if ours.is_err() {
        store
            .delete(&layout.stored_backup(&stored.label)?)
            .context(|| "could not withdraw a backup that was removed as abandoned while it was published")?;
    }
    ours
}
