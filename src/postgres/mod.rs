//! Formats and names that PostgreSQL defines: parses bytes and names into types.
//!
//! Owns: every format and name that PostgreSQL prescribes, each with its source. Does no I/O. The parts that the small
//! programs need link only std, serde and crc32c; the rest is behind the feature `companion`.

#[cfg(feature = "companion")]
pub mod backup;
pub mod cluster;
#[cfg(feature = "companion")]
pub mod page;
#[cfg(feature = "companion")]
pub mod recovery;
pub mod value;
pub mod version;
pub mod wal;

#[cfg(feature = "companion")]
pub use backup::incremental::IncrementalHeader;
#[cfg(feature = "companion")]
pub use backup::manifest::{
    BackupManifestReader, BackupManifestWriter, ManifestFile, ManifestVersion, WalRange,
};
pub use cluster::control_file::{ClusterState, ControlFile};
pub use cluster::postmaster_pid::PostmasterPid;
#[cfg(feature = "companion")]
pub use recovery::target::{
    RecoveryTarget, RestorePointName, TargetAction, TargetBound, TargetSettings, TargetTimeline,
};
pub use value::lsn::{Lsn, SegmentNumber, SegmentSize};
#[cfg(feature = "companion")]
pub use value::relation::{
    BlockNumber, DatabaseDirectory, ForkName, Oid, RelFileLocator, RelFileNumber, RelativeBlockNumber,
};
pub use value::system_identifier::SystemIdentifier;
pub use value::timeline::{TimelineHistory, TimelineId, TimelineSwitch};
#[cfg(feature = "companion")]
pub use value::timestamp::PgTimestamp;
#[cfg(feature = "companion")]
pub use value::xid::{WantedXid, Xid};
pub use version::major::MajorVersion;
#[cfg(feature = "companion")]
pub use version::server::ServerVersion;
pub use wal::file_name::{SegmentName, WalFileName};
pub use wal::header::{LongPageHeader, WalPageHeader};
#[cfg(feature = "companion")]
pub use wal::reader::{WalEnd, WalEndCause, WalProgress, WalReader};
#[cfg(feature = "companion")]
pub use wal::record::{CheckpointKind, ResourceManager, TransactionEndRecord, WalPayload, WalRecord};
