//! Records the operations on the disk in their order, so that a test can replay power failures.
//!
//! The directory in `PGARK_RECORD` gets two files. All processes append to them under one lock, held from before an
//! operation until it is recorded. `log` has a line for each operation: process, operation, inode, offset, length,
//! path, second path, place, separated by tabs. `data` contains the written bytes, at that offset with that length.

use super::plan::{recording, take};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

/// One recorded operation.
#[derive(Debug, Default)]
pub struct Record<'a> {
    /// The operation's name.
    pub operation: &'a str,
    /// The written bytes.
    pub content: &'a [u8],
    /// The path.
    pub path: Option<&'a Path>,
    /// The new name, or the target of a link.
    pub other: Option<&'a Path>,
    /// The position in the file of a write that is not an append; or the file's new length.
    pub place: u64,
}

#[derive(Debug)]
struct Recorder {
    log: File,
    data: File,
}

/// Performs an operation and records it, with nothing else recorded in between. A failure is recorded as
/// `failed`. `inode` returns the file concerned.
///
/// # Errors
/// Those of `act`, and of recording: a gap in the record would invalidate the test.
pub fn perform<T>(
    record: &Record<'_>,
    act: impl FnOnce() -> io::Result<T>,
    inode: impl FnOnce(&T) -> Option<u64>,
) -> io::Result<T> {
    let Some(recorder) = recorder()? else { return act() };
    let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
    recorder.log.lock()?;
    let done = match act() {
        Ok(done) => recorder.write(record, record.operation, inode(&done)).map(|()| done),
        Err(error) => Err(recorder.write(record, "failed", None).err().unwrap_or(error)),
    };
    recorder.log.unlock()?;
    done
}

/// Records a step that has only a name and is not an operation of the disk.
pub fn step(what: &str) {
    // If recording fails, the next operation fails.
    let _ = perform(&Record { operation: what, ..Record::default() }, || Ok(take()), |_| None);
}

/// The inode number, which identifies a file under any name.
pub fn inode_of(file: &File) -> Option<u64> {
    file.metadata().ok().map(|metadata| metadata.ino())
}

fn recorder() -> io::Result<Option<&'static Mutex<Recorder>>> {
    static RECORDER: OnceLock<Option<Mutex<Recorder>>> = OnceLock::new();
    if let Some(opened) = RECORDER.get() {
        return Ok(opened.as_ref());
    }
    let opened = recording().map(Recorder::open).transpose()?;
    Ok(RECORDER.get_or_init(|| opened.map(Mutex::new)).as_ref())
}

impl Recorder {
    fn open(directory: &Path) -> io::Result<Recorder> {
        let append = |name| OpenOptions::new().append(true).create(true).open(directory.join(name));
        Ok(Recorder { log: append("log")?, data: append("data")? })
    }

    fn write(&mut self, record: &Record<'_>, operation: &str, inode: Option<u64>) -> io::Result<()> {
        let offset = self.data.metadata()?.len();
        self.data.write_all(record.content)?;
        let mut line = format!(
            "{}\t{operation}\t{}\t{offset}\t{}\t",
            std::process::id(),
            inode.unwrap_or_default(),
            record.content.len()
        )
        .into_bytes();
        line.extend_from_slice(record.path.map_or(b"", |path| path.as_os_str().as_bytes()));
        line.push(b'\t');
        line.extend_from_slice(record.other.map_or(b"", |path| path.as_os_str().as_bytes()));
        line.extend_from_slice(format!("\t{}\n", record.place).as_bytes());
        self.log.write_all(&line)
    }
}
