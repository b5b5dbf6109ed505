//! Chooses the parent of an incremental backup.

use crate::error::{Error, ErrorKind, Result};
use crate::monitor::{CommandWarning, Monitor};
use crate::postgres::page::PAGE_BYTES;
use crate::postgres::{ControlFile, ServerVersion, TimelineHistory};
use crate::repository::Repository;
use crate::repository::backup::manifest::BackupPoint;
use crate::repository::backup::{Chain, StoredBackup, inventory, objects_of};
use crate::store::StoreExt;

/// How much a backup stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupType {
    /// All data.
    Full,
    /// Changes since the newest backup.
    Incremental,
    /// Changes since the newest full backup.
    Differential,
}

/// The properties of a server that determine the format of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// The server version.
    pub version: ServerVersion,
    /// The size of a data page, in bytes.
    pub page_bytes: u32,
    /// Upper limit for the number of pages in one file of a relation.
    pub pages_per_file: u32,
    /// Whether data pages have checksums.
    pub data_checksums: bool,
}

impl Build {
    /// The build of a server of this version with this `pg_control`.
    pub fn of(control: &ControlFile, version: ServerVersion) -> Build {
        Build {
            version,
            page_bytes: control.page_bytes,
            pages_per_file: control.pages_per_file,
            data_checksums: control.data_checksums,
        }
    }
}

/// The properties of the new backup that its parent must match.
pub struct Child<'a> {
    /// Full, incremental or differential.
    pub kind: BackupType,
    /// The start point.
    pub start: &'a BackupPoint,
    /// The history of the start point's timeline.
    pub history: &'a TimelineHistory,
    /// The server.
    pub build: Build,
    /// Upper limit for the number of incremental backups that follow a full one.
    pub chain_max: usize,
}

/// Chooses the newest suitable backup as parent, with its ancestors. `None` if there is none; a message
/// explains the reason.
///
/// # Errors
/// Those of the store.
pub fn choose(child: &Child<'_>, repository: &Repository, monitor: &dyn Monitor) -> Result<Option<Chain>> {
    if child.kind == BackupType::Full {
        return Ok(None);
    }
    if child.build.page_bytes as usize != PAGE_BYTES {
        let why = &format!("pages have {} bytes", child.build.page_bytes);
        monitor.warn(CommandWarning::IncrementalImpossible { why });
        return Ok(None);
    }
    let (mut backups, damaged) = inventory::read_usable(repository)?;
    // Along one path the LSN only increases, whatever the clocks show. Of two backups with the same stop
    // point, such as a combined backup and its source, prefers the full one.
    backups.sort_by_key(|backup| (backup.stop.lsn, backup.parent().is_none()));
    let mut why_not = None;
    for backup in backups.iter().rev() {
        if child.kind == BackupType::Differential && backup.parent().is_some() {
            continue;
        }
        match suits(child, backup, &backups)
            .and_then(|chain| check_intact(&chain, repository).map(|()| chain))
        {
            Ok(chain) if chain.increments() + 1 > child.chain_max => {
                why_not = Some(format!(
                    "the chain of backup {} has {} incremental backups, and backup.chain_max is {}",
                    backup.label,
                    chain.increments(),
                    child.chain_max
                ));
                break;
            }
            Ok(chain) => return Ok(Some(chain)),
            // An unavailable repository must not look like a missing parent.
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(error) => drop(why_not.get_or_insert(format!("not backup {}: {error}", backup.label))),
        }
    }
    let why_not = why_not
        .or_else(|| damaged.first().map(|(label, error)| format!("not backup {label}: {error}")))
        .unwrap_or_else(|| "the repository has no suitable one".to_owned());
    monitor.warn(CommandWarning::NoParent { why: &why_not });
    Ok(None)
}

/// Returns the chain of `parent` if an incremental backup can build on it.
fn suits(child: &Child<'_>, parent: &StoredBackup, backups: &[StoredBackup]) -> Result<Chain> {
    let unfit = |why: String| Err(Error::damaged(why));
    let server = &parent.server;
    if server.data_checksums != child.build.data_checksums {
        return unfit("data checksums were enabled or disabled since".to_owned());
    }
    if server.page_bytes != child.build.page_bytes
        || server.pages_per_file != child.build.pages_per_file
        || server.catalog_version != child.build.version.catalog_version
    {
        return unfit("the server was built with other settings".to_owned());
    }
    let damaged = &parent.damaged_pages;
    if damaged.count > damaged.listed.len() as u64 {
        return unfit(format!("it has {} damaged pages, more than its manifest lists", damaged.count));
    }
    check_leads_to(parent, child.start, child.history)?;
    Chain::of(parent, backups)
}

/// Checks that the parent's stop point lies on the way to the child's start point, whose timeline has this
/// `history`.
///
/// # Errors
/// [`ErrorKind::Damaged`] if it does not.
pub fn check_leads_to(parent: &StoredBackup, start: &BackupPoint, history: &TimelineHistory) -> Result<()> {
    if !is_ancestor(parent, history) {
        return Err(Error::damaged(format!(
            "it ends at {} on timeline {}, which does not lead to {} on timeline {}",
            parent.stop.lsn, parent.stop.timeline, start.lsn, start.timeline
        )));
    }
    if parent.stop.lsn > start.lsn {
        return Err(Error::damaged(format!(
            "it ends at {}, but this backup begins earlier, at {}, the last checkpoint of the primary",
            parent.stop.lsn, start.lsn
        )));
    }
    Ok(())
}

/// Whether the parent's stop point lies on the child's timeline or an ancestor of it. The history identifies
/// a timeline: two servers promoted from one backup can assign the same number to different timelines.
fn is_ancestor(parent: &StoredBackup, history: &TimelineHistory) -> bool {
    let timeline = parent.stop.timeline;
    let ancestors = history.switches().iter().take_while(|switch| switch.timeline != timeline);
    let known = parent.timeline_history.iter().map(|switch| (switch.timeline, switch.switch_point));
    if !history.contains(timeline)
        || !ancestors.map(|switch| (switch.timeline, switch.switch_point)).eq(known)
    {
        return false;
    }
    history.end_of(timeline).is_none_or(|end| parent.stop.lsn <= end)
}

/// Checks that the objects named by the manifests of all members exist. Does not read them; the parent's index is read
/// later.
pub fn check_intact(chain: &Chain, repository: &Repository) -> Result<()> {
    let (store, layout) = (repository.store(), repository.layout());
    for member in chain.members() {
        check_objects(member, repository)?;
        let label = &member.label;
        if store.stat(&layout.stored_backup(label)?)?.is_none() {
            return Err(Error::damaged(format!("backup {label} was removed")));
        }
    }
    Ok(())
}

/// Checks that the objects named by a manifest exist, with the recorded sizes.
///
/// # Errors
/// [`ErrorKind::Damaged`] if one does not; those of the store.
pub fn check_objects(backup: &StoredBackup, repository: &Repository) -> Result<()> {
    let store = repository.store();
    for (key, bytes) in objects_of(repository, backup)? {
        if store.stat(&key)?.is_none_or(|found| found.length_bytes != bytes) {
            return Err(Error::damaged(format!("\"{}\" differs from what was stored", store.locate(&key))));
        }
    }
    Ok(())
}
