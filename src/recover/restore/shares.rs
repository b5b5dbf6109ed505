//! Divides the files of a restore among its workers.

use crate::repository::backup::chain::ChainedFile;
use std::num::NonZeroUsize;

/// Size of a share in uncompressed bytes, large enough to make the search for its first frame negligible.
const SHARE_BYTES: u64 = 64 << 20;

/// How many waiting shares a worker examines. If there are more, they are large files, for which the cost of
/// creating a file is negligible.
const CHOICE_MAX: usize = 64;

/// A file to restore.
pub struct Job {
    /// The file.
    pub file: ChainedFile,
    /// Length of the existing file, if it may be changed in place.
    pub existing: Option<u64>,
    /// Whether the file is created empty.
    pub emptied: bool,
}

/// Files of one pack, ordered by their position in it.
pub struct Share {
    /// The files, at least one.
    pub files: Vec<Job>,
}

impl Share {
    /// The directory that holds most of the files; packs are ordered by directory.
    fn directory(&self) -> &[u8] {
        let middle = self.files.get(self.files.len() / 2);
        middle.map_or(&[], |job| directory_of(job.file.path.as_bytes()))
    }
}

/// The shares waiting for a worker, and the directory in which each worker creates files.
///
/// The kernel lets one thread at a time create a file in a directory and makes the others spin. A worker
/// therefore prefers a share in a directory that no other worker uses.
pub struct Shares {
    /// Sorted by size, smallest first: shares are taken from the end.
    waiting: Vec<Share>,
    /// One entry for each worker; empty while the worker has no share.
    directories: Vec<Vec<u8>>,
}

impl Shares {
    /// Divides files by pack, ordered by position.
    pub fn of(mut batch: Vec<Job>, workers: NonZeroUsize) -> Self {
        let pack = |job: &Job| (job.file.base.member, job.file.base.entry.place.pack);
        batch.sort_by_key(|job| (job.file.base.member, job.file.base.entry.place));
        let mut shares: Vec<(u64, Share)> = Vec::new();
        for file in batch {
            match shares.last_mut() {
                Some((bytes, share))
                    if *bytes < SHARE_BYTES
                        && share.files.last().is_some_and(|last| pack(last) == pack(&file)) =>
                {
                    *bytes += file.file.bytes;
                    share.files.push(file);
                }
                _ => shares.push((file.file.bytes, Share { files: vec![file] })),
            }
        }
        shares.sort_by_key(|(bytes, _)| *bytes);
        Self {
            waiting: shares.into_iter().map(|(_, share)| share).collect(),
            directories: vec![Vec::new(); workers.get()],
        }
    }

    /// The next share for a worker: the largest in an unused directory, or else the largest one.
    pub fn take(&mut self, worker: usize) -> Option<Share> {
        let others: Vec<&[u8]> = (self.directories.iter().enumerate())
            .filter(|(other, directory)| *other != worker && !directory.is_empty())
            .map(|(_, directory)| directory.as_slice())
            .collect();
        let share = match from_the_end(self.waiting.iter().map(Share::directory), &others) {
            Some(index) => Some(self.waiting.remove(index)),
            None => self.waiting.pop(),
        };
        if let Some(directory) = self.directories.get_mut(worker) {
            *directory = share.as_ref().map(|share| share.directory().to_vec()).unwrap_or_default();
        }
        share
    }
}

/// The index of the last directory, among the last [`CHOICE_MAX`], that is not in `others`.
fn from_the_end<'a>(
    directories: impl DoubleEndedIterator<Item = &'a [u8]> + ExactSizeIterator,
    others: &[&[u8]],
) -> Option<usize> {
    let last = directories.len().checked_sub(1)?;
    let distance = directories.rev().take(CHOICE_MAX).position(|directory| !others.contains(&directory))?;
    last.checked_sub(distance)
}

fn directory_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').and_then(|slash| path.get(..slash)).unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_takes_a_directory_that_no_other_worker_uses() {
        let waiting: [&[u8]; 4] = [b"base/1", b"base/4", b"base/5", b"base/5"];
        let chosen = |others: &[&[u8]]| from_the_end(waiting.into_iter(), others);
        assert_eq!(chosen(&[]), Some(3));
        assert_eq!(chosen(&[b"base/5"]), Some(1));
        assert_eq!(chosen(&[b"base/5", b"base/4"]), Some(0));
        assert_eq!(chosen(&[b"base/5", b"base/4", b"base/1"]), None);
        assert_eq!(from_the_end([].into_iter(), &[]), None);
    }

    #[test]
    fn the_search_for_a_directory_is_bounded() {
        let mut waiting: Vec<&[u8]> = vec![b"base/5"; CHOICE_MAX];
        waiting.insert(0, b"base/1");
        assert_eq!(from_the_end(waiting.iter().copied(), &[b"base/5"]), None);
        waiting.pop();
        assert_eq!(from_the_end(waiting.iter().copied(), &[b"base/5"]), Some(0));
    }

    #[test]
    fn the_directory_of_a_path_is_what_precedes_its_last_slash() {
        assert_eq!(directory_of(b"base/5/1259"), b"base/5");
        assert_eq!(directory_of(b"PG_VERSION"), b"");
    }
}
