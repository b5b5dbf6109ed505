//! Formats and names that PostgreSQL defines: parses bytes and names into types.
//!
//! Owns: every format and name that PostgreSQL prescribes, each with its source. Does no I/O. The parts that the small
//! programs need link only std, serde and crc32c; the rest is behind the feature `companion`.

#[cfg(feature = "companion")]
pub mod backup_label;
#[cfg(feature = "companion")]
pub mod backup_manifest;
pub mod control_file;
#[cfg(feature = "companion")]
pub mod incremental;
mod little_endian;
pub mod lsn;
pub mod major_version;
#[cfg(feature = "companion")]
pub mod page;
pub mod postmaster_pid;
#[cfg(feature = "companion")]
pub mod recovery_target;
pub mod server_version;
#[cfg(feature = "companion")]
pub mod setting;
pub mod system_identifier;
#[cfg(feature = "companion")]
pub mod tablespace_map;
#[cfg(feature = "companion")]
pub mod target_time;
pub mod timeline;
#[cfg(feature = "companion")]
pub mod timestamp;
pub mod version_facts;
#[cfg(feature = "companion")]
pub mod visibility_map;
pub mod wal_file;
pub mod wal_header;
#[cfg(feature = "companion")]
mod wal_payload;
#[cfg(feature = "companion")]
pub mod wal_reader;
#[cfg(feature = "companion")]
pub mod wal_record;
#[cfg(feature = "companion")]
pub mod xid;

#[cfg(feature = "companion")]
pub use backup_manifest::{
    BackupManifestReader, BackupManifestWriter, ManifestFile, ManifestVersion, WalRange,
};
pub use control_file::{ClusterState, ControlFile};
#[cfg(feature = "companion")]
pub use incremental::IncrementalHeader;
pub use lsn::{Lsn, SegmentNumber, SegmentSize};
pub use major_version::MajorVersion;
pub use postmaster_pid::PostmasterPid;
#[cfg(feature = "companion")]
pub use recovery_target::{
    RecoveryTarget, RestorePointName, TargetAction, TargetBound, TargetSettings, TargetTimeline,
};
#[cfg(feature = "companion")]
pub use server_version::ServerVersion;
pub use system_identifier::SystemIdentifier;
pub use timeline::{TimelineHistory, TimelineId, TimelineSwitch};
#[cfg(feature = "companion")]
pub use timestamp::PgTimestamp;
pub use wal_file::{SegmentName, WalFileName};
pub use wal_header::{LongPageHeader, WalPageHeader};
#[cfg(feature = "companion")]
pub use wal_reader::{WalEnd, WalEndCause, WalProgress, WalReader};
#[cfg(feature = "companion")]
pub use wal_record::{CheckpointKind, ResourceManager, TransactionEndRecord, WalPayload, WalRecord};
#[cfg(feature = "companion")]
pub use xid::{WantedXid, Xid};
