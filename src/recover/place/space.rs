//! Checks the free space of the destination file systems.

use super::staging::Found;
use crate::error::{Context, Error, Result};
use nix::sys::statvfs::statvfs;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Space needed in one directory.
#[derive(Clone, Debug)]
pub struct SpaceNeed {
    /// The directory, which may not exist yet.
    pub directory: PathBuf,
    /// Number of bytes to write.
    pub bytes: u64,
    /// Present content: unfinished remains free their space, and kept content already has its space.
    pub found: Found,
}

/// Checks that each file system has room for everything to be written to it.
///
/// # Errors
/// [`ErrorKind::Unavailable`](crate::error::ErrorKind::Unavailable) if one does not.
pub fn check_space(needs: &[SpaceNeed]) -> Result<()> {
    let mut by_device: BTreeMap<u64, (u64, &Path)> = BTreeMap::new();
    for need in needs.iter().filter(|need| matches!(need.found, Found::Nothing | Found::Empty)) {
        let existing = nearest_existing(&need.directory);
        let what = || format!("could not inspect \"{}\"", existing.display());
        let device = fs::metadata(existing).context(what)?.dev();
        let (bytes, _) = by_device.entry(device).or_insert((0, existing));
        *bytes += need.bytes;
    }
    for (needed, directory) in by_device.into_values() {
        let system = statvfs(directory)
            .context(|| format!("could not inspect the file system of \"{}\"", directory.display()))?;
        let free = system.blocks_available().saturating_mul(system.fragment_size());
        if free < needed {
            return Err(Error::unavailable(format!(
                "the file system of \"{}\" has {} free, but {} are needed",
                directory.display(),
                mib(free),
                mib(needed)
            ))
            .hint("Free some space, or choose a directory on a larger file system."));
        }
    }
    Ok(())
}

/// The directory itself, or its nearest existing ancestor.
fn nearest_existing(directory: &Path) -> &Path {
    directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_goes_to_one_file_system_counts() {
        let scratch = tempfile::tempdir().unwrap();
        let need = |name: &str, bytes| SpaceNeed {
            directory: scratch.path().join(name),
            bytes,
            found: Found::Nothing,
        };
        check_space(&[need("a/b", 1), need("c", 1)]).unwrap();
        let error = check_space(&[need("a/b", 1), need("c", 1 << 62)]).unwrap_err();
        assert!(error.to_string().contains(" are needed"), "{error}");
        check_space(&[SpaceNeed { found: Found::Unfinished, ..need("c", 1 << 62) }]).unwrap();
    }
}
