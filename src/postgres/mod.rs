//! What PostgreSQL defines: bytes and names in, types out.
//!
//! Owns: every format and name that PostgreSQL prescribes, each with its source. Does no I/O and links only std
//! and serde, because the small programs need half of it.

pub mod lsn;
pub mod timeline;
pub mod wal_file;

pub use lsn::{Lsn, SegmentNumber, SegmentSize};
pub use timeline::{TimelineHistory, TimelineId, TimelineSwitch};
pub use wal_file::{SegmentName, WalFileName};
