//! Data directories created by initdb once, then copied.

use super::account::{command, create_private_directory};
use super::programs::postgres_program;
use super::run_directory::run_directory;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// The parameters of a data directory. Clusters of the same template are copies: they share the system identifier, and
/// each can recover the WAL of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Template {
    pub segment_size_mib: u32,
    pub checksums: bool,
}

impl Default for Template {
    /// The smallest segments, so that a scenario quickly fills many.
    fn default() -> Template {
        Template { segment_size_mib: 1, checksums: true }
    }
}

impl Template {
    pub fn with_segments_of(segment_size_mib: u32) -> Template {
        Template { segment_size_mib, ..Template::default() }
    }

    pub fn segment_size(self) -> u64 {
        u64::from(self.segment_size_mib) * 1024 * 1024
    }

    /// Copies the template to `destination`, which must not exist.
    pub fn copy_to(self, destination: &Path) {
        copy_directory(&self.directory(), destination);
    }

    fn directory(self) -> PathBuf {
        static MADE: Mutex<Option<HashMap<Template, PathBuf>>> = Mutex::new(None);
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        let made = made.get_or_insert_with(HashMap::new);
        made.entry(self).or_insert_with(|| self.make()).clone()
    }

    fn make(self) -> PathBuf {
        let parent = run_directory().join(format!("template-{}-{}", self.segment_size_mib, self.checksums));
        create_private_directory(&parent);
        let data = parent.join("data");
        let mut initdb = command(&postgres_program("initdb"));
        initdb.arg(format!("--wal-segsize={}", self.segment_size_mib)).arg("--pgdata").arg(&data).args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]);
        if self.checksums {
            initdb.arg("--data-checksums");
        }
        let run = |command: &mut Command| {
            let output = command.current_dir("/").output().unwrap();
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        run(&mut initdb);
        let control = command(&postgres_program("pg_controldata")).arg(&data).output().unwrap();
        let has_none = String::from_utf8_lossy(&control.stdout)
            .lines()
            .any(|line| line.starts_with("Data page checksum version:") && line.ends_with(" 0"));
        if !self.checksums && !has_none {
            // From version 18 on, checksums are on by default, and the option to disable them does not exist before.
            run(command(&postgres_program("pg_checksums")).args(["--disable", "--pgdata"]).arg(&data));
        }
        data
    }
}

/// Copies a directory with owners and permissions; shares blocks if the file system supports it.
pub fn copy_directory(from: &Path, to: &Path) {
    let output = Command::new("cp").args(["-a", "--reflink=auto", "--"]).arg(from).arg(to).output().unwrap();
    assert!(output.status.success(), "cp failed: {}", String::from_utf8_lossy(&output.stderr));
}
