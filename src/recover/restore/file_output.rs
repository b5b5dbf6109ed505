//! A file being restored: new, or existing with its matching pages kept.

use crate::durable::{Disk, read_full};
use crate::error::{Context, Error, ErrorKind, Result};
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Unit of comparison and writing, in bytes: one page.
const PAGE_BYTES: usize = 8192;

/// Bytes of an existing file read at a time.
const READ_BYTES: usize = 256 << 10;

/// Sequential writer of one restored file.
pub struct FileOutput<'a> {
    disk: &'a dyn Disk,
    file: File,
    /// Position of the next byte in the file.
    offset: u64,
    /// Number of bytes written so far.
    written_bytes: u64,
    /// Buffer for the previous content at this position; `None` for a new file.
    old: Option<Vec<u8>>,
}

impl<'a> FileOutput<'a> {
    /// Creates a file, which must not exist.
    ///
    /// # Errors
    /// As [`not_created`]; the operating system's, here and in the other functions.
    pub fn create(disk: &'a dyn Disk, path: &Path, mode: u32) -> Result<FileOutput<'a>> {
        let file = disk
            .create_new(path, mode)
            .map_err(|error| not_created(format!("could not write \"{}\"", path.display()), error))?;
        Ok(FileOutput { disk, file, offset: 0, written_bytes: 0, old: None })
    }

    /// Opens an existing file to overwrite it.
    pub fn over(disk: &'a dyn Disk, path: &Path, mode: u32) -> Result<FileOutput<'a>> {
        let file =
            open_existing(disk, path, mode).context(|| format!("could not write \"{}\"", path.display()))?;
        Ok(FileOutput { disk, file, offset: 0, written_bytes: 0, old: Some(Vec::new()) })
    }

    /// Appends the next bytes of the content. Pages that already match are not written.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(old) = &mut self.old else {
            self.written_bytes += bytes.len() as u64;
            self.offset += bytes.len() as u64;
            return self.disk.write_all(&self.file, bytes);
        };
        old.resize(bytes.len(), 0);
        let length = read_full(old, self.offset, |rest, offset| self.file.read_at(rest, offset))?;
        let old = old.get(..length).unwrap_or_default();
        if old == bytes {
            self.offset += bytes.len() as u64;
            return Ok(());
        }
        let mut old = old.chunks(PAGE_BYTES);
        for page in bytes.chunks(PAGE_BYTES) {
            if old.next() != Some(page) {
                self.disk.write_at(&self.file, page, self.offset)?;
                self.written_bytes += page.len() as u64;
            }
            self.offset += page.len() as u64;
        }
        Ok(())
    }

    /// Truncates the remainder of a longer file; returns the number of bytes written.
    pub fn finish(self) -> io::Result<u64> {
        if self.old.is_some() && self.file.metadata()?.len() != self.offset {
            self.disk.set_length(&self.file, self.offset)?;
        }
        Ok(self.written_bytes)
    }
}

/// The error for a listed path that could not be created. No other program works in the claimed directories,
/// so a missing parent directory, or a parent of another type, means that the list is wrong.
pub fn not_created(what: String, error: io::Error) -> Error {
    let of_the_list = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    let error = Error::io(what, error);
    if !of_the_list {
        return error;
    }
    error.with_kind(ErrorKind::Damaged).hint(
        "The backup's index is damaged: it does not list the parent of this path as a directory. Choose another backup with \
         --backup.",
    )
}

/// CRC-32C of a file's content, if it has this length.
///
/// # Errors
/// The operating system's.
pub fn crc32c_of(path: &Path, bytes: u64) -> io::Result<Option<u32>> {
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path)?;
    let (mut buffer, mut crc32c, mut offset) = (vec![0; READ_BYTES], 0, 0);
    loop {
        let length = read_full(&mut buffer, offset, |rest, offset| file.read_at(rest, offset))?;
        if length == 0 {
            return Ok((offset == bytes).then_some(crc32c));
        }
        crc32c = crc32c::crc32c_append(crc32c, buffer.get(..length).unwrap_or_default());
        offset += length as u64;
    }
}

/// Sets a file's permissions.
///
/// # Errors
/// The operating system's.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

fn open_existing(disk: &dyn Disk, path: &Path, mode: u32) -> io::Result<File> {
    let file = match disk.open_to_change(path) {
        // The file's owner may make it writable.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            set_mode(path, mode)?;
            disk.open_to_change(path)?
        }
        other => other?,
    };
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_that_differ_are_written() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("1");
        let right: Vec<u8> = (0..5 * PAGE_BYTES + 17).map(|at| (at / 31) as u8).collect();
        let mut one_page_wrong = right.clone();
        one_page_wrong[2 * PAGE_BYTES + 5] ^= 1;
        let mut longer = right.clone();
        longer.extend_from_slice(b"more");
        let cases = [
            (right.clone(), 0),
            (one_page_wrong, PAGE_BYTES),
            (longer, 0),
            (right[..2 * PAGE_BYTES + 100].to_vec(), 3 * PAGE_BYTES + 17),
            (Vec::new(), right.len()),
        ];
        for (old, written) in cases {
            std::fs::write(&path, &old).unwrap();
            let mut output = FileOutput::over(&crate::durable::RealDisk, &path, 0o600).unwrap();
            for piece in right.chunks(2 * PAGE_BYTES) {
                output.write(piece).unwrap();
            }
            assert_eq!(output.finish().unwrap(), written as u64);
            assert!(std::fs::read(&path).unwrap() == right);
            assert_eq!(crc32c_of(&path, right.len() as u64).unwrap(), Some(crc32c::crc32c(&right)));
            assert_eq!(crc32c_of(&path, 1).unwrap(), None);
        }
    }
}
