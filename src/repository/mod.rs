//! The names and formats of the objects in a store.
//!
//! Owns: the names of all objects of one cluster, and how WAL files and backups are encoded, checked and decoded. The
//! agent and all other use cases use the same code, so that what is verified is what is served.
//! `docs/repository-format.md` specifies the formats. Does not own: when anything is stored, fetched or removed.

pub mod backup;
mod format;
pub mod layout;
mod object;
mod systems;
mod version;
pub mod wal;

pub use format::FORMAT_VERSION;
pub use layout::{Layout, use_of};
pub use systems::choose_system;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::postgres::{MajorVersion, SystemIdentifier, TimelineHistory, TimelineId, WalFileName};
use crate::store::{ObjectKey, Store, StoreExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The place of one cluster, more exactly of one system identifier, in a repository.
#[derive(Debug)]
pub struct Repository {
    store: Arc<dyn Store>,
    layout: Layout,
    assumed_version: Option<MajorVersion>,
    version: Option<MajorVersion>,
    /// Whether this process has confirmed that the place exists in a supported format.
    checked: AtomicBool,
    /// Whether this process has confirmed that it may read the place.
    readable: AtomicBool,
}

impl Repository {
    /// The place of a system in `store`. Accesses nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if the cluster's name cannot be part of a key.
    pub fn new(store: Arc<dyn Store>, cluster: &str, system: SystemIdentifier) -> Result<Repository> {
        let layout = Layout::new(cluster, system)?;
        Ok(Repository {
            store,
            layout,
            assumed_version: None,
            version: None,
            checked: AtomicBool::new(false),
            readable: AtomicBool::new(false),
        })
    }

    /// The same place, whose WAL is read as WAL of this version if its own version is unknown.
    #[must_use]
    pub fn assuming(self, assumed_version: Option<MajorVersion>) -> Repository {
        Repository { assumed_version, ..self }
    }

    /// The same place with the version of the system's servers, if it is known. A system never changes its version,
    /// because `pg_upgrade` creates a new system.
    #[must_use]
    pub fn of_version(self, version: Option<MajorVersion>) -> Repository {
        Repository { version, ..self }
    }

    /// The version of the system's servers, if it is known.
    pub fn version(&self) -> Option<MajorVersion> {
        self.version
    }

    /// The version that is assumed for an unknown one.
    pub fn assumed_version(&self) -> Option<MajorVersion> {
        self.assumed_version
    }

    /// The keys of the objects.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The store of the objects.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Creates the place unless it exists, and checks that pgark can write its format.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a format of a newer version; those of the store.
    pub fn make(&self) -> Result<()> {
        if self.checked.load(Ordering::Relaxed) {
            // An unmounted file system leaves an empty directory, which must not be filled.
            return match self.store.still_holds(&self.layout.format()?)? {
                true => Ok(()),
                false => Err(self.vanished()),
            };
        }
        format::create(self.store.as_ref(), &self.layout)?;
        self.checked.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether this process has created the place or confirmed that it exists.
    pub fn was_made(&self) -> bool {
        self.checked.load(Ordering::Relaxed)
    }

    /// Checks that the place exists at this moment. Only an existing repository proves that a file is absent.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if there is no such place.
    pub fn check(&self) -> Result<()> {
        if self.exists()? {
            return Ok(());
        }
        Err(self.no_such_place())
    }

    /// Whether the place exists at this moment.
    ///
    /// # Errors
    /// As [`Repository::make`].
    pub fn exists(&self) -> Result<bool> {
        format::check(self.store.as_ref(), &self.layout)
    }

    /// Store, cluster and system: a line of the spool's file of known places.
    pub fn place(&self) -> String {
        format!("{} {} {}", self.store.location(), self.layout.cluster(), self.layout.system())
    }

    /// The error for a place that no longer exists.
    pub fn vanished(&self) -> Error {
        self.no_such_place().context("the repository has disappeared").hint(
            "Check that its file system is mounted. pgark does not archive into an empty directory instead.",
        )
    }

    /// Checks once that pgark can read the format of an existing place. A damaged `format.json` does not prevent access
    /// to intact files.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a format of a newer version; those of the store.
    pub fn check_readable(&self) -> Result<()> {
        if self.was_made() || self.readable.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.exists() {
            Err(error) if error.kind() != ErrorKind::Damaged => return Err(error),
            // A newer pgark may still create the place.
            Ok(false) => return Ok(()),
            Ok(true) | Err(_) => {}
        }
        self.readable.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn no_such_place(&self) -> Error {
        Error::unavailable(format!(
            "the repository \"{}\" holds nothing of cluster \"{}\" with system identifier {}",
            self.store.location(),
            self.layout.cluster(),
            self.layout.system()
        ))
        .hint("Check that it is the right repository, and that its file system is mounted. The first archived file initializes \
               a repository.")
    }

    /// The history of a timeline; `None` if the repository does not hold it, as for timeline 1.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`]; those of the store.
    pub fn history(&self, timeline: TimelineId) -> Result<Option<TimelineHistory>> {
        if timeline == TimelineId::FIRST {
            return Ok(None);
        }
        let name = WalFileName::History(timeline);
        let mut content = Vec::new();
        match wal::read(self, name, &mut content)? {
            Some(_) => TimelineHistory::parse(timeline, &content)
                .context(|| format!("could not use {name}"))
                .map(Some),
            None => Ok(None),
        }
    }
}

/// The clusters in a store, sorted.
///
/// # Errors
/// Those of the store.
pub fn clusters(store: &dyn Store) -> Result<Vec<String>> {
    Ok(store.list(None)?.directories)
}

/// The systems of a cluster in a store, ordered by their identifiers, which usually is the order of their creation.
///
/// # Errors
/// Those of the store.
pub fn systems(store: &dyn Store, cluster: &str) -> Result<Vec<SystemIdentifier>> {
    let listing = store.list(Some(&ObjectKey::new(cluster)?))?;
    let mut systems: Vec<SystemIdentifier> =
        listing.directories.iter().filter_map(|name| name.parse().ok()).collect();
    systems.sort_unstable();
    Ok(systems)
}
