//! Brings a cluster back to a moment: what `pgark recover` does.
//!
//! The story: [`plan()`] asks the repository and the host all that can go wrong, and writes nothing. [`recover`] claims the
//! directories, restores every file verified, configures the server, makes all of it durable and puts `pg_control` in
//! place last. Until then no server starts from the directory, and the same command run again begins anew.
//!
//! Owns: these decisions and their order. Does not own: the formats (that is `repository/`), and what the server does
//! with it afterwards, which [`server`] only watches.

pub mod choice;
mod collations;
pub mod configure;
pub mod databases;
mod delta;
pub mod evidence;
mod existing;
mod forks;
mod host_configuration;
mod output;
pub mod places;
mod plan;
pub mod restore;
mod restored_manifest;
pub mod server;
mod shares;
pub mod space;
pub mod staging;
pub mod standby;
pub mod survey;
pub mod systems;
pub mod tablespaces;
pub mod target;

#[cfg(test)]
mod target_tests;

pub use collations::HOW_TO_MEND as HOW_TO_MEND_COLLATIONS;
pub use delta::{DeltaForecast, forecast};
pub use forks::ForkRule;
pub use plan::{ConfigFile, Mode, RecoverRequest, RecoveryPlan, plan};

use crate::durable::{self, Disk};
use crate::error::{Context, Error, Result};
use crate::monitor::Monitor;
use crate::pace::Pace;
use crate::postgres::backup_label::without_incremental_from;
use crate::postgres::{ControlFile, SystemIdentifier};
use crate::repository::Repository;
use crate::repository::backup::manifest::{StoredBackup, StoredConfigurationFile};
use restore::{Kept, Restored, read_restored};
use staging::{DIRECTORY_MODE, Found, Staging};
use std::ffi::OsStr;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Permissions of what is written beside the data directory.
const FILE_MODE: u32 = 0o600;

/// What was done.
#[derive(Clone, Debug)]
pub struct RecoverySummary {
    /// How many files were restored.
    pub files: u64,
    /// Their length together.
    pub bytes: u64,
    /// What of it was there already, where a data directory was restored over.
    pub kept: Option<Kept>,
    /// Whether a `postgresql.conf` had to be written, because the original's lay elsewhere.
    pub wrote_configuration: bool,
    /// The `data_directory` that the restored configuration names, if it names one: the server would go there.
    pub configured_data_directory: Option<PathBuf>,
}

/// Does what the plan says. When this returns, the cluster is durably in place and ready to be started.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for a backup that is not what its manifest says, the store's
/// and the operating system's. No server starts from what is left then, and the same command run again clears it.
pub fn recover(
    plan: &RecoveryPlan,
    repository: &Repository,
    workers: NonZeroUsize,
    pace: &Pace,
    disk: &dyn Disk,
    monitor: &dyn Monitor,
) -> Result<RecoverySummary> {
    let places = &plan.places;
    let data_directory = places.data_directory();
    let tablespace_directories: Vec<&Path> =
        places.tablespaces().iter().map(|tablespace| tablespace.new.as_path()).collect();
    // From now on no server starts here.
    let mut claimed = match plan.found {
        Found::Kept => Staging::claim_kept(
            disk,
            data_directory,
            plan.system,
            &tablespace_directories,
            plan.directory_mode(),
        )?,
        found => Staging::claim_data_directory(disk, data_directory, found, plan.directory_mode())?,
    };
    let mut claimed_tablespaces = Vec::new();
    for (tablespace, found) in places.tablespaces().iter().zip(&plan.tablespaces_found) {
        claimed_tablespaces.push(Staging::claim(disk, &tablespace.new, *found, plan.directory_mode())?);
    }

    // Before the first byte: a write that fails later is told to who has opened the file system by then.
    let roots =
        places.tablespaces().iter().map(|tablespace| tablespace.new.as_path()).chain([data_directory]);
    let wal_elsewhere = wal_elsewhere(data_directory);
    let opened = roots
        .chain(wal_elsewhere.as_deref())
        .map(|path| {
            Ok((path, File::open(path).context(|| format!("could not open \"{}\"", path.display()))?))
        })
        .collect::<Result<Vec<_>>>()?;

    monitor.begin(&format!("restoring backup {}", plan.backup.label), plan.backup.whole_bytes());
    let restored = restore::restore(repository, plan, workers, pace, disk, monitor)?;
    monitor.end();
    check_restored(&plan.backup, &restored, data_directory, plan.system)?;

    monitor.step("configuring recovery");
    place_tablespaces(disk, plan)?;
    let access = copy_configuration_files(disk, plan)?;
    let wrote_configuration = configure::complete_configuration(
        disk,
        data_directory,
        &plan.configuration_copies,
        access.as_deref(),
    )?;
    configure::configure(disk, data_directory, &plan.settings)?;
    if plan.config_file == ConfigFile::OfCopy {
        durable::replace_file(disk, &plan.config_path, plan.config.to_toml().as_bytes(), FILE_MODE)?;
    }

    monitor.step("syncing the restored files to disk");
    for (path, opened) in &opened {
        disk.sync_file_system(opened).context(|| format!("could not make \"{}\" durable", path.display()))?;
    }
    claimed.name_tablespaces(disk, &tablespace_directories)?;
    // Before a server can be started: a marker in a tablespace that is in use would have another recovery clear it.
    for tablespace in claimed_tablespaces {
        tablespace.release(disk)?;
    }
    // From here on a server can be started.
    let control_path = data_directory.join(OsStr::from_bytes(restore::CONTROL_FILE));
    durable::replace_file(disk, &control_path, &restored.control_file, FILE_MODE)?;
    claimed.release(disk)?;
    Ok(RecoverySummary {
        files: restored.files,
        bytes: restored.bytes,
        kept: (plan.found == Found::Kept).then_some(restored.kept),
        wrote_configuration,
        configured_data_directory: configured_data_directory(data_directory)?,
    })
}

/// Where `pg_wal` leads that lies on another disk, which only a data directory that is kept has: a file system of its own.
fn wal_elsewhere(data_directory: &Path) -> Option<PathBuf> {
    let wal = data_directory.join("pg_wal");
    let is_link = std::fs::symlink_metadata(&wal).is_ok_and(|metadata| metadata.is_symlink());
    if is_link { std::fs::canonicalize(wal).ok() } else { None }
}

/// That what was restored is the cluster that was meant, and complete where a server would not notice.
fn check_restored(
    backup: &StoredBackup,
    restored: &Restored,
    data_directory: &Path,
    system: SystemIdentifier,
) -> Result<()> {
    if restored.files != backup.totals.files || restored.bytes != backup.whole_bytes() {
        return Err(Error::damaged(format!(
            "the backup's index lists {} files with {} bytes, its manifest {} with {}",
            restored.files,
            restored.bytes,
            backup.totals.files,
            backup.whole_bytes()
        )));
    }
    let control = ControlFile::parse(&restored.control_file, backup.assumed_version()?)
        .context(|| "the backup's pg_control cannot be used")?;
    if control.system != system {
        return Err(Error::damaged(format!(
            "the backup's pg_control has system identifier {}",
            control.system
        )));
    }
    // Without it, recovery would begin at the wrong checkpoint and end in a cluster that is silently damaged.
    let recorded = without_incremental_from(backup.backup_label.as_bytes());
    let label = read_restored(&data_directory.join("backup_label"), recorded.len() as u64)?;
    if label.as_deref() != Some(&recorded) {
        return Err(Error::damaged(
            "the backup's backup_label differs from the one recorded in its manifest",
        ));
    }
    Ok(())
}

/// Links the tablespaces, and tells the server the same: it makes the links anew from `tablespace_map`, which would lead to
/// the original's directories.
fn place_tablespaces(disk: &dyn Disk, plan: &RecoveryPlan) -> Result<()> {
    let places = &plan.places;
    for tablespace in places.tablespaces() {
        let link = places.link(tablespace);
        disk.create_link(&tablespace.new, &link)
            .context(|| format!("could not create link \"{}\"", link.display()))?;
    }
    let map_path = places.data_directory().join("tablespace_map");
    // The server wrote its map when the backup began. A tablespace that was dropped before the files were listed is in it
    // and not in the backup, and its link would lead to the original's directory, whoever uses that now.
    if places.tablespaces().is_empty() && plan.backup.tablespace_map.is_none() {
        return Ok(());
    }
    let map = places.tablespace_map(plan.backup.major_version()?)?;
    durable::replace_file(disk, &map_path, &map, FILE_MODE)
}

/// Leaves copies of the configuration files that lay outside beside the data directory; that of `pg_hba.conf`.
fn copy_configuration_files(disk: &dyn Disk, plan: &RecoveryPlan) -> Result<Option<Vec<u8>>> {
    let mut access = None;
    let copies: Vec<(&StoredConfigurationFile, &[u8])> = plan
        .backup
        .configuration_files
        .iter()
        .filter_map(|file| Some((file, file.content.as_ref()?.as_bytes())))
        .collect();
    for (file, content) in copies {
        let original = Path::new(OsStr::from_bytes(file.path.as_bytes()));
        // The place of a copy is that of its original, below our directory.
        let below: PathBuf = original
            .components()
            .filter_map(|part| match part {
                Component::Normal(part) => Some(part),
                _ => None,
            })
            .collect();
        let root = &plan.configuration_copies;
        let copy = root.join(&below);
        let base = durable::parent_directory(root);
        let parent = durable::parent_directory(&copy).strip_prefix(base).unwrap_or(Path::new(""));
        durable::create_directories(disk, base, parent, DIRECTORY_MODE)?;
        durable::replace_file(disk, &copy, content, FILE_MODE)?;
        if original.file_name() == Some(OsStr::new("pg_hba.conf")) {
            access = Some(content.to_vec());
        }
    }
    Ok(access)
}

/// The directory that the restored `postgresql.conf` sends the server to, if that is another one.
fn configured_data_directory(data_directory: &Path) -> Result<Option<PathBuf>> {
    let content = read_restored(&data_directory.join("postgresql.conf"), configure::CONFIGURATION_BYTES_MAX)?;
    let named =
        content.and_then(|content| configure::value_in(&content, "data_directory")).map(PathBuf::from);
    Ok(named.filter(|named| named != data_directory))
}
