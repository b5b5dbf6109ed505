//! Copies of configuration files that lie outside the data directory, as on Debian.

use super::session::ServerFacts;
use crate::data_directory::DataDirectory;
use crate::durable::{Disk, read_data};
use crate::monitor::{CommandWarning, Monitor, UnsavedConfiguration};
use crate::repository::backup::StoredText;
use crate::repository::backup::manifest::StoredConfigurationFile;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Upper limit for the size of a copied file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Upper limit for the number of copied files, to keep the manifest small.
const FILES_MAX: usize = 32;

/// Reads the files; names unreadable ones in a warning, without failing the backup.
pub fn read(
    facts: &ServerFacts,
    data_directory: &DataDirectory,
    monitor: &dyn Monitor,
) -> Vec<StoredConfigurationFile> {
    let Some(paths) = &facts.configuration_files else {
        monitor.warn(CommandWarning::ConfigurationNotSaved(UnsavedConfiguration::PathsHidden));
        return Vec::new();
    };
    let outside = |path: &&std::path::PathBuf| !lies_in(path, data_directory.path());
    let mut files = Vec::new();
    for path in paths.iter().filter(outside).take(FILES_MAX) {
        let content = match read_file(data_directory.disk(), path) {
            Ok(content) => Some(StoredText::new(content)),
            // The server also runs without it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_hosts_file(path, facts) => continue,
            Err(error) => {
                monitor.warn(CommandWarning::ConfigurationFileNotSaved { path, error: &error });
                None
            }
        };
        files.push(StoredConfigurationFile { path: StoredText::new(path.as_os_str().as_bytes()), content });
    }
    files
}

/// Whether it is the hosts file of version 19 and later, which may not exist.
fn is_hosts_file(path: &Path, facts: &ServerFacts) -> bool {
    facts.settings.get("hosts_file").is_some_and(|hosts| Path::new(hosts) == path)
}

/// Whether a file lies in the data directory and is therefore part of the packs.
fn lies_in(path: &Path, directory: &Path) -> bool {
    match (fs::canonicalize(path), fs::canonicalize(directory)) {
        (Ok(path), Ok(directory)) => path.starts_with(directory),
        _ => path.starts_with(directory),
    }
}

fn read_file(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let content = read_data(disk, path, FILE_BYTES_MAX + 1)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::UnreadableDisk;
    use crate::monitor::RecordingMonitor;
    use crate::repository::backup::manifest::StoredCollations;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    #[test]
    fn what_lies_outside_is_saved() {
        let scratch = tempfile::tempdir().unwrap();
        let (data, etc) = (scratch.path().join("data"), scratch.path().join("etc"));
        fs::create_dir(&data).unwrap();
        fs::create_dir(&etc).unwrap();
        fs::write(data.join("postgresql.conf"), "inside").unwrap();
        fs::write(etc.join("pg_hba.conf"), "outside").unwrap();
        fs::write(etc.join("long"), vec![0; 1 << 21]).unwrap();
        let hosts = etc.join("pg_hosts.conf");
        let outside = [etc.join("pg_hba.conf"), etc.join("long"), etc.join("absent"), hosts.clone()];
        let paths = [vec![data.join("postgresql.conf")], outside.to_vec()].concat();
        let facts = ServerFacts {
            databases: vec![],
            tablespace_names: BTreeMap::new(),
            collations: StoredCollations::default(),
            settings: BTreeMap::from([("hosts_file".to_owned(), hosts.display().to_string())]),
            configuration_files: Some(paths),
        };
        let monitor = RecordingMonitor::default();
        let files = read(&facts, &DataDirectory::open(&data).unwrap(), &monitor);
        let contents: Vec<_> = files.iter().map(|file| file.content.clone()).collect();
        assert_eq!(contents, [Some(StoredText::new(&b"outside"[..])), None, None]);
        assert_eq!(monitor.events().len(), 2);
        let unreadable = DataDirectory::open(&data).unwrap().reading_through(Arc::new(UnreadableDisk));
        assert_eq!(
            read(&facts, &unreadable, &monitor).iter().filter(|file| file.content.is_some()).count(),
            0
        );
        assert!(monitor.events()[2].contains("pg_hba.conf"), "{:?}", monitor.events());
        let facts = ServerFacts { configuration_files: None, ..facts };
        assert_eq!(read(&facts, &DataDirectory::open(&data).unwrap(), &monitor), []);
    }
}
