//! Values that every format holds: positions, timelines, identifiers, times.

pub(super) mod little_endian;
pub mod lsn;
#[cfg(feature = "companion")]
pub mod relation;
pub mod system_identifier;
pub mod timeline;
#[cfg(feature = "companion")]
pub mod timestamp;
#[cfg(feature = "companion")]
pub mod xid;
