//! The configuration file: TOML in, validated settings out.

mod compression;

pub use compression::Compression;
