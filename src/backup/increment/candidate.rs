//! A file that may be stored incrementally.

use crate::backup::files::{PlannedRelation, ServerFile};
use std::path::Path;

/// A file that may be stored incrementally.
pub struct Candidate<'a> {
    /// Its index in the list.
    pub number: usize,
    /// The relation that its path names.
    pub relation: PlannedRelation,
    /// The file.
    pub file: &'a ServerFile<'a>,
    /// Its path in the file system.
    pub location: &'a Path,
    /// Its current length in bytes.
    pub bytes: u64,
}
