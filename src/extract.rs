//! Takes one WAL file out of the repository, to be looked at.
//!
//! Owns: that what is there already is never overwritten. Does not own: recovery, which goes through `archive-get`.

use crate::config::Config;
use crate::data_directory::DataDirectory;
use crate::durable::{Disk, DiskFile, create_file};
use crate::error::{Error, Result};
use crate::postgres::{SystemIdentifier, WalFileName};
use crate::repository::{Repository, systems, wal};
use crate::store::Store;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Permissions of the file: what is in WAL is what is in the database.
const FILE_MODE: u32 = 0o600;

/// A file that was taken out.
#[derive(Debug, Serialize)]
pub struct ExtractedFile {
    /// Its name in the repository.
    pub name: WalFileName,
    /// The system that it is of.
    pub system_identifier: SystemIdentifier,
    /// Where it lies now.
    pub output: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Writes the file `name` to `output`, which must not exist yet: all of it, checked and durable, or nothing.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) when `output` exists,
/// [`ErrorKind::Absent`](crate::error::ErrorKind::Absent) when the repository has said that it does not hold the file;
/// damage, the store's own and the operating system's.
pub fn extract(
    repository: &Repository,
    name: WalFileName,
    output: &Path,
    disk: &dyn Disk,
) -> Result<ExtractedFile> {
    let bytes = create_file(disk, output, FILE_MODE, &mut |file: &mut DiskFile<'_>| {
        match wal::fetch(repository, name, None, file)? {
            Some(fetched) => Ok(fetched.sum.length_bytes),
            // Only a repository that is there can say so.
            None => {
                repository.check()?;
                Err(Error::absent(format!("{name} is not in the archive")))
            }
        }
    })?;
    let system_identifier = repository.layout().system();
    Ok(ExtractedFile { name, system_identifier, output: output.to_owned(), bytes })
}

/// The system whose file is meant: the one that is named, or else the configuration's, the data directory's, or the only
/// one that the repository holds of the cluster.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) when it holds several,
/// [`ErrorKind::Absent`](crate::error::ErrorKind::Absent) when it holds none, and the store's own.
pub fn choose_system(
    config: &Config,
    store: &Arc<dyn Store>,
    named: Option<SystemIdentifier>,
) -> Result<SystemIdentifier> {
    if let Some(system) = named.or(config.system_identifier) {
        return Ok(system);
    }
    let data_directory =
        DataDirectory::open(&config.data_directory).map(|found| found.assuming(config.assumed_version));
    if let Ok(control) = data_directory.and_then(|found| found.control_file()) {
        return Ok(control.system);
    }
    let cluster = config.cluster.as_str();
    match systems(store.as_ref(), cluster)?.as_slice() {
        [only] => Ok(*only),
        [] => Err(Error::absent(format!(
            "the repository \"{}\" holds nothing of cluster \"{cluster}\"",
            store.location()
        ))),
        several => {
            let listed: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(Error::usage(format!("the repository holds several systems of cluster \"{cluster}\""))
                .hint(format!("Name one with --system: {}.", listed.join(", "))))
        }
    }
}
