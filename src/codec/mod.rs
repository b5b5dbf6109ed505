//! Encodes raw bytes for storage and decodes them: frames, and checksums of both sides.
//!
//! Everything that pgark stores is a sequence of independent frames in a standard format, which `lz4 -d` or `zstd -d`
//! can read without pgark. Owns: encoding and decoding these frames ([`FrameEncoder`], [`FrameDecoder`]) and the
//! checksums ([`checksum`]). Does not own: the content of the frames (`repository`), and files or network (`store`).
//! Input comes as arguments, and output goes into buffers.
//!
//! # A stored sequence of frames
//! | magic (little-endian) | frame | restrictions beyond its own format |
//! |---|---|---|
//! | `0x184D2204` | LZ4 frame, version 1 | content size and content checksum present; no dictionary, no block checksums; blocks independent unless there is one only |
//! | `0xFD2FB528` | Zstandard frame | content size and content checksum present; no dictionary |
//! | `0x184D2A50` to `0x184D2A5F` | skippable frame of kind 0 to 15, known to both formats | at most [`SKIPPABLE_BYTES_MAX`] of payload |
//!
//! A content frame holds at most [`FRAME_RAW_BYTES_MAX`]; writers use [`FRAME_RAW_BYTES`]. This module cannot detect a
//! missing frame: the caller must also store the raw length and digest of the sequence.
//!
//! Source: `doc/lz4_Frame_format.md` of lz4 (version 1.6.1), RFC 8878.

pub mod checksum;
mod frame;
mod lz4;
mod zstd;

#[cfg(test)]
mod tests;

pub use checksum::{ContentHasher, ContentPart, ContentSum, Crc32, Digest};
pub use frame::{Decoded, FrameDecoder, FrameEncoder, skippable_frame};

use crate::error::{Error, Result};

/// Number of raw bytes that a writer puts into a frame: 256 KiB.
///
/// Small enough that the compressor's tables and the data stay in the second-level cache, large enough to lose
/// little of the ratio: zstd level 1 reaches 9.9 on WAL with page images, against 10.3 on 16 MiB at once.
pub const FRAME_RAW_BYTES: usize = 256 << 10;

/// Upper limit for the number of raw bytes in a frame: 4 MiB, the largest block of the LZ4 frame format.
pub const FRAME_RAW_BYTES_MAX: usize = 4 << 20;

/// Upper limit for the payload of a skippable frame, in bytes: 64 KiB.
pub const SKIPPABLE_BYTES_MAX: usize = 64 << 10;

/// Upper limit for the length of a stored frame, in bytes: incompressible content grows by less than 1 in 255 in both
/// formats. Without this limit, an endless number of empty blocks could be appended.
const FRAME_STORED_BYTES_MAX: usize = FRAME_RAW_BYTES_MAX + (64 << 10);

/// One block of a frame, according to its header.
struct Block {
    /// Length in bytes, with its header.
    stored_bytes: usize,
    /// Whether it is the last block, which is followed by the frame's checksum.
    last: bool,
}

/// Checks the content size in a frame header against the limit, before any allocation for it.
fn checked_raw_bytes(announced: u64) -> Result<usize> {
    match usize::try_from(announced) {
        Ok(bytes) if bytes <= FRAME_RAW_BYTES_MAX => Ok(bytes),
        _ => Err(Error::damaged(format!(
            "frame announces {announced} bytes, more than the {FRAME_RAW_BYTES_MAX} that a frame may hold"
        ))),
    }
}

/// The `N` bytes at offset `at`; `None` past the end.
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The little-endian number at offset `at`; `None` past the end.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}
