//! Plans a recovery: what is restored where, and how the server is configured. Writes nothing.

use super::choice::BackupCandidate;
use super::collations;
use super::configure::{Archiving, Part, RecoverySettings, RecoveryWay, restore_command};
use super::databases::LeftOut;
use super::host_configuration::{Destination, archiving_note, own_configuration, place as place_of};
use super::places::Places;
use super::space::{SpaceNeed, check_space};
use super::staging::{
    DIRECTORY_MODE, Found, GROUP_DIRECTORY_MODE, examine_data_directory, examine_for_delta,
    examine_tablespace, examine_tablespace_for_delta, refuse_nested, refuse_shared,
};
use super::standby::{Role, StandbySettings};
use super::tablespaces::{TablespaceMapping, in_place_note, place, tablespaces_in_place};
use super::target::{Consent, Goal, TargetPlan, TargetRequest, plan_target};
use crate::config::{Config, RepositoryUrl};
use crate::data_directory::DataDirectory;
use crate::durable::parent_directory;
use crate::error::{Error, ErrorKind, Result};
use crate::monitor::Monitor;
use crate::postgres::tablespace_map::parse_tablespace_map;
use crate::postgres::{
    ClusterState, RecoveryTarget, SegmentSize, SystemIdentifier, TargetAction, TargetSettings, TargetTimeline,
};
use crate::repository::Repository;
use crate::repository::backup::manifest::StoredBackup;
use crate::repository::backup::{Chain, IndexEntry, check_objects, inventory, open_index};
use crate::repository::wal::RepositoryArchive;
use crate::server::c_library;
use crate::spool::Spool;
use nix::unistd::{AccessFlags, access};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A recovery as the operator requests it.
#[derive(Clone, Debug)]
pub struct RecoverRequest {
    /// The recovery target.
    pub target: TargetRequest,
    /// The configuration of the original, or what is known of it.
    pub config: Config,
    /// The destination of the cluster, an absolute path.
    pub data_directory: PathBuf,
    /// The spool of its agent; `None` places it beside the data directory.
    pub spool_directory: Option<PathBuf>,
    /// The destinations of tablespaces.
    pub mappings: Vec<TablespaceMapping>,
    /// Role of the server after recovery.
    pub role: Role,
    /// What may already exist at the destination.
    pub mode: Mode,
    /// The databases to restore besides the system databases; empty means all.
    pub databases: Vec<String>,
    /// Whether the cluster archives after recovery.
    pub archiving: Archiving,
    /// The program that its `restore_command` calls, an absolute path.
    pub archive_get: PathBuf,
}

/// What may exist in the destination directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: the directories must be empty or absent.
    Fresh,
    /// A cluster of the same system, whose matching content is kept.
    Delta,
}

/// A complete recovery plan.
#[derive(Clone, Debug)]
pub struct RecoveryPlan {
    /// The backup, and where recovery ends.
    pub target: TargetPlan,
    /// The backup's manifest and what it refers to.
    pub backup: StoredBackup,
    /// The backup with the earlier ones that it depends on.
    pub chain: Chain,
    /// The databases that are not restored.
    pub left_out: LeftOut,
    /// System identifier of the cluster.
    pub system: SystemIdentifier,
    /// The destination of every path.
    pub places: Places,
    /// What the data directory contains now.
    pub found: Found,
    /// What the tablespaces' directories contain now, in the same order.
    pub tablespaces_found: Vec<Found>,
    /// The settings for the server.
    pub settings: RecoverySettings,
    /// The configuration of the recovered cluster, not written yet.
    pub config: Config,
    /// The file that the archive programs of the recovered cluster read.
    pub config_path: PathBuf,
    /// Whether that file is the host's own, or one written beside the data directory.
    pub config_file: ConfigFile,
    /// The directory for copies of configuration files that lay outside the original's data directory.
    pub configuration_copies: PathBuf,
    /// Warnings to show before the recovery starts.
    pub warnings: Vec<String>,
}

/// Origin of a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigFile {
    /// The host's own file, which stays unchanged.
    OfHost,
    /// A file of the recovered cluster, which will be written.
    OfCopy,
}

impl RecoveryPlan {
    /// The `restore_command` for a standby in this place.
    ///
    /// # Errors
    /// As [`restore_command`].
    pub fn restore_command_of_standby(&self, archive_get: &Path) -> Result<String> {
        let role = Role::Standby(StandbySettings { primary: None, apply_delay: None });
        let way = RecoveryWay { timeline: self.target.history.timeline(), proven_end: None };
        restore_command(archive_get, &self.config_path, &role, &RecoveryTarget::Latest, way)
    }

    /// The permissions of the data directory and the tablespaces' directories. The group may read if it could
    /// in the original (`initdb --allow-group-access`), because the modes of all other files follow from
    /// these.
    pub fn directory_mode(&self) -> u32 {
        match self.backup.settings.get("data_directory_mode").map(String::as_str) {
            Some("0750") => GROUP_DIRECTORY_MODE,
            _ => DIRECTORY_MODE,
        }
    }
}

/// Makes the plan.
///
/// # Errors
/// Everything that would keep the recovery from working, as far as it can be known: see [`plan_target`], the staging
/// directories and the space for them.
pub fn plan(
    request: &RecoverRequest,
    repository: &Repository,
    monitor: &dyn Monitor,
) -> Result<RecoveryPlan> {
    repository.check()?;
    check_part(request)?;
    // Checks that need no WAL come first.
    let found = match request.mode {
        Mode::Fresh => examine_data_directory(&request.data_directory)?,
        // Verified once the backup is known.
        Mode::Delta => Found::Kept,
    };
    check_beside(&request.data_directory)?;
    check_nested(request)?;
    let (backups, mut damaged) = inventory::read_usable(repository)?;
    let mut chains = Vec::new();
    for backup in &backups {
        match check_assumption(request, backup).and_then(|()| Chain::of(backup, &backups)) {
            Ok(chain) => chains.push(chain),
            Err(error) => damaged.push((backup.label.clone(), error)),
        }
    }
    let mut unusable: Vec<String> =
        damaged.iter().map(|(label, error)| format!("backup {label} is not considered: {error}")).collect();
    let is_wanted = |label: &str| request.target.backup.as_ref().is_some_and(|wanted| wanted == label);
    let meant = damaged.into_iter().find(|(label, _)| chains.is_empty() || is_wanted(label.as_str()));
    if let Some((_, error)) = meant {
        return Err(error);
    }
    monitor.begin("reading WAL to determine where recovery ends", 0);
    let target = plan_with_sizes(&request.target, &chains, repository, monitor);
    monitor.end();
    let target = target?;
    let chain = chains.into_iter().find(|chain| chain.newest().label.as_str() == target.backup);
    let chain = chain.ok_or_else(|| Error::damaged("the chosen backup is not in the repository"))?;
    for member in chain.members() {
        check_objects(repository, member)?;
    }
    let backup = chain.newest().clone();
    let left_out = LeftOut::of(&backup, &request.databases)?;
    let found = match request.mode {
        Mode::Fresh => found,
        Mode::Delta => {
            examine_for_delta(&request.data_directory, repository.layout().system(), backup.major_version()?)?
        }
    };
    if found == Found::Kept {
        refuse_shared(&request.data_directory, Path::new("pg_wal"), &request.config.data_directory)?;
    }
    check_newer_tablespaces(request, &backup, repository.layout().system())?;

    let tablespaces = place(&backup.tablespaces, &request.mappings, &request.data_directory)?;
    let mut tablespaces_found = Vec::new();
    for tablespace in &tablespaces {
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
        tablespaces_found.push(examined.map_err(|error| {
            let error = error.context(format!("tablespace \"{}\" has no usable directory", tablespace.name));
            if tablespace.new == tablespace.old {
                error.hint(format!(
                    "It may belong to the original. Choose another directory: --tablespace-mapping {}=/new/directory",
                    tablespace.old.display()
                ))
            } else {
                error
            }
        })?);
    }
    let places = Places::new(request.data_directory.clone(), tablespaces);
    check_space(&space_needs(repository, &chain, &left_out, &places, found, &tablespaces_found)?)?;

    let system = repository.layout().system();
    let destination = Destination {
        data_directory: &request.data_directory,
        spool_directory: request.spool_directory.as_deref(),
        system,
    };
    let (config_path, config_file) = match own_configuration(&request.config, destination) {
        Some(path) => (path, ConfigFile::OfHost),
        None => (beside(&request.data_directory, "", ".pgark.toml"), ConfigFile::OfCopy),
    };
    let place = place_of(
        &request.config,
        &request.data_directory,
        request.archiving,
        &request.archive_get,
        &config_path,
    )?;
    let spool = request
        .spool_directory
        .clone()
        .unwrap_or_else(|| beside(&request.data_directory, ".", ".pgark-spool"));
    let config = request.config.of_recovered(&request.data_directory, &spool, system)?;
    Spool::of(&config).map_err(|error| error.hint("Choose a shorter path with --spool-directory."))?;
    let settings = RecoverySettings {
        restore_command: restore_command(
            &request.archive_get,
            &config_path,
            &request.role,
            &target.settings.target,
            RecoveryWay {
                timeline: target.history.timeline(),
                proven_end: target.expected.unproven.is_none().then_some(target.last_segment),
            },
        )?,
        target: target_settings(&target, &request.role),
        role: request.role.clone(),
        archiving: request.archiving,
        place,
        part: if left_out.is_empty() { Part::Whole } else { Part::SomeDatabases },
        in_place_tablespaces: target.new_in_place_tablespace
            || tablespaces_in_place(&backup).next().is_some(),
        limits: target.limits.map_or(backup.limits(), |raised| raised.max(backup.limits())),
        version: backup.major_version()?,
    };
    let configuration_copies = beside(&request.data_directory, "", ".configuration");
    let mut warnings = warnings(&target, &backup, &configuration_copies);
    let version = backup.server_version()?;
    if version.is_assumed() {
        warnings.push(format!("pgark does not know this version: PostgreSQL {version}"));
    }
    warnings.extend(collations::note(&backup, c_library::of_host().as_deref(), &request.role));
    warnings.extend(settings.in_place_tablespaces.then(|| in_place_note(&backup)));
    warnings.append(&mut unusable);
    warnings.extend(part_warning(&left_out));
    if found == Found::Kept {
        warnings.extend(lost_wal(&request.data_directory));
        warnings.extend(lost_end_of_wal(&request.data_directory));
    }
    warnings.extend(archiving_note(&settings.place));
    Ok(RecoveryPlan {
        target,
        backup,
        chain,
        left_out,
        system,
        places,
        found,
        tablespaces_found,
        settings,
        config,
        config_path,
        config_file,
        configuration_copies,
        warnings,
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

/// The server's target settings. A standby has none: it follows every promotion.
fn target_settings(target: &TargetPlan, role: &Role) -> TargetSettings {
    match role {
        Role::Recovered => target.settings.clone(),
        Role::Standby(_) => TargetSettings {
            timeline: TargetTimeline::Latest,
            action: TargetAction::Pause,
            ..target.settings.clone()
        },
    }
}

impl From<&StoredBackup> for BackupCandidate {
    fn from(backup: &StoredBackup) -> BackupCandidate {
        BackupCandidate {
            label: backup.label.to_string(),
            timeline: backup.stop.timeline,
            start_point: backup.start.lsn,
            stop_point: backup.stop.lsn,
            stop_time: backup.stop.time,
        }
    }
}

/// Rejects a destination inside the original's directories, where the copy would be backed up, served or
/// removed with the original.
fn check_nested(request: &RecoverRequest) -> Result<()> {
    let (target, config) = (&request.data_directory, &request.config);
    let original = &config.data_directory;
    if target != original {
        refuse_nested(target, original, "the data directory of the original")?;
        for link in fs::read_dir(original.join("pg_tblspc")).into_iter().flatten().flatten() {
            if let Ok(directory) = fs::read_link(link.path()) {
                refuse_nested(target, &directory, "a tablespace of the original")?;
            }
        }
    }
    match &config.repository.url {
        RepositoryUrl::Directory(root) => refuse_nested(target, root, "the repository"),
        RepositoryUrl::S3 { .. } => Ok(()),
    }
}

/// A sibling path of `directory`, with its name between `prefix` and `suffix`.
fn beside(directory: &Path, prefix: &str, suffix: &str) -> PathBuf {
    let mut name = OsString::from(prefix);
    name.push(directory.file_name().unwrap_or_default());
    name.push(suffix);
    parent_directory(directory).join(name)
}

/// Checks that the configuration and the spool can be created beside the data directory.
fn check_beside(data_directory: &Path) -> Result<()> {
    let parent = parent_directory(data_directory);
    if data_directory.file_name().is_none() {
        return Err(Error::usage(format!("\"{}\" cannot be a data directory", data_directory.display())));
    }
    if data_directory.as_os_str().as_bytes().iter().any(|byte| b"\n\r".contains(byte)) {
        return Err(Error::usage(format!(
            "{data_directory:?} cannot be a data directory: its path contains a line break"
        ))
        .hint(
            "PostgreSQL writes the path as one line of postmaster.pid. Choose a path without a line break.",
        ));
    }
    access(parent, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|_| {
        Error::usage(format!("directory \"{}\" is not writable for this user", parent.display())).hint(
            "The configuration and the spool of the recovered cluster are placed beside its data directory. Choose a target \
             directory one level deeper, or let the server's user write to that directory.",
        )
    })
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
                    "\"{}\" is a tablespace of the original, created after backup {}: recovery would write into it",
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

/// Space needed in each directory, from the packs or, for an incremental backup, from its index; plus a few
/// WAL segments.
fn space_needs(
    repository: &Repository,
    chain: &Chain,
    left_out: &LeftOut,
    places: &Places,
    found: Found,
    tablespaces_found: &[Found],
) -> Result<Vec<SpaceNeed>> {
    /// Number of segments present at the same time during recovery: the one being read and those
    /// preallocated.
    const SEGMENTS_BESIDE: u64 = 4;
    let backup = chain.newest();
    let whole = match chain.increments() > 0 || !left_out.is_empty() {
        true => Some(whole_by_place(repository, backup, left_out, places)?),
        false => None,
    };
    let packed = |oid: Option<u32>| -> u64 {
        if let Some(whole) = &whole {
            return whole.get(&oid).copied().unwrap_or_default();
        }
        // Saturates, because a forged manifest may contain any number.
        let packs = backup.packs.iter().filter(|pack| pack.tablespace == oid);
        packs.map(|pack| pack.raw_bytes).fold(0, u64::saturating_add)
    };
    let wal = u64::from(backup.server.wal_segment_bytes).saturating_mul(SEGMENTS_BESIDE);
    let mut needs = vec![SpaceNeed {
        directory: places.data_directory().to_owned(),
        bytes: packed(None).saturating_add(wal),
        found,
    }];
    for (tablespace, found) in places.tablespaces().iter().zip(tablespaces_found) {
        let bytes = packed(Some(tablespace.oid));
        needs.push(SpaceNeed { directory: tablespace.new.clone(), bytes, found: *found });
    }
    Ok(needs)
}

/// Bytes of an incremental backup for each tablespace outside the data directory, and for the data directory
/// (`None`).
fn whole_by_place(
    repository: &Repository,
    backup: &StoredBackup,
    left_out: &LeftOut,
    places: &Places,
) -> Result<BTreeMap<Option<u32>, u64>> {
    let mut index = open_index(repository, backup)?;
    let mut whole: BTreeMap<Option<u32>, u64> = BTreeMap::new();
    while let Some(entry) = index.next_entry()? {
        let IndexEntry::File(file) = entry else { continue };
        if left_out.empties(file.path.as_bytes()) {
            continue;
        }
        let bytes = whole.entry(places.tablespace_of(file.path.as_bytes())).or_default();
        *bytes = bytes.saturating_add(file.whole_bytes());
    }
    Ok(whole)
}

/// Rejects a partial recovery with `--delta`, as a standby, or with archiving: an incomplete cluster must not take
/// the place of a complete one.
fn check_part(request: &RecoverRequest) -> Result<()> {
    if request.databases.is_empty() {
        return Ok(());
    }
    let refused = |option: &str, why: &str| {
        Err(Error::usage(format!("--database cannot be combined with {option}: {why}"))
            .hint("Restore the databases into a separate directory, and copy them from there with pg_dump."))
    };
    if request.mode == Mode::Delta {
        return refused("--delta", "the other databases in the directory would be emptied");
    }
    if request.role != Role::Recovered {
        return refused(
            "--standby",
            "a standby without its other databases must not take its primary's place",
        );
    }
    if request.archiving == Archiving::On {
        return refused(
            "--archiving on",
            "a cluster without its other databases must not continue the archive",
        );
    }
    Ok(())
}

/// A warning about the omitted databases.
fn part_warning(left_out: &LeftOut) -> Option<String> {
    if left_out.is_empty() {
        return None;
    }
    let names: Vec<_> = left_out.names().map(|name| format!("\"{name}\"")).collect();
    Some(format!(
        "only empty files are restored of {}: do not connect to them, nor to databases that were created from them after the \
         backup; after the recovery, run: {}",
        names.join(", "),
        left_out.commands().join(" ")
    ))
}

/// A warning about WAL that exists only in the data directory to be overwritten.
fn lost_wal(data_directory: &Path) -> Option<String> {
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
fn lost_end_of_wal(data_directory: &Path) -> Option<String> {
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

fn warnings(target: &TargetPlan, backup: &StoredBackup, copies: &Path) -> Vec<String> {
    let mut warnings = target.warnings.clone();
    if let Some(reason) = &target.expected.unproven {
        warnings.push(format!("it is not proven that the target can be reached: {reason}"));
    }
    if backup.damaged_pages.count > 0 {
        warnings.push(format!(
            "the backup holds {} pages that were already damaged in the original",
            backup.damaged_pages.count
        ));
    }
    if backup.lacks_visibility_maps() {
        warnings.push(
            "the cluster had no data checksums, so its incremental backups hold no visibility maps: run VACUUM afterwards, or \
             index-only scans are slow"
                .to_owned(),
        );
    }
    for file in &backup.configuration_files {
        let path = &file.path;
        warnings.push(match &file.content {
            Some(_) => {
                format!(
                    "\"{path}\" was outside the data directory; a copy is written to \"{}\"",
                    copies.display()
                )
            }
            None => format!("\"{path}\" was outside the data directory, and the backup has no copy of it"),
        });
    }
    warnings
}
