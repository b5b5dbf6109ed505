//! The directory of a test run, which contains all its files, and the reaper that removes it.

use super::account::command_as_caller;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::sync::OnceLock;

/// Waits for the end of its input, which comes when the test run ends for any reason. Then kills all processes that run
/// below DIR or have an argument below it, and removes DIR.
const REAPER: &str = r#"
cat >/dev/null
for process in /proc/[0-9]*; do
    case $(readlink "$process/cwd") in "$DIR"/*) kill -9 "${process#/proc/}" ;; esac
    grep -qsaF "$DIR/" "$process/cmdline" && kill -9 "${process#/proc/}"
done
while read -r _ place _; do
    case $place in "$DIR"/*) umount -l "$place" ;; esac
done </proc/mounts
rm -rf "$DIR"
"#;

/// The directory of this test run: its path is short (socket paths are limited to 107 bytes) and accessible for all
/// users.
pub fn run_directory() -> &'static Path {
    static RUN: OnceLock<(PathBuf, Option<ChildStdin>)> = OnceLock::new();
    let (path, _reaper_input) = RUN.get_or_init(|| {
        let path = tempfile::Builder::new().prefix("pgark-it-").tempdir().unwrap().keep();
        let path = path.canonicalize().unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o711)).unwrap();
        if keeps_directories() {
            eprintln!("keeping {}", path.display());
            return (path, None);
        }
        // The reaper outlives the test run, so it cannot be waited for.
        #[allow(clippy::zombie_processes)]
        let reaper = command_as_caller(Path::new("/bin/sh"))
            .args(["-c", REAPER])
            .env("DIR", &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // out of reach of a Ctrl-C
            .spawn()
            .unwrap();
        (path, reaper.stdin)
    });
    path
}

/// Whether to keep the directories for inspection.
pub fn keeps_directories() -> bool {
    std::env::var_os("PGARK_TEST_KEEP").is_some()
}
