//! The last pack: files that must be copied last, and those that the server returns at the end.

use crate::backup::server::session::StoppedBackup;
use crate::data_directory::ControlFileRead;
use crate::error::Result;
use crate::repository::backup::pack::{FinishedPack, PackWriter};
use jiff::Timestamp;
use std::os::unix::fs::MetadataExt;

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
    /// `pg_control` as it was read.
    pub fn control_file(read: ControlFileRead) -> LastFile {
        LastFile {
            path: CONTROL_FILE,
            mode: read.metadata.mode() & 0o7777,
            modified_unix_s: read.metadata.mtime(),
            content: read.content,
        }
    }

    /// `pg_control` as a server sent it.
    pub fn sent_control_file(content: Vec<u8>, mode: u32, modified_unix_s: i64) -> LastFile {
        LastFile { path: CONTROL_FILE, content, mode, modified_unix_s }
    }

    /// Content of the file.
    pub fn content(&self) -> &[u8] {
        &self.content
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
