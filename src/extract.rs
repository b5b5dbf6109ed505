//! Takes one WAL file out of the repository for inspection.
//!
//! Owns: that existing files are never overwritten. Does not own: recovery, which goes through `archive-get`.

use crate::durable::{Disk, DiskFile, create_file};
use crate::error::{Error, Result};
use crate::postgres::{SystemIdentifier, WalFileName};
use crate::repository::{Repository, wal};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Permissions of the file: WAL contains the data of the database.
const FILE_MODE: u32 = 0o600;

/// A file that was taken out of the repository.
#[derive(Debug, Serialize)]
pub struct ExtractedFile {
    /// Its name in the repository.
    pub name: WalFileName,
    /// The system that it is of.
    pub system_identifier: SystemIdentifier,
    /// Its path now.
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
            // Only an available repository can report absence.
            None => {
                repository.check()?;
                Err(Error::absent(format!("{name} is not in the archive")))
            }
        }
    })?;
    let system_identifier = repository.layout().system();
    Ok(ExtractedFile { name, system_identifier, output: output.to_owned(), bytes })
}
