//! Extracts one WAL file from the repository for inspection.
//!
//! Owns: the rule that existing files are never overwritten. Does not own: recovery, which uses `archive-get`.

use crate::durable::{Disk, DiskFile, create_file};
use crate::error::{Error, Result};
use crate::postgres::{SystemIdentifier, WalFileName};
use crate::repository::{Repository, wal};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Permissions of the file: WAL contains the data of the database.
const FILE_MODE: u32 = 0o600;

/// An extracted file.
#[derive(Debug, Serialize)]
pub struct ExtractedFile {
    /// Its name in the repository.
    pub name: WalFileName,
    /// The system to which it belongs.
    pub system_identifier: SystemIdentifier,
    /// The path of the extracted file.
    pub output: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Writes the file `name` to `output`, which must not exist yet. The result is complete, verified and durable, or there
/// is none.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) if `output` exists,
/// [`ErrorKind::Absent`](crate::error::ErrorKind::Absent) if the repository has reported that it does not hold the
/// file; damage, and those of the store and the operating system.
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
