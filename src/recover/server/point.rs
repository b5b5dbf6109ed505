//! What a started server is waited for to do, and where it came to.

use crate::postgres::{Lsn, PgTimestamp, TimelineId};

/// Where recovery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachedPoint {
    /// What the server does now.
    pub state: ReachedState,
    /// The position after the last record that was replayed; `None` when the server has stopped.
    pub replayed: Option<Lsn>,
    /// When the last transaction that was replayed ended; `None`: none was.
    pub last_transaction: Option<PgTimestamp>,
    /// The timeline on which the server writes now; `None` while it does not.
    pub timeline: Option<TimelineId>,
}

/// What a started server is waited for to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// To reach its target, and wait there.
    Target,
    /// To reach its target or the end of the WAL, and open for writing there.
    Opening,
    /// To reach its target, and stop there.
    Stop,
    /// To follow the archive, open for reading.
    Following,
    /// To follow its primary by streaming, or else the archive.
    Streaming,
}

/// What the server does after recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReachedState {
    /// It is a standby, open for reading, that finds its WAL in the archive.
    Following,
    /// It is a standby that streams from its primary.
    Streaming,
    /// It waits, open for reading: at the target, unless something else keeps it.
    Paused,
    /// It is open for writing, on a new timeline.
    Promoted,
    /// It has stopped at the target.
    ShutDown,
}
