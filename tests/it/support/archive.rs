//! The content of the repository, read with standard tools only.

use super::account::write_file;
use super::wal::timeline_and_log_of;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name under which all test clusters archive.
pub const CLUSTER_NAME: &str = "main";

/// The stored WAL of one system.
#[derive(Clone, Debug)]
pub struct Archive {
    repository: PathBuf,
    wal: PathBuf,
}

impl Archive {
    pub fn new(repository: PathBuf, system_identifier: u64) -> Archive {
        let wal = repository.join(CLUSTER_NAME).join(system_identifier.to_string()).join("wal");
        Archive { repository, wal }
    }

    /// The location of a stored WAL file.
    pub fn path(&self, name: &str) -> PathBuf {
        match timeline_and_log_of(name) {
            Some((timeline, log)) => self.wal.join(timeline).join(log).join(name),
            None => self.wal.join(name),
        }
    }

    /// The location of a backup's objects.
    pub fn backup(&self, label: &str) -> PathBuf {
        self.wal.with_file_name("backup").join(label)
    }

    pub fn holds(&self, name: &str) -> bool {
        self.path(name).is_file()
    }

    /// The stored bytes of a WAL file.
    pub fn stored(&self, name: &str) -> Vec<u8> {
        read(&self.path(name))
    }

    /// The archived bytes of a WAL file, decompressed by `lz4` or `zstd`.
    #[track_caller]
    pub fn raw(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        let tool = tool_for(&read(&path));
        let output = Command::new(tool).args(["-d", "-c"]).arg(&path).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{tool} -d {}: {error}", path.display());
        output.stdout
    }

    /// The names of all objects in the WAL directory, sorted, including temporary files.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = files_below(&self.wal)
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort_unstable();
        names
    }

    /// All files of the repository.
    pub fn files(&self) -> Vec<PathBuf> {
        files_below(&self.repository)
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    /// Flips one bit of the byte at this offset of the stored object; negative offsets count from its end. Use the last
    /// byte, which belongs to a checksum: in a run of zeros, a changed match distance can still yield zeros.
    pub fn damage(&self, name: &str, offset: i64) {
        let mut bytes = self.stored(name);
        let at = if offset < 0 { bytes.len() as i64 + offset } else { offset };
        bytes[usize::try_from(at).unwrap()] ^= 0x10;
        write_file(&self.path(name), bytes);
    }

    /// Replaces the content of the stored object.
    pub fn replace(&self, name: &str, bytes: &[u8]) {
        write_file(&self.path(name), bytes);
    }

    /// Truncates the stored object to half its length.
    pub fn truncate(&self, name: &str) {
        let mut bytes = self.stored(name);
        bytes.truncate(bytes.len() / 2);
        write_file(&self.path(name), bytes);
    }
}

/// The standard tool for these bytes, determined from the first frame that is not skippable.
fn tool_for(bytes: &[u8]) -> &'static str {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let mut at = 0;
    loop {
        match number(at) {
            0x184D_2A50..=0x184D_2A5F => at += 8 + number(at + 4) as usize,
            0x184D_2204 => return "lz4",
            0xFD2F_B528 => return "zstd",
            other => panic!("a stored object begins with {other:08X} at byte {at}: neither lz4 nor zstd"),
        }
    }
}

/// All files below a directory; none if it does not exist.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("could not read {}: {error}", path.display()))
}
