//! A log file with a size limit.

use crate::durable::Disk;
use crate::error::{Context, Result};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A log file with a size limit in bytes. A full one is renamed to `<name>.1` and replaces the one before.
#[derive(Clone, Debug)]
pub struct RotatingLog(Arc<Mutex<OpenLog>>);

#[derive(Debug)]
struct OpenLog {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: File,
    length_bytes: u64,
    max_bytes: u64,
}

impl RotatingLog {
    /// Opens the log at `path` for appending. Two files of at most `max_bytes` each are kept.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, max_bytes: u64) -> Result<RotatingLog> {
        let what = || format!("could not open the log \"{}\"", path.display());
        let file = append(path).context(what)?;
        let length_bytes = file.metadata().context(what)?.len();
        let state = OpenLog { disk, path: path.to_owned(), file, length_bytes, max_bytes };
        Ok(RotatingLog(Arc::new(Mutex::new(state))))
    }
}

impl Write for &RotatingLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.length_bytes > 0 && state.length_bytes + bytes.len() as u64 > state.max_bytes {
            let mut old = state.path.clone().into_os_string();
            old.push(".1");
            state.disk.rename_over(&state.path, Path::new(&old))?;
            state.file = append(&state.path)?;
            state.length_bytes = 0;
        }
        let written = state.file.write(bytes)?;
        state.length_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for RotatingLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_lines_and_no_more_than_twice_its_size() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("agent.log");
        for _ in 0..2 {
            let mut log = RotatingLog::open(crate::durable::disk(), &path, 100).unwrap();
            for number in 0..30 {
                writeln!(log, "line {number}").unwrap();
            }
        }
        let (new, old) = (
            std::fs::read_to_string(&path).unwrap(),
            std::fs::read_to_string(scratch.path().join("agent.log.1")).unwrap(),
        );
        assert!(new.ends_with("line 29\n") && new.len() <= 100 && old.len() <= 100);
    }
}
