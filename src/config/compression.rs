//! Compression methods.

use std::fmt;

/// The compression of new WAL files and packs. Stored objects identify their own compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Uncompressed blocks in lz4 frames, so that the same tools can read them.
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
