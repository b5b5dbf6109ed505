//! A file that may be stored incrementally.

use super::files::PlannedRelation;
use std::fs::File;
use std::path::Path;

/// A file that may be stored incrementally.
pub struct Candidate<'a> {
    /// Its place in the list.
    pub number: usize,
    /// What its path says.
    pub relation: PlannedRelation,
    /// The file.
    pub file: &'a File,
    /// Where it lies.
    pub location: &'a Path,
    /// Its length now.
    pub bytes: u64,
}
