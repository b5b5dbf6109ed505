//! The records of archived WAL, as far as recovery depends on them: a port, so that plans can be made over archives that tests
//! make up.

use super::path::{PathWal, WalCatalog};
use crate::error::Result;
use crate::postgres::cluster::control_file::ServerLimits;
use crate::postgres::{Lsn, PgTimestamp, RestorePointName, SegmentNumber, Xid};
use std::ops::ControlFlow;

/// The WAL of one cluster, as far as it is archived.
pub trait Archive: WalCatalog {
    /// Visits the records that begin in the segments `first` to `last` of `wal`, in order, until `visit` breaks, a
    /// segment is not there, or no valid record follows. Reads into the segment after `last` only to complete a record.
    ///
    /// The position after the last record that was visited; `None` if there was none.
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

/// A WAL record, as far as a recovery target can mean it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalMark {
    /// The position of its first byte.
    pub start: Lsn,
    /// The position after its last byte.
    pub end: Lsn,
    /// What it says.
    pub event: WalEvent,
}

/// What a record says to whoever looks for a recovery target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalEvent {
    /// A transaction committed or aborted.
    TransactionEnd {
        /// The transaction.
        xid: Xid,
        /// When, by the clock of the server that wrote it.
        time: PgTimestamp,
        /// Which of the two.
        outcome: Outcome,
        /// Whether the subtransaction that is looked for was part of it.
        holds_wanted: bool,
    },
    /// A checkpoint was completed.
    Checkpoint {
        /// The next transaction's number, with its epoch in the upper half.
        next_xid: u64,
    },
    /// A tablespace was created in this directory; empty: in the data directory, in place of a link.
    NewTablespace(String),
    /// Somebody called `pg_create_restore_point`; the name is `None` if it is not UTF-8.
    RestorePoint {
        /// The name that was given.
        name: Option<RestorePointName>,
        /// When.
        time: PgTimestamp,
    },
    /// The server was started with other settings.
    ParameterChange {
        /// What a server in recovery must not undercut from here on.
        limits: ServerLimits,
        /// Whether no recovery goes past this record, because WAL was written with `wal_level = minimal` after it.
        is_minimal: bool,
    },
    /// Anything else.
    Other,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It committed.
    Commit,
    /// It was rolled back.
    Abort,
}

/// The end of a transaction, in the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionEnd {
    /// The transaction.
    pub xid: Xid,
    /// When it ended, by the clock of the server that wrote it.
    pub time: PgTimestamp,
    /// How.
    pub outcome: Outcome,
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
