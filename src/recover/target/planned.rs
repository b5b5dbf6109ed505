//! Where a recovery starts and ends.

use crate::postgres::cluster::control_file::ServerLimits;
use crate::postgres::{Lsn, SegmentName, TargetSettings, TimelineHistory};
use crate::repository::wal::TransactionEnd;

/// Start and end of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPlan {
    /// The label of the backup.
    pub backup: String,
    /// The target timeline, with its ancestors.
    pub history: TimelineHistory,
    /// The target settings for the server.
    pub settings: TargetSettings,
    /// The first segment that recovery needs.
    pub first_segment: SegmentName,
    /// The last segment that recovery needs, as far as known.
    pub last_segment: SegmentName,
    /// Number of segments that recovery needs.
    pub segments: u64,
    /// Where recovery is expected to end.
    pub expected: ExpectedEnd,
    /// The highest values of the limited server settings along the way, if they changed after the backup.
    pub limits: Option<ServerLimits>,
    /// Whether an in-place tablespace was created along the way.
    pub new_in_place_tablespace: bool,
    /// Warnings to show before the recovery starts.
    pub warnings: Vec<String>,
}

/// The expected end of recovery, as far as the archive shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpectedEnd {
    /// Why the end is not proven; `None` if it is.
    pub unproven: Option<String>,
    /// The position after the last replayed record.
    pub end: Option<Lsn>,
    /// The last recovered transaction, if it ended after the backup.
    pub last_transaction: Option<TransactionEnd>,
    /// The first transaction that is not recovered.
    pub first_lost: Option<TransactionEnd>,
}
