//! Restores a cluster as planned: files, tablespaces, configuration.
//!
//! [`restore`] claims the directories, restores and verifies every file, configures the server, makes all of it
//! durable and installs `pg_control` last. Until then no server starts from the directory, and the same command, run
//! again, starts over.

mod existing;
mod file_output;
mod files;
mod forecast;
mod manifest;
mod shares;

pub use files::Kept;
pub use forecast::{DeltaForecast, forecast};

use crate::durable::{self, Disk};
use crate::error::{Context, Error, Result};
use crate::monitor::{CommandStep, MeasuredWork, Monitor};
use crate::pace::Pace;
use crate::postgres::backup::label::without_incremental_from;
use crate::postgres::{ControlFile, SystemIdentifier};
use crate::recover::place::read_restored;
use crate::recover::place::staging::{DIRECTORY_MODE, Found, Staging};
use crate::recover::plan::{ConfigFile, RecoveryPlan};
use crate::recover::server::settings;
use crate::repository::Repository;
use crate::repository::backup::manifest::{StoredBackup, StoredConfigurationFile};
use files::Restored;
use std::ffi::OsStr;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Permissions of the files written beside the data directory.
const FILE_MODE: u32 = 0o600;

/// Result of a restore.
#[derive(Clone, Debug)]
pub struct RecoverySummary {
    /// Number of files restored.
    pub files: u64,
    /// Their total size in bytes.
    pub bytes: u64,
    /// How much existing content was kept, if the restore replaced a data directory.
    pub kept: Option<Kept>,
    /// Whether a `postgresql.conf` was written, because the original's lay outside the data directory.
    pub wrote_configuration: bool,
    /// The `data_directory` that the restored configuration names, if any; the server would use it instead.
    pub configured_data_directory: Option<PathBuf>,
}

/// Executes the plan. On return, the cluster is durable and ready to start.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) if a backup does not match its manifest; those of
/// the store and the operating system. After an error no server starts from the remains, and running the same
/// command again clears them.
pub fn restore(
    plan: &RecoveryPlan,
    repository: &Repository,
    workers: NonZeroUsize,
    pace: &Pace,
    disk: &dyn Disk,
    monitor: &dyn Monitor,
) -> Result<RecoverySummary> {
    let destinations = &plan.destinations;
    let data_directory = destinations.data_directory();
    let tablespace_directories: Vec<&Path> =
        destinations.tablespaces().iter().map(|tablespace| tablespace.new.as_path()).collect();
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
    for (tablespace, found) in destinations.tablespaces().iter().zip(&plan.tablespaces_found) {
        claimed_tablespaces.push(Staging::claim(disk, &tablespace.new, *found, plan.directory_mode())?);
    }

    // Opened before the first write: the kernel reports a failed write only to descriptors that are open by
    // then.
    let roots =
        destinations.tablespaces().iter().map(|tablespace| tablespace.new.as_path()).chain([data_directory]);
    let wal_elsewhere = wal_elsewhere(data_directory);
    let opened = roots
        .chain(wal_elsewhere.as_deref())
        .map(|path| {
            Ok((path, File::open(path).context(|| format!("could not open \"{}\"", path.display()))?))
        })
        .collect::<Result<Vec<_>>>()?;

    let work = MeasuredWork::RestoringBackup { label: plan.backup.label.as_str() };
    let restored = monitor.during(work, Some(plan.backup.whole_bytes()), || {
        files::restore_files(repository, plan, workers, pace, disk, monitor)
    })?;
    check_restored(&plan.backup, &restored, data_directory, plan.system)?;

    monitor.step(CommandStep::ConfiguringRecovery);
    place_tablespaces(disk, plan)?;
    let access = copy_configuration_files(disk, plan)?;
    let wrote_configuration = settings::complete_configuration(
        disk,
        data_directory,
        &plan.configuration_copies,
        access.as_deref(),
    )?;
    settings::configure(disk, data_directory, &plan.settings)?;
    if plan.config_file == ConfigFile::OfCopy {
        durable::replace_file(disk, &plan.config_path, plan.config.to_toml().as_bytes(), FILE_MODE)?;
    }

    monitor.step(CommandStep::SyncingRestoredFiles);
    for (path, opened) in &opened {
        disk.sync_file_system(opened).context(|| format!("could not make \"{}\" durable", path.display()))?;
    }
    claimed.name_tablespaces(disk, &tablespace_directories)?;
    // Must happen before a server can start: a marker in a tablespace in use would let another recovery clear
    // it.
    for tablespace in claimed_tablespaces {
        tablespace.release(disk)?;
    }
    // From here on a server can start.
    let control_path = data_directory.join(OsStr::from_bytes(files::CONTROL_FILE));
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

/// The target of `pg_wal` if it lies on another disk, hence another file system. Only a kept data directory
/// has such a link.
fn wal_elsewhere(data_directory: &Path) -> Option<PathBuf> {
    let wal = data_directory.join("pg_wal");
    let is_link = std::fs::symlink_metadata(&wal).is_ok_and(|metadata| metadata.is_symlink());
    if is_link { std::fs::canonicalize(wal).ok() } else { None }
}

/// Checks that the restored cluster is the requested one, and complete where a server would not notice gaps.
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
    // Without it, recovery would begin at the wrong checkpoint and silently produce a damaged cluster.
    let recorded = without_incremental_from(backup.backup_label.as_bytes());
    let label = read_restored(&data_directory.join("backup_label"), recorded.len() as u64)?;
    if label.as_deref() != Some(&recorded) {
        return Err(Error::damaged(
            "the backup's backup_label differs from the one recorded in its manifest",
        ));
    }
    Ok(())
}

/// Links the tablespaces and writes a matching `tablespace_map`. The server recreates the links from that
/// map, and the backup's would lead to the original's directories.
fn place_tablespaces(disk: &dyn Disk, plan: &RecoveryPlan) -> Result<()> {
    let destinations = &plan.destinations;
    for tablespace in destinations.tablespaces() {
        let link = destinations.link(tablespace);
        disk.create_link(&tablespace.new, &link)
            .context(|| format!("could not create link \"{}\"", link.display()))?;
    }
    let map_path = destinations.data_directory().join("tablespace_map");
    // The server wrote its map when the backup began. It still contains a tablespace that was dropped before
    // the files were listed, and the link would lead to the original's directory, whatever uses that now.
    if destinations.tablespaces().is_empty() && plan.backup.tablespace_map.is_none() {
        return Ok(());
    }
    let map = destinations.tablespace_map(plan.backup.major_version()?)?;
    durable::replace_file(disk, &map_path, &map, FILE_MODE)
}

/// Writes copies of the configuration files that lay outside the data directory beside it; returns the one of
/// `pg_hba.conf`.
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
        // A copy keeps the path of its original, below this directory.
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

/// The directory that the restored `postgresql.conf` directs the server to, if it is another one.
fn configured_data_directory(data_directory: &Path) -> Result<Option<PathBuf>> {
    let content = read_restored(&data_directory.join("postgresql.conf"), settings::CONFIGURATION_BYTES_MAX)?;
    let named = content.and_then(|content| settings::value_in(&content, "data_directory")).map(PathBuf::from);
    Ok(named.filter(|named| named != data_directory))
}
