//! For the crash tests only: a disk before whose n-th operation the process dies as by SIGKILL.
//!
//! Compiled in by the feature `failpoints`, never in a release. Every durable step of pgark is an operation of
//! [`Disk`], so that the tests hit each of them by counting up, and need no list of places.

use crate::durable::{Disk, RealDisk};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::env;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The environment variable that says before which operation to die, counted from 1.
pub const DIE_BEFORE: &str = "PGARK_DIE_BEFORE";

/// The disk that the environment asks for.
pub fn disk() -> Arc<dyn Disk> {
    match env::var(DIE_BEFORE).ok().and_then(|number| number.parse().ok()) {
        Some(operation) => Arc::new(DyingDisk { operation, done: AtomicU64::new(0) }),
        None => Arc::new(RealDisk),
    }
}

/// Counts operations, and dies before one of them.
#[derive(Debug)]
struct DyingDisk {
    operation: u64,
    done: AtomicU64,
}

impl DyingDisk {
    fn real(&self) -> RealDisk {
        if self.done.fetch_add(1, Ordering::SeqCst) + 1 == self.operation {
            // Nothing of us runs after this: no destructor, no handler.
            let _ = kill(Pid::this(), Signal::SIGKILL);
        }
        RealDisk
    }
}

impl Disk for DyingDisk {
    fn create_new(&self, path: &Path, mode: u32) -> io::Result<File> {
        self.real().create_new(path, mode)
    }

    fn create_directory(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.real().create_directory(path, mode)
    }

    fn sync_file(&self, file: &File, path: &Path) -> io::Result<()> {
        self.real().sync_file(file, path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.real().sync_directory(path)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.real().rename_new(from, to)
    }

    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.real().rename_over(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.real().remove_file(path)
    }

    fn sync_file_system(&self, opened: &File) -> io::Result<()> {
        self.real().sync_file_system(opened)
    }
}
