//! WAL files as objects: encoded once, and checked whenever they are stored or fetched.
//!
//! An object is a skippable frame that describes what follows ([`header`]), then the file in compressed frames.

mod check;
mod decode;
mod encode;
mod fork;
mod header;
mod inventory;
mod path;
mod put;
mod record_reader;
mod records;
mod sizes;

pub use check::WalExpectation;
pub use decode::{FetchedWal, fetch, read, readable_header, sum};
pub use encode::PageCheck;
pub use fork::{BackupSpan, Branch, TimelineFork, forks};
pub use inventory::{
    NameRun, SegmentRun, TimelineFiles, Timelines, segment_ends, timeline_files, timelines, visit_segments,
};
pub use path::{
    ArchiveEnd, HoleProof, PathRun, PathSpan, PathWal, RepositoryCatalog, TimelinePath, WalCatalog,
    WalSearch, WalSnapshot, divergence, has_segments, judge_history, judge_segment, missing_history, resolve,
};
pub use put::{FileIdentity, StoredWal, WalSource, history_beside, put};
pub use record_reader::RepositoryArchive;
pub use records::{Archive, TransactionEnd, TransactionOutcome, WalEvent, WalMark};
pub use sizes::{SegmentSizes, runs_of_size};

pub use crate::repository::object::PutError;
