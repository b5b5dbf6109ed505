//! File systems of a few megabytes.

use super::account::{give, is_root};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory, mounted as a directory of a site until it is dropped. Declare it after the site.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// One of this size; none, with a word about it, where that is not allowed: only root mounts.
    pub fn mount(path: &Path, kib: u32) -> Option<SmallDisk> {
        if !is_root() {
            eprintln!("skipped: only root can mount a file system");
            return None;
        }
        std::fs::create_dir_all(path).unwrap();
        let disk = SmallDisk(path.to_owned());
        disk.run(&["mount", "-t", "tmpfs", "-o", &format!("size={kib}k,mode=0700"), "none"]);
        give(path);
        Some(disk)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn resize(&self, kib: u32) {
        self.run(&["mount", "-o", &format!("remount,size={kib}k")]);
    }

    pub fn set_read_only(&self, read_only: bool) {
        self.run(&["mount", "-o", if read_only { "remount,ro" } else { "remount,rw" }]);
    }

    /// Takes all the room there is.
    pub fn fill(&self) {
        let path = self.0.join("ballast");
        let filled = std::io::copy(&mut std::io::repeat(1), &mut std::fs::File::create(&path).unwrap());
        assert!(filled.is_err(), "it has no end");
        give(&path);
    }

    pub fn empty(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }

    fn run(&self, command: &[&str]) {
        let status = Command::new(command[0]).args(&command[1..]).arg(&self.0).status().unwrap();
        assert!(status.success(), "{command:?} {}", self.0.display());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still works in it does not keep it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
