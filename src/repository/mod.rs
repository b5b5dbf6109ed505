//! What lies where in a store, and in which format.
//!
//! Owns: the names of all objects of one cluster, how WAL files and backups are encoded, checked and decoded. Both
//! the agent and the other use cases go through here, so that what is verified is what is served.
//! `docs/repository-format.md` specifies the formats. Does not own: when anything is stored, fetched or removed.

pub mod backup;
mod format;
mod layout;
mod object;
mod version;
pub mod wal;

pub use layout::{Layout, use_of};

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
    /// Whether this process has seen that the place exists in a format that it understands.
    checked: AtomicBool,
    /// Whether this process has seen that it may read what is there.
    readable: AtomicBool,
}

impl Repository {
    /// The place of a system in `store`. Touches nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] when the cluster's name cannot be part of a key.
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

    /// The same place, whose WAL is read as that of this version if its own is unknown.
    #[must_use]
    pub fn assuming(self, assumed_version: Option<MajorVersion>) -> Repository {
        Repository { assumed_version, ..self }
    }

    /// The same place, whose WAL is of servers of this version, where it is known: a system never changes its version, since
    /// `pg_upgrade` makes a new one.
    #[must_use]
    pub fn of_version(self, version: Option<MajorVersion>) -> Repository {
        Repository { version, ..self }
    }

    /// The version of the system's servers, where it is known.
    pub fn version(&self) -> Option<MajorVersion> {
        self.version
    }

    /// The version as which an unknown one is read.
    pub fn assumed_version(&self) -> Option<MajorVersion> {
        self.assumed_version
    }

    /// The names of the objects.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Makes the place unless it exists, and checks that its format is one that we write.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a format of a newer version, and the store's own.
    pub fn make(&self) -> Result<()> {
        if self.checked.load(Ordering::Relaxed) {
            // A file system that was unmounted meanwhile leaves an empty directory, which must not be filled.
            return match self.store.still_holds(&self.layout.format()?)? {
                true => Ok(()),
                false => Err(self.vanished()),
            };
        }
        format::create(self.store.as_ref(), &self.layout)?;
        self.checked.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether this process has made or seen the place.
    pub fn was_made(&self) -> bool {
        self.checked.load(Ordering::Relaxed)
    }

    /// Makes sure that the place exists, now: only a repository that is there can say that a file is not.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when there is no such place.
    pub fn check(&self) -> Result<()> {
        if self.exists()? {
            return Ok(());
        }
        Err(self.nothing_of_it())
    }

    /// Whether the place exists, now.
    ///
    /// # Errors
    /// As [`Repository::make`].
    pub fn exists(&self) -> Result<bool> {
        format::check(self.store.as_ref(), &self.layout)
    }

    /// Store, cluster and system, as the spool's file of the places that were seen has them.
    pub fn place(&self) -> String {
        format!("{} {} {}", self.store.location(), self.layout.cluster(), self.layout.system())
    }

    /// The place was there, and is not any more.
    pub fn vanished(&self) -> Error {
        self.nothing_of_it().context("the repository has disappeared").hint(
            "Check that its file system is mounted. pgark does not archive into an empty directory instead.",
        )
    }

    /// Checks, once, that an existing place has a format that this pgark reads. A damaged `format.json` does not prevent
    /// access to intact files.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a format of a newer version, and the store's own.
    pub fn check_readable(&self) -> Result<()> {
        if self.was_made() || self.readable.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.exists() {
            Err(error) if error.kind() != ErrorKind::Damaged => return Err(error),
            // A place that does not exist yet may be made by a newer pgark.
            Ok(false) => return Ok(()),
            Ok(true) | Err(_) => {}
        }
        self.readable.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn nothing_of_it(&self) -> Error {
        Error::unavailable(format!(
            "the repository \"{}\" holds nothing of cluster \"{}\" with system identifier {}",
            self.store.location(),
            self.layout.cluster(),
            self.layout.system()
        ))
        .hint("Check that it is the right repository, and that its file system is mounted. The first archived file initializes \
               a repository.")
    }

    /// The history of a timeline; `None` when the repository does not hold it, as for timeline 1.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] and the store's own.
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

/// The clusters that a store holds, sorted.
///
/// # Errors
/// The store's own.
pub fn clusters(store: &dyn Store) -> Result<Vec<String>> {
    Ok(store.list(None)?.directories)
}

/// The systems that a store holds of a cluster, in the order of their identifiers, which is mostly that of their birth.
///
/// # Errors
/// The store's own.
pub fn systems(store: &dyn Store, cluster: &str) -> Result<Vec<SystemIdentifier>> {
    let listing = store.list(Some(&ObjectKey::new(cluster)?))?;
    let mut systems: Vec<SystemIdentifier> =
        listing.directories.iter().filter_map(|name| name.parse().ok()).collect();
    systems.sort_unstable();
    Ok(systems)
}
