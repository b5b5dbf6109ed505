//! The records of archived WAL that recovery depends on. A port, so that tests can plan recoveries from made-up
//! archives.

use super::path::{PathWal, WalCatalog};
use crate::error::Result;
use crate::postgres::cluster::control_file::ServerLimits;
use crate::postgres::{Lsn, PgTimestamp, RestorePointName, SegmentNumber, Xid};
use std::ops::ControlFlow;

/// The archived WAL of one cluster.
pub trait Archive: WalCatalog {
    /// Visits the records that begin in the segments `first` to `last` of `wal`, in order, until `visit` breaks, a
    /// segment is missing, or no valid record follows. Reads into the segment after `last` only to complete a record.
    ///
    /// Returns the position after the last visited record; `None` if there was none.
    fn visit_records(
        &self,
        wal: &PathWal,
        first: SegmentNumber,
        last: SegmentNumber,
        visit: &mut dyn FnMut(&WalMark) -> ControlFlow<()>,
    ) -> Result<Option<Lsn>>;

    /// How many stored bytes were read for records so far.
    fn read_bytes(&self) -> u64;
}

/// A WAL record with what a recovery target can refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalMark {
    /// The position of its first byte.
    pub start: Lsn,
    /// The position after its last byte.
    pub end: Lsn,
    /// Its meaning.
    pub event: WalEvent,
}

/// The meaning of a record for a recovery target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalEvent {
    /// A transaction committed or aborted.
    TransactionEnd {
        /// The transaction.
        xid: Xid,
        /// When, by the clock of the server that wrote it.
        time: PgTimestamp,
        /// Whether it committed.
        outcome: TransactionOutcome,
        /// Whether the wanted subtransaction was part of it.
        holds_wanted: bool,
    },
    /// A checkpoint was completed.
    Checkpoint {
        /// The next transaction ID, with its epoch in the upper half.
        next_xid: u64,
    },
    /// A tablespace was created in this directory. Empty: in the data directory, instead of a link.
    NewTablespace(String),
    /// A call of `pg_create_restore_point`. The name is `None` if it is not UTF-8.
    RestorePoint {
        /// The name of the restore point.
        name: Option<RestorePointName>,
        /// When.
        time: PgTimestamp,
    },
    /// The server was started with other settings.
    ParameterChange {
        /// The lower limits of these settings for a server in recovery from here on.
        limits: ServerLimits,
        /// Whether no recovery passes this record, because WAL after it was written with `wal_level = minimal`.
        is_minimal: bool,
    },
    /// Anything else.
    Other,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionOutcome {
    /// It committed.
    Commit,
    /// It was rolled back.
    Abort,
}

/// The end of a transaction in the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionEnd {
    /// The transaction.
    pub xid: Xid,
    /// When it ended, by the clock of the server that wrote it.
    pub time: PgTimestamp,
    /// Whether it committed.
    pub outcome: TransactionOutcome,
    /// The position of the record's first byte.
    pub start: Lsn,
    /// The position after the record's last byte.
    pub end: Lsn,
}

impl WalMark {
    /// The end of a transaction, if it is one.
    pub fn transaction_end(&self) -> Option<TransactionEnd> {
        match self.event {
            WalEvent::TransactionEnd { xid, time, outcome, .. } => {
                Some(TransactionEnd { xid, time, outcome, start: self.start, end: self.end })
            }
            _ => None,
        }
    }
}
