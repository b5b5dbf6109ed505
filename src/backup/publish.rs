//! The last step: a backup comes to exist.

use super::parent;
use super::running::RunningBackup;
use crate::error::{Context, Error, Result};
use crate::repository::Repository;
use crate::repository::backup::{Chain, StoredBackup};
use crate::server::Watch;

/// Makes the backup exist, if everything that it consists of still does, and what it builds on.
///
/// Our mark is looked at before and after: whoever sweeps takes it over before looking for the manifest, so either
/// they see the manifest, or we see that the mark is theirs.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) when something is missing,
/// [`ErrorKind::Conflict`](crate::error::ErrorKind::Conflict) when the mark is not ours, and the store's.
pub fn publish(
    repository: &Repository,
    stored: &StoredBackup,
    parent: Option<&Chain>,
    running: &RunningBackup<'_>,
    watch: &Watch<'_>,
) -> Result<()> {
    watch.check()?;
    running.beat()?;
    let (store, layout) = (repository.store(), repository.layout());
    for pack in &stored.packs {
        let key = layout.backup_pack(&stored.label, pack.number)?;
        if store.stat(&key)?.is_none_or(|info| info.length_bytes != pack.stored_bytes) {
            return Err(Error::damaged(format!("\"{}/{key}\" is not what was stored", store.location()))
                .hint("Did somebody remove objects of a backup that was being taken?"));
        }
    }
    if let Some(parent) = parent {
        parent::check_intact(parent, repository)
            .context(|| "what the backup builds on was removed while it was taken")?;
    }
    stored.publish(repository)?;
    let ours = running.check_ours();
    if ours.is_err() {
        store
            .delete(&layout.stored_backup(&stored.label)?)
            .context(|| "could not take a backup back that was swept while it was published")?;
    }
    ours
}
