//! WAL records: their headers, and the content of those records on which recovery targets depend.

use crate::postgres::cluster::control_file::ServerLimits;
use crate::postgres::value::little_endian::{array_at, u8_at, u32_at, u64_at};
use crate::postgres::value::lsn::Lsn;
use crate::postgres::value::relation::Oid;
use crate::postgres::value::timeline::TimelineId;
use crate::postgres::value::timestamp::PgTimestamp;
use crate::postgres::value::xid::Xid;

/// A WAL record with a correct checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRecord<'a> {
    /// Position of its first byte.
    pub start: Lsn,
    /// Position at which the next record may begin: aligned to 8 bytes, and after a switch in the next segment.
    pub end: Lsn,
    /// The timeline of the page on which it begins.
    pub timeline: TimelineId,
    /// The resource manager that wrote it.
    pub resource_manager: ResourceManager,
    /// Its kind as defined by the resource manager; the lower four bits are common to all.
    pub info: u8,
    /// The transaction to which it belongs; 0 for none.
    pub xid: Xid,
    /// Its length in bytes, without the headers of the pages that it spans.
    pub total_bytes: u32,
    /// Its content, if it is relevant.
    pub payload: WalPayload<'a>,
}

/// The number of a resource manager. Source: PostgreSQL `access/rmgrlist.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResourceManager(u8);

/// The content of a record on which a backup or a recovery depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalPayload<'a> {
    /// A transaction committed.
    Commit(TransactionEndRecord),
    /// A transaction was rolled back.
    Abort(TransactionEndRecord),
    /// `pg_create_restore_point` was called.
    RestorePoint {
        /// The time.
        time: PgTimestamp,
        /// Its name, in the encoding of the database in which it was created.
        name: &'a [u8],
    },
    /// A checkpoint was completed.
    Checkpoint {
        /// Whether the server was shut down or running.
        kind: CheckpointKind,
        /// The redo point, where recovery from this checkpoint begins.
        redo: Lsn,
        /// The timeline.
        timeline: TimelineId,
        /// The previous timeline if this record begins a new one; otherwise the same as `timeline`.
        previous_timeline: TimelineId,
        /// The next transaction ID, with the epoch in the upper half.
        next_xid: u64,
    },
    /// A tablespace was created.
    TablespaceCreate {
        /// Its object identifier.
        oid: Oid,
        /// Its directory; empty for a tablespace within the data directory.
        path: &'a [u8],
    },
    /// Recovery ended without a checkpoint, and a new timeline began.
    EndOfRecovery {
        /// The time.
        time: PgTimestamp,
        /// The new timeline.
        timeline: TimelineId,
        /// The timeline that ended.
        previous_timeline: TimelineId,
    },
    /// A base backup of a primary ended here.
    BackupEnd {
        /// The position at which replay of the backup begins.
        start_point: Lsn,
    },
    /// The server was started with different settings.
    ParameterChange {
        /// The lower bounds for a server in recovery from here on.
        limits: ServerLimits,
        /// Whether `wal_level` is `minimal` from here on: no recovery can pass this record.
        is_minimal: bool,
    },
    /// The rest of the segment is unused.
    Switch,
    /// Anything else.
    Other,
}

/// The end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionEndRecord {
    /// The transaction ID; for a prepared transaction, its own, not that of the transaction that finished it.
    pub xid: Xid,
    /// The time; `recovery_target_time` is compared with it.
    pub time: PgTimestamp,
    /// Whether it includes the subtransaction that the reader searches for.
    pub holds_wanted: bool,
}

/// The kind of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointKind {
    /// At shutdown or at the end of recovery, without activity.
    Shutdown,
    /// While the server was running.
    Online,
}

impl ResourceManager {
    /// Records about WAL itself: checkpoints, restore points, switches.
    pub const XLOG: ResourceManager = ResourceManager(0);
    /// Records about transactions.
    pub const TRANSACTION: ResourceManager = ResourceManager(1);
    /// Records about tablespaces.
    pub const TABLESPACE: ResourceManager = ResourceManager(5);

    /// The number.
    pub const fn as_u8(self) -> u8 {
        self.0
    }
}

impl WalRecord<'_> {
    /// The time in the record, with which `recovery_target_time` is compared.
    ///
    /// Source: PostgreSQL `access/transam/xlogrecovery.c`, `getRecordTimestamp`.
    pub fn time(&self) -> Option<PgTimestamp> {
        match self.payload {
            WalPayload::Commit(end) | WalPayload::Abort(end) => Some(end.time),
            WalPayload::RestorePoint { time, .. } => Some(time),
            _ => None,
        }
    }
}

/// The fixed header of each record.
///
/// Shape: total length (4), transaction (4), start of the previous record (8), info (1), resource manager (1), padding
/// (2), CRC-32C of all that follows and then of the bytes before it (4); little-endian. Source: PostgreSQL
/// `access/xlogrecord.h`, `XLogRecord`.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHeader {
    pub(super) xid: Xid,
    pub(super) previous: u64,
    pub(super) info: u8,
    pub(super) resource_manager: ResourceManager,
    pub(super) checksum: u32,
}

impl RecordHeader {
    pub(super) const BYTES: usize = 24;
    /// Number of bytes before the checksum, which it covers.
    pub(super) const CHECKED_BYTES: usize = 20;

    pub(super) fn parse(bytes: &[u8; RecordHeader::BYTES]) -> RecordHeader {
        // The array has the length of the header, so no field is missing.
        RecordHeader {
            xid: Xid::new(u32_at(bytes, 4).unwrap_or_default()),
            previous: u64_at(bytes, 8).unwrap_or_default(),
            info: u8_at(bytes, 16).unwrap_or_default(),
            resource_manager: ResourceManager(u8_at(bytes, 17).unwrap_or_default()),
            checksum: array_at(bytes, 20).map(u32::from_le_bytes).unwrap_or_default(),
        }
    }
}
