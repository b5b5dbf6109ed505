//! Checks a request before the repository is read, and a plan before it is carried out.

use super::databases::OmittedDatabases;
use super::planned::RecoveryPlan;
use super::request::{Mode, RecoverRequest};
use crate::config::RepositoryUrl;
use crate::durable::parent_directory;
use crate::error::{Error, Result};
use crate::postgres::Oid;
use crate::recover::place::destinations::Destinations;
use crate::recover::place::space::{SpaceNeed, check_space};
use crate::recover::place::staging::{Found, refuse_nested};
use crate::recover::server::settings::Archiving;
use crate::recover::server::standby::Role;
use crate::repository::Repository;
use crate::repository::backup::manifest::StoredBackup;
use crate::repository::backup::{Chain, IndexEntry, open_index};
use crate::spool::Spool;
use nix::unistd::{AccessFlags, access};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Checks that the directories around the destination suit it.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage).
pub fn check_surroundings(request: &RecoverRequest) -> Result<()> {
    check_beside(&request.data_directory)?;
    check_nested(request)
}

/// Checks that the host can hold what the plan restores.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage): too little space, or the path of the spool is too long; those
/// of the store.
pub fn check_plan(plan: &RecoveryPlan, repository: &Repository) -> Result<()> {
    let (chain, left_out, destinations) = (&plan.chain, &plan.left_out, &plan.destinations);
    check_space(&space_needs(
        repository,
        chain,
        left_out,
        destinations,
        plan.found,
        &plan.tablespaces_found,
    )?)?;
    Spool::of(&plan.config).map_err(|error| error.hint("Choose a shorter path with --spool-directory."))?;
    Ok(())
}

/// Rejects a partial recovery with `--delta`, as a standby, or with archiving: an incomplete cluster must not take
/// the place of a complete one.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage).
pub fn check_options(request: &RecoverRequest) -> Result<()> {
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

/// Rejects a destination inside the original's directories, where the copy would be backed up, served or
/// removed with the original.
fn check_nested(request: &RecoverRequest) -> Result<()> {
    let (target, config) = (&request.data_directory, &request.config);
    let original = &config.data_directory;
    if target != original {
        refuse_nested(target, original, "the data directory of the original cluster")?;
        for link in fs::read_dir(original.join("pg_tblspc")).into_iter().flatten().flatten() {
            if let Ok(directory) = fs::read_link(link.path()) {
                refuse_nested(target, &directory, "a tablespace of the original cluster")?;
            }
        }
    }
    match &config.repository.url {
        RepositoryUrl::Directory(root) => refuse_nested(target, root, "the repository"),
        RepositoryUrl::S3 { .. } => Ok(()),
    }
}

/// Space needed in each directory, from the packs or, for an incremental backup, from its index; plus a few
/// WAL segments.
fn space_needs(
    repository: &Repository,
    chain: &Chain,
    left_out: &OmittedDatabases,
    destinations: &Destinations,
    found: Found,
    tablespaces_found: &[Found],
) -> Result<Vec<SpaceNeed>> {
    /// Number of segments present at the same time during recovery: the one being read and those
    /// preallocated.
    const SEGMENTS_BESIDE: u64 = 4;
    let backup = chain.newest();
    let whole = match chain.increments() > 0 || !left_out.is_empty() {
        true => Some(whole_by_place(repository, backup, left_out, destinations)?),
        false => None,
    };
    let packed = |oid: Option<Oid>| -> u64 {
        if let Some(whole) = &whole {
            return whole.get(&oid).copied().unwrap_or_default();
        }
        // Saturates, because a forged manifest may contain any number.
        let packs = backup.packs.iter().filter(|pack| pack.tablespace == oid);
        packs.map(|pack| pack.raw_bytes).fold(0, u64::saturating_add)
    };
    let wal = u64::from(backup.server.wal_segment_bytes).saturating_mul(SEGMENTS_BESIDE);
    let mut needs = vec![SpaceNeed {
        directory: destinations.data_directory().to_owned(),
        bytes: packed(None).saturating_add(wal),
        found,
    }];
    for (tablespace, found) in destinations.tablespaces().iter().zip(tablespaces_found) {
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
    left_out: &OmittedDatabases,
    destinations: &Destinations,
) -> Result<BTreeMap<Option<Oid>, u64>> {
    let mut index = open_index(repository, backup)?;
    let mut whole: BTreeMap<Option<Oid>, u64> = BTreeMap::new();
    while let Some(entry) = index.next_entry()? {
        let IndexEntry::File(file) = entry else { continue };
        if left_out.is_omitted(file.path.as_bytes()) {
            continue;
        }
        let bytes = whole.entry(destinations.tablespace_of(file.path.as_bytes())).or_default();
        *bytes = bytes.saturating_add(file.whole_bytes());
    }
    Ok(whole)
}
