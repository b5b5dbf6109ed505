//! WAL files: their names, their pages, their records.

pub mod file_name;
pub mod header;
#[cfg(feature = "companion")]
mod payload;
#[cfg(feature = "companion")]
pub mod reader;
#[cfg(feature = "companion")]
pub mod record;
