//! File systems of a few megabytes.

use super::account::{give, is_root};
use super::{PATIENCE, wait_until};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tmpfs mounted in a site until it is dropped. Declare it after the site.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts a tmpfs of this size; `None`, with a message, without root privileges.
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

    /// Mounts a file system of 64 MiB on a disk of its own that can be frozen; `None`, with a message, without the
    /// privileges.
    pub fn mount_freezable(path: &Path) -> Option<SmallDisk> {
        if !is_root() {
            eprintln!("skipped: only root can mount a file system");
            return None;
        }
        std::fs::create_dir_all(path).unwrap();
        let image = path.with_extension("image");
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let succeeds = |program: &str, arguments: &[&str]| {
            Command::new(program)
                .args(arguments)
                .arg(&image)
                .arg(path)
                .output()
                .is_ok_and(|o| o.status.success())
        };
        let made = Command::new("mkfs.ext4").arg("-q").arg(&image).output().is_ok_and(|o| o.status.success());
        if !made || !succeeds("mount", &["-o", "loop"]) {
            eprintln!("skipped: no file system can be mounted from an image here");
            return None;
        }
        give(path);
        Some(SmallDisk(path.to_owned()))
    }

    /// Makes writers hang in the kernel, where even SIGKILL does not end them. Thaws after a minute, in case this
    /// process dies.
    pub fn freeze(&self) {
        let script = "fsfreeze -f \"$0\" && { { sleep 60; fsfreeze -u \"$0\"; } >/dev/null 2>&1 & }";
        let status = Command::new("/bin/sh").arg("-c").arg(script).arg(&self.0).status().unwrap();
        assert!(status.success(), "{} was not frozen", self.0.display());
    }

    pub fn thaw(&self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0).output();
    }

    pub fn resize(&self, kib: u32) {
        self.run(&["mount", "-o", &format!("remount,size={kib}k")]);
    }

    /// Remounts the file system. A process that is just exiting may keep a file open for writing for a moment.
    pub fn set_read_only(&self, read_only: bool) {
        let mount = ["mount", "-o", if read_only { "remount,ro" } else { "remount,rw" }];
        wait_until("the file system is remounted", PATIENCE, || self.try_run(&mount));
    }

    /// Fills the file system.
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
        assert!(self.try_run(command), "{command:?} {}", self.0.display());
    }

    fn try_run(&self, command: &[&str]) -> bool {
        Command::new(command[0]).args(&command[1..]).arg(&self.0).status().unwrap().success()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.thaw();
        // A lazy unmount succeeds even while processes work in it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
