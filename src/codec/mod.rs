//! How raw bytes become stored bytes and back.
//!
//! Owns: the checksums over both sides ([`checksum`]). Does not own: files or network, which are `store`: bytes
//! come in as arguments and go out into buffers.

pub mod checksum;

pub use checksum::{ContentHasher, ContentSum, Crc32, Digest};
