//! The directories into which a cluster is restored: what they are, what exists there, who may use them.

pub mod destinations;
pub mod space;
pub mod staging;
pub mod tablespaces;

use crate::error::{Context, Error, Result};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Reads a small file of the restored data directory; `None` if there is none.
///
/// # Errors
/// The operating system's.
pub fn read_restored(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>> {
    let what = || format!("could not read \"{}\"", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(what(), error)),
    };
    let mut content = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut content).context(what)?;
    if content.len() as u64 > bytes_max {
        return Err(Error::damaged(format!("\"{}\" has more than {bytes_max} bytes", path.display())));
    }
    Ok(Some(content))
}
