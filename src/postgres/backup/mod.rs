//! Files that belong to a base backup.

pub mod incremental;
pub mod label;
pub mod manifest;
pub mod tablespace_map;
