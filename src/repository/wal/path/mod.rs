//! Paths over timelines: which segments lead to a point, which of them are missing, and where the WAL ends.
//!
//! Owns: the only answers to these questions. `archive-get`, `info`, `check`, `recover` and the back-fill all use this
//! module, so that none of them takes lost WAL for the end of the archive while another calls it a hole.
//!
//! The rule: a missing segment is a *hole* if something stored proves that it existed. A later segment of the same
//! timeline proves it, and so does a history file that leaves the timeline in a later segment.

mod absence;
mod catalog;
mod held;
mod latest;
#[cfg(test)]
mod made_up;
#[cfg(test)]
mod matrix_tests;
mod snapshot;
mod timeline_path;

pub use absence::{
    ArchiveEnd, HoleProof, divergence, has_segments, has_segments_from, judge_history, judge_segment,
};
pub use catalog::{RepositoryCatalog, WalCatalog};
pub use held::{PathRun, PathWal};
pub use latest::{missing_history, resolve};
pub use snapshot::{WalSearch, WalSnapshot};
pub use timeline_path::{PathSpan, TimelinePath};
