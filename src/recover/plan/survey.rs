//! Reads the repository and the host: all input of the decisions, and the checks that need nothing else.

use super::databases::OmittedDatabases;
use super::host_configuration::{Destination, own_configuration};
use super::request::{Mode, RecoverRequest};
use crate::data_directory::DataDirectory;
use crate::error::{Error, ErrorKind, Result};
use crate::monitor::{MeasuredWork, Monitor};
use crate::postgres::backup::tablespace_map::parse_tablespace_map;
use crate::postgres::{ClusterState, RecoveryTarget, SegmentSize, SystemIdentifier};
use crate::recover::place::destinations::Destinations;
use crate::recover::place::staging::{
    Found, examine_data_directory, examine_for_delta, examine_tablespace, examine_tablespace_for_delta,
    refuse_shared,
};
use crate::recover::place::tablespaces::{TablespacePlace, place};
use crate::recover::target::choice::BackupCandidate;
use crate::recover::target::{Consent, Goal, TargetPlan, TargetRequest, plan_target};
use crate::repository::Repository;
use crate::repository::backup::manifest::StoredBackup;
use crate::repository::backup::{Chain, check_objects, inventory};
use crate::repository::wal::RepositoryArchive;
use crate::server::c_library;
use std::fs;
use std::path::{Path, PathBuf};

/// What the repository and the host hold.
#[derive(Debug)]
pub struct Survey {
    /// The backup, and where recovery ends.
    pub target: TargetPlan,
    /// The backup with the earlier ones that it depends on.
    pub chain: Chain,
    /// The databases that are not restored.
    pub left_out: OmittedDatabases,
    /// The system identifier of the cluster.
    pub system: SystemIdentifier,
    /// The destination of every path.
    pub destinations: Destinations,
    /// What the data directory contains now.
    pub found: Found,
    /// What the tablespaces' directories contain now, in the same order.
    pub tablespaces_found: Vec<Found>,
    /// The host's own configuration file, if the recovered cluster can use it unchanged.
    pub own_configuration: Option<PathBuf>,
    /// The version of this host's C library, if known.
    pub c_library: Option<String>,
    /// Warnings about backups that cannot be used.
    pub unusable: Vec<String>,
    /// Warnings about WAL that exists only in the data directory to be overwritten.
    pub lost: Vec<String>,
}

impl Survey {
    /// The backup to restore.
    pub fn backup(&self) -> &StoredBackup {
        self.chain.newest()
    }
}

/// What the data directory contains, before any WAL is read. With `--delta` it is examined once the backup is known.
///
/// # Errors
/// Those of [`examine_data_directory`].
pub fn destination(request: &RecoverRequest) -> Result<Found> {
    match request.mode {
        Mode::Fresh => examine_data_directory(&request.data_directory),
        Mode::Delta => Ok(Found::Kept),
    }
}

/// Reads everything else, and changes nothing; `found` is the result of [`destination`].
///
/// # Errors
/// See [`plan`](super::plan).
pub fn survey(
    request: &RecoverRequest,
    found: Found,
    repository: &Repository,
    monitor: &dyn Monitor,
) -> Result<Survey> {
    let Usable { chains, unusable } = usable(request, repository)?;
    let target = monitor.during(MeasuredWork::ReadingWal, None, || {
        plan_with_sizes(&request.target, &chains, repository, monitor)
    })?;
    let chain = chains.into_iter().find(|chain| chain.newest().label.as_str() == target.backup);
    let chain = chain.ok_or_else(|| Error::damaged("the chosen backup is not in the repository"))?;
    for member in chain.members() {
        check_objects(repository, member)?;
    }
    let backup = chain.newest();
    let left_out = OmittedDatabases::of(backup, &request.databases)?;
    let system = repository.layout().system();
    let found = match request.mode {
        Mode::Fresh => found,
        Mode::Delta => examine_for_delta(&request.data_directory, system, backup.major_version()?)?,
    };
    if found == Found::Kept {
        refuse_shared(&request.data_directory, Path::new("pg_wal"), &request.config.data_directory)?;
    }
    check_newer_tablespaces(request, backup, system)?;
    let tablespaces = place(&backup.tablespaces, &request.mappings, &request.data_directory)?;
    let tablespaces_found = tablespaces
        .iter()
        .map(|tablespace| examine_place(request, tablespace, found))
        .collect::<Result<Vec<_>>>()?;
    let mut lost = Vec::new();
    if found == Found::Kept {
        lost.extend(unarchived_files_warning(&request.data_directory));
        lost.extend(unclean_shutdown_warning(&request.data_directory));
    }
    let destination = Destination {
        data_directory: &request.data_directory,
        spool_directory: request.spool_directory.as_deref(),
        system,
    };
    Ok(Survey {
        target,
        left_out,
        system,
        destinations: Destinations::new(request.data_directory.clone(), tablespaces),
        found,
        tablespaces_found,
        own_configuration: own_configuration(&request.config, destination),
        c_library: c_library::of_host(),
        unusable,
        lost,
        chain,
    })
}

/// The backups that can be restored, and warnings about the others.
struct Usable {
    chains: Vec<Chain>,
    unusable: Vec<String>,
}

fn usable(request: &RecoverRequest, repository: &Repository) -> Result<Usable> {
    let (backups, mut damaged) = inventory::read_usable(repository)?;
    let mut chains = Vec::new();
    for backup in &backups {
        match check_assumption(request, backup).and_then(|()| Chain::of(backup, &backups)) {
            Ok(chain) => chains.push(chain),
            Err(error) => damaged.push((backup.label.clone(), error)),
        }
    }
    let unusable =
        damaged.iter().map(|(label, error)| format!("backup {label} is not considered: {error}")).collect();
    let is_requested =
        |label: &str| request.target.backup.as_ref().is_some_and(|requested| requested == label);
    match damaged.into_iter().find(|(label, _)| chains.is_empty() || is_requested(label.as_str())) {
        Some((_, error)) => Err(error),
        None => Ok(Usable { chains, unusable }),
    }
}

/// Examines the directory of a tablespace; `found` is what the data directory contains.
fn examine_place(request: &RecoverRequest, tablespace: &TablespacePlace, found: Found) -> Result<Found> {
    let examined = match found {
        Found::Kept => {
            let link = Path::new("pg_tblspc").join(tablespace.oid.to_string());
            let link_path = request.data_directory.join(&link);
            examine_tablespace_for_delta(&tablespace.new, &link_path, &request.data_directory).and_then(
                |found| {
                    if found == Found::Kept {
                        refuse_shared(&request.data_directory, &link, &request.config.data_directory)?;
                    }
                    Ok(found)
                },
            )
        }
        found => examine_tablespace(&tablespace.new, &request.data_directory, found),
    };
    examined.map_err(|error| {
        let error = error.context(format!("tablespace \"{}\" has no usable directory", tablespace.name));
        if tablespace.new == tablespace.old {
            error.hint(format!(
                "It may belong to the original cluster. Choose another directory: --tablespace-mapping {}=/new/directory",
                tablespace.old.display()
            ))
        } else {
            error
        }
    })
}

/// Plans with the backups of one segment size after another, newest size first. `pg_resetwal --wal-segsize`
/// changes the size, and no WAL leads across such a change. An older size can still reach a target that
/// precedes every backup of the newest size.
fn plan_with_sizes(
    request: &TargetRequest,
    chains: &[Chain],
    repository: &Repository,
    monitor: &dyn Monitor,
) -> Result<TargetPlan> {
    let mut sizes: Vec<SegmentSize> = Vec::new();
    let mut candidates: Vec<(SegmentSize, BackupCandidate)> = Vec::new();
    for chain in chains.iter().rev() {
        let size = chain.newest().segment_size()?;
        if !sizes.contains(&size) {
            sizes.push(size);
        }
        candidates.push((size, BackupCandidate::from(chain.newest())));
    }
    let mut first_error = None;
    for size in sizes.iter().copied().chain(sizes.is_empty().then_some(SegmentSize::DEFAULT)) {
        let of_size: Vec<BackupCandidate> =
            candidates.iter().filter(|(of, _)| *of == size).map(|(_, backup)| backup.clone()).collect();
        let wanted = match &request.goal {
            Goal::Target(RecoveryTarget::Xid(xid), _) => Some(*xid),
            _ => None,
        };
        let archive = RepositoryArchive::new(repository, size, monitor).looking_for(wanted);
        match plan_target(request, &of_size, size, &archive) {
            Err(error) if error.kind() == ErrorKind::Absent => first_error = first_error.or(Some(error)),
            planned => return planned,
        }
    }
    Err(first_error.unwrap_or_else(|| Error::absent("the repository holds no backup of this cluster")))
}

/// Checks that the configuration assumes the version needed to read the backup. The archive programs of the
/// recovered cluster inherit the assumption.
fn check_assumption(request: &RecoverRequest, backup: &StoredBackup) -> Result<()> {
    let needed = backup.assumed_version()?;
    if needed.is_none() || needed == request.config.assumed_version {
        return Ok(());
    }
    let version = backup.server_version()?;
    Err(Error::usage(format!(
        "the backup {} is of a version unknown to this pgark: PostgreSQL {version}",
        backup.label
    ))
    .hint(format!(
        "Upgrade pgark on this host, or recover with --assume-version {}, at your own risk.",
        version.formats
    )))
}

/// Refuses a recovery if a tablespace of the original on this host is newer than the backup. The server would
/// create it from WAL, which names only its original location, and would write into the original's directory.
///
/// Source: PostgreSQL `commands/tablespace.c`, `tblspc_redo`; the manual, "Continuous Archiving", "Caveats".
fn check_newer_tablespaces(
    request: &RecoverRequest,
    backup: &StoredBackup,
    system: SystemIdentifier,
) -> Result<()> {
    let original = &request.config.data_directory;
    let is_original = || {
        let original = DataDirectory::open(original)?.assuming(request.config.assumed_version);
        original.control_file().map(|control| control.system == system)
    };
    if request.target.consent == Consent::AcceptUnproven
        || *original == request.data_directory
        || !is_original().unwrap_or(false)
    {
        return Ok(());
    }
    // The server's own map describes the moment at which replay begins. The backup may also contain later
    // tablespaces.
    let map = backup.tablespace_map.as_ref().map(|map| map.as_bytes()).unwrap_or_default();
    let known = parse_tablespace_map(map, backup.major_version()?)?;
    for link in fs::read_dir(original.join("pg_tblspc")).into_iter().flatten().flatten() {
        let is_known = known.iter().any(|known| link.file_name().to_str() == Some(&known.oid.to_string()));
        let Ok(directory) = fs::read_link(link.path()) else { continue };
        if !is_known && directory.exists() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "\"{}\" is a tablespace of the original cluster, created after backup {}: recovery would write into it",
                    directory.display(),
                    backup.label
                ),
            )
            .hint(
                "Take a base backup and recover from it, or recover on another host. If the target precedes the creation of \
                 the tablespace, recovery does not touch it: add --accept-unproven.",
            ));
        }
    }
    Ok(())
}

/// A warning about WAL that exists only in the data directory to be overwritten.
fn unarchived_files_warning(data_directory: &Path) -> Option<String> {
    let status = fs::read_dir(data_directory.join("pg_wal/archive_status")).ok()?;
    let names = status.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut waiting: Vec<String> =
        names.filter_map(|name| name.strip_suffix(".ready").map(str::to_owned)).collect();
    waiting.sort_unstable();
    let first = waiting.first()?;
    Some(format!(
        "{} WAL files in \"{}\" are not archived, from {first} on, and will be removed: store them with archive-push",
        waiting.len(),
        data_directory.join("pg_wal").display()
    ))
}

/// The newest WAL of a server that did not shut down cleanly: no other copy of its current segment is
/// archived. The remains of an unfinished recovery have no `pg_control` and no such WAL.
fn unclean_shutdown_warning(data_directory: &Path) -> Option<String> {
    let control = DataDirectory::open(data_directory).ok()?.control_file().ok()?;
    if matches!(control.state, ClusterState::ShutDown | ClusterState::ShutDownInRecovery) {
        return None;
    }
    Some(format!(
        "the server in \"{0}\" was not shut down cleanly: its newest transactions may exist only in \"{0}/pg_wal\", which will \
         be emptied: to archive them, start and stop the server, or keep a copy",
        data_directory.display()
    ))
}
