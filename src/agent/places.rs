//! The systems' places in the repository.
//!
//! The spool remembers which places exist. If a file system is not mounted after a reboot, an empty directory
//! stands where the repository was, and recovery would not find WAL that is stored there.

use crate::config::Config;
use crate::durable::{self, Disk};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::postgres::{MajorVersion, SystemIdentifier};
use crate::repository::Repository;
use crate::repository::wal::PutError;
use crate::store::Store;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The most systems that one agent serves. Usually there is one; after `initdb` or `pg_upgrade` in the same
/// directory there is a second.
const SYSTEMS_MAX: usize = 16;

/// A system and the version of its servers, if known.
type Origin = (SystemIdentifier, Option<MajorVersion>);

/// Opens the place of each system once.
#[derive(Debug)]
pub struct Places {
    config: Arc<Config>,
    store: Arc<dyn Store>,
    disk: Arc<dyn Disk>,
    open: Mutex<HashMap<Origin, Arc<Repository>>>,
    /// The places listed in the file in the spool, as far as this agent has read it.
    remembered: Mutex<HashSet<String>>,
    /// The file in the spool with one line for each known place.
    seen: PathBuf,
}

impl Places {
    /// The places of a configuration. `seen` is the file in the spool that lists the known ones.
    pub fn new(config: Arc<Config>, store: Arc<dyn Store>, disk: Arc<dyn Disk>, seen: PathBuf) -> Places {
        Places { config, store, disk, open: Mutex::default(), remembered: Mutex::default(), seen }
    }

    /// The disk of this process.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Creates the place of a system if it never existed. If it did, the repository is unavailable.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when a known place is missing, and the store's own. This host's, when the
    /// place cannot be recorded in the spool.
    pub fn make(&self, repository: &Repository) -> Result<(), PutError> {
        // Held until the end: only one thread may append a line at a time.
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let line = repository.place();
        if remembered.contains(&line) && repository.was_made() {
            return repository.make().map_err(PutError::Repository);
        }
        let what = || format!("could not use \"{}\"", self.seen.display());
        let seen = match fs::read_to_string(&self.seen) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other.context(what).map_err(PutError::Local)?,
        };
        if seen.lines().any(|known| known == line) {
            remembered.insert(line);
            return match repository.exists().map_err(PutError::Repository)? {
                true => repository.make().map_err(PutError::Repository),
                false => Err(PutError::Repository(repository.vanished().hint(format!(
                    "Check that its file system is mounted. To start with a new repository, remove \"{}\".",
                    self.seen.display()
                )))),
            };
        }
        repository.make().map_err(PutError::Repository)?;
        let seen = format!("{seen}{line}\n");
        durable::replace_file(self.disk.as_ref(), &self.seen, seen.as_bytes(), 0o600)
            .map_err(PutError::Local)?;
        remembered.insert(line);
        Ok(())
    }

    /// The place of a system whose servers are of this version, if it is known.
    ///
    /// # Errors
    /// [`ErrorKind::Foreign`] when the configuration belongs to another system.
    pub fn of(&self, system: SystemIdentifier, version: Option<MajorVersion>) -> Result<Arc<Repository>> {
        if let Some(pinned) = self.config.system_identifier
            && pinned != system
        {
            return Err(Error::new(
                ErrorKind::Foreign,
                format!("the data directory has system identifier {system}, but the configuration requires {pinned}"),
            )
            .hint("If the cluster was initialized again or upgraded, set system_identifier to the new one."));
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(repository) = open.get(&(system, version)) {
            return Ok(repository.clone());
        }
        if open.len() >= SYSTEMS_MAX {
            open.clear();
        }
        let repository = Repository::new(self.store.clone(), self.config.cluster.as_str(), system)?;
        let repository = Arc::new(repository.assuming(self.config.assumed_version).of_version(version));
        open.insert((system, version), repository.clone());
        Ok(repository)
    }
}
