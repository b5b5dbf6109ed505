//! The last pack: files that must be copied last, and those that the server returns at the end.

use crate::backup::server::session::StoppedBackup;
use crate::data_directory::DataDirectory;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::failpoint;
use crate::postgres::ControlFile;
use crate::postgres::cluster::control_file::CONTROL_FILE_BYTES;
use crate::repository::backup::pack::{FinishedPack, PackWriter};
use jiff::Timestamp;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

/// How often `pg_control` is read if its checksum is wrong, because the server may be writing it.
const CONTROL_FILE_READS_MAX: u32 = 20;
const CONTROL_FILE_PAUSE: Duration = Duration::from_millis(5);

/// Upper limit for the size of `pg_control`, in bytes; its actual size is 8 KiB.
const CONTROL_FILE_BYTES_MAX: u64 = 64 << 10;

const CONTROL_FILE: &str = "global/pg_control";

/// Permission bits of files that do not exist in the data directory.
const FILE_MODE: u32 = 0o600;

/// A file of the last pack.
#[derive(Debug)]
pub struct LastFile {
    /// Path relative to the data directory.
    pub path: &'static str,
    content: Vec<u8>,
    mode: u32,
    modified_unix_s: i64,
}

impl LastFile {
    /// `pg_control` as a server sent it.
    pub fn sent_control_file(content: Vec<u8>, mode: u32, modified_unix_s: i64) -> LastFile {
        LastFile { path: CONTROL_FILE, content, mode, modified_unix_s }
    }

    /// Content of the file.
    pub fn content(&self) -> &[u8] {
        &self.content
    }
}

/// Reads `pg_control` until its checksum is correct; returns exactly the verified bytes.
///
/// # Errors
/// [`ErrorKind::Damaged`] if it never is; those of the operating system.
pub fn read_control_file(data_directory: &DataDirectory) -> Result<(ControlFile, LastFile)> {
    let path = data_directory.path().join("global/pg_control");
    let what = || format!("could not read \"{}\"", path.display());
    let mut reads = 1;
    loop {
        let metadata = fs::metadata(&path).context(what)?;
        if metadata.len() > CONTROL_FILE_BYTES_MAX {
            return Err(Error::damaged(format!("\"{}\" has {} bytes", path.display(), metadata.len())));
        }
        failpoint::opening(&path).context(what)?;
        let content = fs::read(&path).context(what)?;
        let start = content.get(..CONTROL_FILE_BYTES).unwrap_or(&content);
        match ControlFile::parse(start, data_directory.assumed_version()) {
            Ok(control) => {
                let file = LastFile {
                    path: CONTROL_FILE,
                    content,
                    mode: metadata.mode() & 0o7777,
                    modified_unix_s: metadata.mtime(),
                };
                return Ok((control, file));
            }
            Err(error) if error.kind() == ErrorKind::Damaged && reads < CONTROL_FILE_READS_MAX => {
                thread::sleep(CONTROL_FILE_PAUSE);
            }
            Err(error) => return Err(error).context(what),
        }
        reads += 1;
    }
}

/// The files of the last pack, in pack order.
pub fn files(control_file: LastFile, stopped: &StoppedBackup) -> Vec<LastFile> {
    let made = |path, content: &[u8]| LastFile {
        path,
        content: content.to_vec(),
        mode: FILE_MODE,
        modified_unix_s: Timestamp::now().as_second(),
    };
    let mut files = vec![made("backup_label", &stopped.label)];
    // As in the server, a cluster without tablespaces has no such file.
    if !stopped.tablespace_map.is_empty() {
        files.push(made("tablespace_map", &stopped.tablespace_map));
    }
    files.push(control_file);
    files
}

/// Writes the last pack; its file numbers are indexes in `files`.
///
/// # Errors
/// The store's.
pub fn write(mut pack: PackWriter, files: &[LastFile]) -> Result<FinishedPack> {
    for (number, file) in files.iter().enumerate() {
        let length = file.content.len() as u64;
        pack.begin_file(number, file.path.as_bytes(), length, file.mode, file.modified_unix_s)?;
        pack.write(&file.content)?;
        pack.end_file()?;
    }
    pack.finish()
}
