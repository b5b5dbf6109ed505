//! The content of objects on its way into a store and out of it. Nothing else in the repository creates and opens
//! objects.
//!
//! | type | used by |
//! |---|---|
//! | [`HeadedWriter`] | WAL objects, whose header is known last |
//! | [`SummedWriter`] | packs, and the framed lists of a backup |
//! | [`Writer`], [`put`] | `manifest.json` |
//! | [`Reader`]; [`FrameReader`], [`read_whole`] above it | all of them |
//!
//! Offsets and lengths are those of the bytes that pass through here, whatever form a store keeps them in.
//!
//! Two objects are exceptions, because they hold no data: `format.json`, which states how all others are read, and
//! `running`, which is overwritten by every heartbeat.

mod frames;
mod headed;
mod put_error;
mod reader;
mod small;
mod summed;
mod writer;

pub use frames::{FrameError, FrameReader, NextFrame};
pub use headed::HeadedWriter;
pub use put_error::PutError;
pub use reader::Reader;
pub use small::{put, read_whole};
pub use summed::SummedWriter;
pub use writer::Writer;
