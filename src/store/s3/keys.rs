//! Access keys that change while a process lives.

use crate::config::S3Settings;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The files with the access keys at one moment. Any change of their content is visible.
///
/// Environment variables do not change, and roles and web identities renew themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFiles(Vec<(PathBuf, Option<Stamp>)>);

/// Inode, length, and modification time in seconds and nanoseconds.
type Stamp = (u64, u64, i64, i64);

impl KeyFiles {
    /// Their current state.
    pub fn inspect(settings: &S3Settings) -> KeyFiles {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let at_home = |name: &str| variable("HOME").map(|home| home.join(".aws").join(name));
        let credentials = settings
            .credentials_file
            .clone()
            .or_else(|| variable("AWS_SHARED_CREDENTIALS_FILE"))
            .or_else(|| at_home("credentials"));
        let config = variable("AWS_CONFIG_FILE").or_else(|| at_home("config"));
        let stamped = |path: PathBuf| {
            let found = fs::metadata(&path).ok();
            let stamp = found.map(|found| (found.ino(), found.len(), found.mtime(), found.mtime_nsec()));
            (path, stamp)
        };
        KeyFiles(credentials.into_iter().chain(config).map(stamped).collect())
    }
}
