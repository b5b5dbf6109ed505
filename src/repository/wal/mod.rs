//! WAL files as objects: encoded once, checked wherever they pass.
//!
//! An object is a skippable frame that says what follows ([`header`]), then the file in compressed frames.

mod check;
mod decode;
mod encode;
mod header;
mod inventory;
mod object;
mod put;
mod put_error;

pub use check::WalExpectation;
pub use decode::{FetchedWal, fetch, header_of, read, sum};
pub use encode::PageCheck;
pub use inventory::{
    SegmentRun, Timelines, later_segment, segment_ends, segment_runs, timelines, visit_segments,
};
pub use put::{FileIdentity, StoredWal, WalSource, history_beside, put};
pub use put_error::PutError;
