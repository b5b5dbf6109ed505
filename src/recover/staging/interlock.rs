//! PostgreSQL's own interlock: a server does not start where `postmaster.pid` names a process that lives.
//!
//! Source: PostgreSQL `utils/init/miscinit.c`, `CreateLockFile`.

use crate::durable::{self, Disk};
use crate::error::{Context, Error, ErrorKind, Result};
use std::io;
use std::path::{Path, PathBuf};

/// The file's name.
pub const NAME: &str = "postmaster.pid";

/// Its name until it is whole.
const NEW_NAME: &str = "pgark-recovery-incomplete.pid";

/// Our `postmaster.pid` in a data directory, for as long as this process lives.
#[derive(Debug)]
pub struct Interlock(PathBuf);

impl Interlock {
    /// Takes the data directory: no server starts in it from now on. What a dead server, or a killed recovery, has left is
    /// replaced, as a server replaces it.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when a server runs in it, or was faster; and the operating system's.
    pub fn take(disk: &dyn Disk, data_directory: &Path) -> Result<Interlock> {
        let path = data_directory.join(NAME);
        let what = || format!("could not write \"{}\"", path.display());
        super::examine::refuse_running(data_directory)?;
        // Under another name until it is whole: no server starts beside an empty one.
        let new = data_directory.join(NEW_NAME);
        durable::remove_all(disk, &new)?;
        let file = disk.create_new(&new, 0o600).context(what)?;
        let content = format!("{}\n{}\n", std::process::id(), data_directory.display());
        disk.write_all(&file, content.as_bytes()).context(what)?;
        disk.sync_file(&file, &new).context(what)?;
        durable::remove_all(disk, &path)?;
        match disk.rename_new(&new, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::new(
                ErrorKind::Conflict,
                format!("a server is being started in \"{}\"", data_directory.display()),
            )
            .hint("Stop it, then try again.")),
            renamed => renamed.context(what).map(|()| Interlock(path)),
        }
    }

    /// Lets servers start.
    ///
    /// # Errors
    /// The operating system's.
    pub fn give_up(self, disk: &dyn Disk) -> Result<()> {
        disk.remove_file(&self.0).context(|| format!("could not remove \"{}\"", self.0.display()))
    }
}
