//! The history files without which a timeline's segments are useless.
//!
//! PostgreSQL marks the history file of a new timeline for archiving only if archiving is on at that moment.
//! A server that was recovered with archiving off, and archives later, never requests it. Yet recovery needs
//! it, and without it a second server would take the same timeline. The agent therefore stores it before the
//! first segment.

use crate::config::Compression;
use crate::durable::parent_directory;
use crate::postgres::{TimelineId, WalFileName};
use crate::repository::Repository;
use crate::repository::wal::{self, PageCheck, PutError, WalSource};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use tracing::info;

/// The timeline of one server whose history files are stored; 0 for none.
#[derive(Debug, Default)]
pub struct Histories(AtomicU32);

impl Histories {
    /// Stores the history files that `source` needs from the same directory: its timeline's and its
    /// ancestors'.
    ///
    /// # Errors
    /// As [`wal::put`], distinguished by owner: [`ErrorKind::Conflict`](crate::error::ErrorKind::Conflict)
    /// when another server has taken the timeline.
    pub fn put_before(
        &self,
        source: &WalSource,
        repository: &Repository,
        compression: Compression,
        scratch: &Path,
    ) -> Result<(), PutError> {
        let timeline = source.name.timeline();
        let is_history = matches!(source.name, WalFileName::History(_));
        if is_history || timeline == TimelineId::FIRST || self.0.load(Ordering::Relaxed) == timeline.as_u32()
        {
            return Ok(());
        }
        let pg_wal = parent_directory(&source.path);
        let history = wal::history_beside(repository, source.disk.as_ref(), pg_wal, timeline)?;
        let ancestors = history.iter().flat_map(|history| history.switches());
        let timelines = ancestors.map(|switch| switch.timeline).chain([timeline]);
        for name in timelines.filter(|timeline| *timeline != TimelineId::FIRST).map(WalFileName::History) {
            let path = pg_wal.join(name.to_string());
            if !path.exists() {
                continue;
            }
            let beside = WalSource { name, path, pages: PageCheck::FirstPage, ..source.clone() };
            let stored = wal::put(repository, &beside, compression, scratch, NonZeroUsize::MIN)
                .map_err(|error| error.context(&format!("could not store {name} before it")))?;
            info!(%name, outcome = ?stored.outcome, "the history of the timeline is stored");
        }
        self.0.store(timeline.as_u32(), Ordering::Relaxed);
        Ok(())
    }
}
