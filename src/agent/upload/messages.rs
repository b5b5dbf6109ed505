//! What the machine is told, and what it wants done.

use crate::agent::backfill::MissingSegments;
use crate::agent::competing_timelines::CompetingTimeline;
use crate::agent::ready::ReadyFiles;
use crate::error::{Error, Result};
use crate::postgres::{SegmentName, TimelineId, WalFileName};
use crate::repository::wal::{FileIdentity, PutError, StoredWal};
use std::num::NonZeroUsize;
use std::time::Duration;

/// Distinguishes a server from its predecessors, so that a result for one is not applied to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerNumber(pub u64);

/// The settings that the decisions depend on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many files are stored at a time.
    pub workers: usize,
    /// How long after the last request files are stored ahead of requests.
    pub ahead_for: Duration,
    /// The longest pause between two attempts.
    pub retry_max: Duration,
}

/// A request that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub u64);

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// Requests come from another server from now on.
    ServerChanged(ServerNumber),
    /// The current server requests that a file be stored. `identity` is that of the file that has the name now.
    Asked { request: RequestId, name: WalFileName, deadline: Duration, identity: Option<FileIdentity> },
    /// The server marked a file as ready.
    Marked(WalFileName),
    /// The kernel lost marks.
    MarksLost,
    /// `archive_status` was listed. Of the files for which no request waits, `unmarked` are no longer ready.
    Listed { server: ServerNumber, ready: Result<ReadyFiles>, unmarked: Vec<WalFileName> },
    /// An attempt to store a file has ended. `identity` is that of the file that has the name now.
    Stored {
        server: ServerNumber,
        name: WalFileName,
        result: std::result::Result<StoredWal, PutError>,
        identity: Option<FileIdentity>,
    },
    /// It was checked whether a stored file still exists in the repository.
    Confirmed {
        server: ServerNumber,
        name: WalFileName,
        stored: StoredAs,
        result: Result<bool>,
        identity: Option<FileIdentity>,
    },
    /// A back-fill has ended, with what the archive still lacks.
    Backfilled { server: ServerNumber, timeline: TimelineId, result: Result<Option<MissingSegments>> },
    /// The check for another timeline in use has ended.
    CheckedTimelines { server: ServerNumber, result: Result<Option<CompetingTimeline>> },
    /// The time that `wake_at` named has come. `trouble` is the store's current error while it retries.
    Woken { trouble: Option<Error> },
}

/// Something to do.
#[derive(Debug)]
pub enum Action {
    /// Begin this work for the current server. It ends with an event.
    Begin(Work),
    /// Answer a request.
    Answer(RequestId, Result<()>),
    /// Drop a request of a previous server without an answer.
    Drop(RequestId),
}

/// Work that takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Store a file, with this number of threads.
    Store { name: WalFileName, threads: NonZeroUsize },
    /// Check whether a stored file still exists in the repository.
    Confirm { name: WalFileName, stored: StoredAs },
    /// List `archive_status`.
    List,
    /// Store what the ancestors of a timeline lack.
    Backfill { timeline: TimelineId },
    /// Check whether another timeline than that of a segment is in use.
    CheckTimelines { segment: SegmentName },
}

/// Which bytes are stored, and under which name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredAs {
    /// The file that was read.
    pub identity: FileIdentity,
    /// The name in the repository.
    pub name: WalFileName,
}
