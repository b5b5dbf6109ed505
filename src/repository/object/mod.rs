//! The content of objects on its way into a store and out of it: the only place of the repository that creates and opens
//! objects.
//!
//! | type | used by |
//! |---|---|
//! | [`HeadedWriter`] | WAL objects, whose header is known last |
//! | [`SummedWriter`] | packs, and the framed lists of a backup |
//! | [`Writer`], [`put`] | `manifest.json` |
//! | [`Reader`]; [`FrameReader`], [`read_whole`] above it | all of them |
//!
//! Offsets and lengths are those of the bytes that pass through here, whatever a store makes of them.
//!
//! Two objects pass this place by, because they hold no data: `format.json`, which says how everything else is to be read,
//! and `running`, which is replaced with every heartbeat.

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
