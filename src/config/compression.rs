//! How stored bytes are compressed.

use std::fmt;

/// The compression of new WAL files and packs. What is already stored tells its own compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Stored as they are, inside lz4 frames of uncompressed blocks, so that the same tools read them.
    None,
    /// lz4: the least CPU.
    Lz4,
    /// zstd at a level from 1 to 19: about half the bytes of lz4 at level 1, for 1.4 times its CPU.
    Zstd {
        /// The level, 1 to 19.
        level: u8,
    },
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compression::None => f.write_str("none"),
            Compression::Lz4 => f.write_str("lz4"),
            Compression::Zstd { level } => write!(f, "zstd (level {level})"),
        }
    }
}
