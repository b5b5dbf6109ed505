//! The work of the uploads that runs on threads: each job ends as an event.

use super::machine::FILES_MAX;
use super::messages::{Event, ServerNumber, StoredAs, Work};
use crate::agent::backfill::Backfill;
use crate::agent::competing_timelines;
use crate::agent::histories::Histories;
use crate::agent::places::Places;
use crate::agent::ready;
use crate::config::Compression;
use crate::durable::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{SegmentName, SegmentSize, TimelineId, WalFileName};
use crate::repository::Repository;
use crate::repository::wal::{self, FileIdentity, PageCheck, PutError, WalSource};
use crate::spool::Spool;
use crate::store::StoreExt;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use tracing::{debug, warn};

/// The server whose files are stored.
#[derive(Clone)]
pub struct ServerFiles {
    /// Distinguishes it from its predecessors.
    pub number: ServerNumber,
    /// The place of its system.
    pub repository: Arc<Repository>,
    /// Its `pg_wal`.
    pub pg_wal: PathBuf,
    /// Its segment size.
    pub segment_size: SegmentSize,
    /// The disk through which they are read.
    pub disk: Arc<dyn Disk>,
    /// Which histories are stored.
    pub histories: Arc<Histories>,
}

/// What all jobs share.
#[derive(Clone)]
pub struct Jobs {
    /// How files are compressed.
    pub compression: Compression,
    /// Receives what does not fit into memory.
    pub spool: Spool,
    /// The systems' places.
    pub places: Arc<Places>,
}

impl ServerFiles {
    /// The identity of the file that has a name now; `None` if there is none.
    pub fn identity(&self, name: WalFileName) -> Option<FileIdentity> {
        FileIdentity::of(self.disk.as_ref(), &self.path(name)).ok()
    }

    /// The directory of the marks.
    pub fn archive_status(&self) -> PathBuf {
        self.pg_wal.join("archive_status")
    }

    fn path(&self, name: WalFileName) -> PathBuf {
        self.pg_wal.join(name.to_string())
    }
}

impl Jobs {
    /// Does the work for a server; returns how it ended.
    pub fn run(&self, work: Work, server: &ServerFiles) -> Event {
        match work {
            Work::Store { name, threads } => self.store(server, name, threads),
            Work::Confirm { name, stored } => confirm(server, name, stored),
            Work::List => list(server),
            Work::Backfill { timeline } => self.backfill(server, timeline),
            Work::CheckTimelines { segment } => check_timelines(server, segment),
        }
    }

    /// Stores a file, and before it the history that its timeline needs.
    fn store(&self, server: &ServerFiles, name: WalFileName, threads: NonZeroUsize) -> Event {
        let source = WalSource {
            name,
            path: server.path(name),
            segment_size: server.segment_size,
            pages: PageCheck::FirstPage,
            disk: server.disk.clone(),
        };
        let (repository, scratch) = (&server.repository, self.spool.directory());
        let stored = guarded(|| {
            Ok(self
                .places
                .make(repository)
                .and_then(|()| server.histories.put_before(&source, repository, self.compression, scratch))
                .and_then(|()| wal::put(repository, &source, self.compression, scratch, threads)))
        });
        let result = stored
            .unwrap_or_else(|defect| Err(PutError::Local(defect)))
            .map_err(|error| error.map_local(|error| self.spool.failed(error)));
        if let Ok(stored) = &result {
            report(name, stored);
        }
        Event::Stored { server: server.number, name, result, identity: None }
    }

    /// Stores what the ancestors of a timeline lack.
    fn backfill(&self, server: &ServerFiles, timeline: TimelineId) -> Event {
        let backfill = Backfill {
            timeline,
            pg_wal: server.pg_wal.clone(),
            disk: server.disk.clone(),
            segment_size: server.segment_size,
            compression: self.compression,
            scratch: self.spool.directory().to_owned(),
        };
        let result = guarded(|| {
            self.places.make(&server.repository)?;
            Ok(backfill.run(&server.repository)?.missing)
        });
        Event::Backfilled { server: server.number, timeline, result }
    }
}

/// Checks whether a stored file still exists in the repository.
fn confirm(server: &ServerFiles, name: WalFileName, stored: StoredAs) -> Event {
    let repository = &server.repository;
    let result = guarded(|| repository.store().still_holds(&repository.layout().wal_file(stored.name)?));
    Event::Confirmed { server: server.number, name, stored, result, identity: None }
}

/// Lists the ready files.
fn list(server: &ServerFiles) -> Event {
    let ready = guarded(|| ready::scan(server.disk.as_ref(), &server.archive_status(), FILES_MAX));
    Event::Listed { server: server.number, ready, unmarked: Vec::new() }
}

/// Checks whether another timeline than that of `segment` is in use.
fn check_timelines(server: &ServerFiles, segment: SegmentName) -> Event {
    let result = guarded(|| competing_timelines::find(&server.repository, segment, server.segment_size));
    Event::CheckedTimelines { server: server.number, result }
}

/// Logs a stored file.
fn report(name: WalFileName, stored: &wal::StoredWal) {
    debug!(%name, bytes = stored.sum.length_bytes, outcome = ?stored.outcome, "stored");
    if let Some(damage) = &stored.damage_beside {
        warn!(
            %name, stored_as = %stored.name, %damage,
            "the repository's partial segment of this name is damaged; stored this one beside it"
        );
    } else if stored.name != name {
        warn!(
            %name, stored_as = %stored.name,
            "differs from the repository's partial segment of this name and was stored beside it: two servers were \
             promoted out of the same segment"
        );
    }
}

/// Runs a job and turns a panic into an error, so that its request is always answered.
fn guarded<T>(job: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Damaged, "internal error in the agent")
            .hint("This is a bug in pgark. Report it with the agent's log."))
    })
}
