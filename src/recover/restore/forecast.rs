//! Forecasts how much data a recovery with `--delta` will move.

use super::existing::{Existing, ExistingKind, Removal};
use super::file_output::crc32c_of;
use super::files::{CONTROL_FILE, tablespace_version_directory};
use crate::error::{Context, Error, Result};
use crate::recover::place::staging::Found;
use crate::recover::plan::RecoveryPlan;
use crate::repository::Repository;
use crate::repository::backup::chain::{ChainEntry, ChainedFile, ChainedFiles};
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Number of files examined before the next ones are listed.
const BATCH_FILES_MAX: usize = 10_000;

/// What a delta restore keeps, fetches and removes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeltaForecast {
    /// Number of files that already match.
    pub kept_files: u64,
    /// Total size of the matching files, in bytes.
    pub kept_bytes: u64,
    /// Number of files to fetch: missing, different, or comparable only page by page.
    pub fetched_files: u64,
    /// Total size of the files to fetch, in bytes; an upper bound for what is written.
    pub fetched_bytes: u64,
    /// Bytes to read from the repository.
    pub stored_bytes: u64,
    /// Number of files and links to remove because they are not part of the backup.
    pub removed: u64,
}

/// Compares the existing files with the backup and changes nothing. Returns `None` if no existing file could
/// be kept.
///
/// # Errors
/// The store's and the operating system's.
pub fn forecast(
    plan: &RecoveryPlan,
    repository: &Repository,
    workers: NonZeroUsize,
) -> Result<Option<DeltaForecast>> {
    if plan.found != Found::Kept {
        return Ok(None);
    }
    let destinations = &plan.destinations;
    let mut existing = Existing::walk(destinations, &tablespace_version_directory(&plan.backup)?)?;
    let mut files = ChainedFiles::open(repository, &plan.chain)?;
    let mut forecast = DeltaForecast::default();
    loop {
        let (mut batch, mut ended) = (Vec::new(), false);
        while batch.len() < BATCH_FILES_MAX && !ended {
            match files.next_entry()? {
                None => ended = true,
                Some(ChainEntry::Directory(directory)) => {
                    existing.at(directory.path.as_bytes(), destinations, Removal::Counted)?;
                }
                Some(ChainEntry::File(file)) => {
                    let found = existing.at(file.path.as_bytes(), destinations, Removal::Counted)?;
                    batch.push((file, found));
                }
            }
        }
        compare_batch(plan, batch, workers, &mut forecast)?;
        if ended {
            existing.finish(destinations, Removal::Counted)?;
            forecast.removed = existing.removed;
            return Ok(Some(forecast));
        }
    }
}

fn compare_batch(
    plan: &RecoveryPlan,
    batch: Vec<(ChainedFile, Option<ExistingKind>)>,
    workers: NonZeroUsize,
    forecast: &mut DeltaForecast,
) -> Result<()> {
    let (queue, sum) = (Mutex::new(batch), Mutex::new(forecast));
    let work = || -> Result<()> {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((file, found)) = next else { return Ok(()) };
            let is_unchanged = is_unchanged(plan, &file, found)?;
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            if is_unchanged {
                sum.kept_files += 1;
                sum.kept_bytes += file.bytes;
            } else {
                sum.fetched_files += 1;
                sum.fetched_bytes += file.bytes;
                sum.stored_bytes += file.stored_bytes();
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers.get()).map(|_| scope.spawn(work)).collect();
        let failed = || Err(Error::damaged("a worker of the comparison failed"));
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| failed()))
    })
}

fn is_unchanged(plan: &RecoveryPlan, file: &ChainedFile, found: Option<ExistingKind>) -> Result<bool> {
    let (Some(ExistingKind::File { bytes }), Some(crc32c)) = (found, file.known_crc32c()) else {
        return Ok(false);
    };
    if bytes != file.bytes || file.path.as_bytes() == CONTROL_FILE {
        return Ok(false);
    }
    let path = plan.destinations.file(file.path.as_bytes())?;
    let found = crc32c_of(&path, bytes).context(|| format!("could not read \"{}\"", path.display()))?;
    Ok(found == Some(crc32c))
}
