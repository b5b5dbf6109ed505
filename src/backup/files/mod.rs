//! The files of a data directory: which ones a backup contains, what their paths mean, how they are read.

pub mod exclusions;
mod list;
pub mod required;
mod server_file;
pub mod walk;

pub use list::{FileList, PlannedRelation, relation_at, split, tablespace_prefix};
pub use server_file::ServerFile;
