//! The event awaited from a started server, and the point that it reached.

use crate::postgres::{Lsn, PgTimestamp, TimelineId};

/// Where recovery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachedPoint {
    /// What the server does now.
    pub state: ReachedState,
    /// The position after the last replayed record; `None` if the server has shut down.
    pub replayed: Option<Lsn>,
    /// When the last replayed transaction ended; `None` if no transaction was replayed.
    pub last_transaction: Option<PgTimestamp>,
    /// The timeline that the server writes to now; `None` while it does not write.
    pub timeline: Option<TimelineId>,
}

/// The event awaited from a started server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// Reaching the target and pausing there.
    Target,
    /// Reaching the target or the end of the WAL, and promoting.
    Opening,
    /// Reaching the target and shutting down.
    Stop,
    /// Following the archive, open for reading.
    Following,
    /// Following the primary by streaming, or else the archive.
    Streaming,
}

/// State of the server after recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReachedState {
    /// A standby, open for reading, that reads its WAL from the archive.
    Following,
    /// A standby that streams from its primary.
    Streaming,
    /// Paused, open for reading: at the target, unless another reason holds it.
    Paused,
    /// Open for writing, on a new timeline.
    Promoted,
    /// Shut down at the target.
    ShutDown,
}
