//! WAL records: what each says of itself, and what the few say on which recovery targets depend.

use super::control_file::ServerLimits;
use super::little_endian::{array_at, u8_at, u32_at, u64_at};
use super::lsn::Lsn;
use super::timeline::TimelineId;
use super::timestamp::PgTimestamp;
use super::xid::Xid;

/// One WAL record, whose checksum held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRecord<'a> {
    /// The position of its first byte.
    pub start: Lsn,
    /// The position where the next record may begin: aligned to 8 bytes, and after a switch the next segment.
    pub end: Lsn,
    /// The timeline of the page on which it begins.
    pub timeline: TimelineId,
    /// Which part of the server wrote it.
    pub resource_manager: ResourceManager,
    /// Its kind, in the terms of the resource manager; the lower four bits are common to all.
    pub info: u8,
    /// The transaction to which it belongs; 0 for none.
    pub xid: Xid,
    /// Its length in bytes, without the headers of the pages that it spans.
    pub total_bytes: u32,
    /// What it says, where anybody cares.
    pub payload: WalPayload<'a>,
}

/// The number of a resource manager. Source: PostgreSQL `access/rmgrlist.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResourceManager(u8);

/// What a record says, where a backup or a recovery depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalPayload<'a> {
    /// A transaction committed.
    Commit(TransactionEnd),
    /// A transaction was rolled back.
    Abort(TransactionEnd),
    /// Somebody called `pg_create_restore_point`.
    RestorePoint {
        /// When.
        time: PgTimestamp,
        /// Its name, in the encoding of the database in which it was created.
        name: &'a [u8],
    },
    /// A checkpoint was completed.
    Checkpoint {
        /// Whether the server was running.
        kind: CheckpointKind,
        /// Where recovery from this checkpoint begins.
        redo: Lsn,
        /// The timeline.
        timeline: TimelineId,
        /// The timeline before, if this record begins a new one; else the same.
        previous_timeline: TimelineId,
        /// The next transaction's number, with its epoch in the upper half.
        next_xid: u64,
    },
    /// A tablespace was created.
    TablespaceCreate {
        /// Its object identifier.
        oid: u32,
        /// Its directory; empty for one within the data directory.
        path: &'a [u8],
    },
    /// Recovery ended without a checkpoint, and a new timeline began.
    EndOfRecovery {
        /// When.
        time: PgTimestamp,
        /// The new timeline.
        timeline: TimelineId,
        /// The timeline that was left.
        previous_timeline: TimelineId,
    },
    /// A base backup of a primary ended here.
    BackupEnd {
        /// Where the backup's replay begins.
        start_point: Lsn,
    },
    /// The server was started with other settings than before.
    ParameterChange {
        /// What a server in recovery must not undercut from here on.
        limits: ServerLimits,
        /// Whether it writes with `wal_level = minimal` from here on: no recovery goes past this record.
        is_minimal: bool,
    },
    /// The rest of the segment is unused.
    Switch,
    /// Anything else.
    Other,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionEnd {
    /// The transaction: of a prepared one, its own number, not that of who finished it.
    pub xid: Xid,
    /// When; `recovery_target_time` compares with this.
    pub time: PgTimestamp,
    /// Whether the subtransaction that the reader looks for is part of it.
    pub holds_wanted: bool,
}

/// When a checkpoint was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointKind {
    /// At shutdown or at the end of recovery: nothing was going on.
    Shutdown,
    /// While the server ran.
    Online,
}

impl ResourceManager {
    /// Of the WAL itself: checkpoints, restore points, switches.
    pub const XLOG: ResourceManager = ResourceManager(0);
    /// Of transactions.
    pub const TRANSACTION: ResourceManager = ResourceManager(1);
    /// Of tablespaces.
    pub const TABLESPACE: ResourceManager = ResourceManager(5);

    /// The number.
    pub const fn as_u8(self) -> u8 {
        self.0
    }
}

impl WalRecord<'_> {
    /// The time that the record carries, with which `recovery_target_time` compares.
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

/// The fixed part at the start of each record.
///
/// Shape: total length (4), transaction (4), start of the record before (8), info (1), resource manager (1), padding (2),
/// CRC-32C of all that follows and then of the bytes before it (4); little-endian. Source: PostgreSQL
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
    /// The bytes before the checksum, which it covers.
    pub(super) const CHECKED_BYTES: usize = 20;

    pub(super) fn parse(bytes: &[u8; RecordHeader::BYTES]) -> RecordHeader {
        // The array is as long as the header, so that no field is missing.
        RecordHeader {
            xid: Xid::new(u32_at(bytes, 4).unwrap_or_default()),
            previous: u64_at(bytes, 8).unwrap_or_default(),
            info: u8_at(bytes, 16).unwrap_or_default(),
            resource_manager: ResourceManager(u8_at(bytes, 17).unwrap_or_default()),
            checksum: array_at(bytes, 20).map(u32::from_le_bytes).unwrap_or_default(),
        }
    }
}
