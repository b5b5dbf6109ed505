//! How raw bytes become stored bytes and back: frames, and the checksums over both sides.
//!
//! Everything that pgark stores is a sequence of independent frames in a standard format, so that `lz4 -d` or
//! `zstd -d` read it without pgark. Owns: writing and reading these frames ([`FrameEncoder`], [`FrameDecoder`])
//! and the checksums ([`checksum`]). Does not own: what the frames contain, which is `repository`, and files or
//! network, which are `store`: bytes come in as arguments and go out into buffers.
//!
//! # A stored sequence of frames
//! | magic (little-endian) | frame | restrictions beyond its own format |
//! |---|---|---|
//! | `0x184D2204` | LZ4 frame, version 1 | content size and content checksum present; no dictionary, no block checksums; blocks independent unless there is one only |
//! | `0xFD2FB528` | Zstandard frame | content size and content checksum present; no dictionary |
//! | `0x184D2A50` to `0x184D2A5F` | skippable frame of kind 0 to 15, known to both formats | at most [`SKIPPABLE_BYTES_MAX`] of payload |
//!
//! A frame of content holds at most [`FRAME_RAW_BYTES_MAX`]; writers cut at [`FRAME_RAW_BYTES`]. That a whole frame
//! is missing is not visible here: who stores a sequence stores its raw length and digest too.
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

/// How many raw bytes a writer puts into a frame: 256 KiB.
///
/// Small enough that the compressor's tables and the data stay in the second-level cache, large enough to lose
/// little of the ratio: zstd level 1 reaches 9.9 on WAL with page images, against 10.3 on 16 MiB at once.
pub const FRAME_RAW_BYTES: usize = 256 << 10;

/// How many raw bytes a reader accepts in a frame: 4 MiB, the largest block of the LZ4 frame format.
pub const FRAME_RAW_BYTES_MAX: usize = 4 << 20;

/// How many bytes of payload a skippable frame may have: 64 KiB.
pub const SKIPPABLE_BYTES_MAX: usize = 64 << 10;

/// How long a stored frame may be in bytes: what does not compress grows by less than 1 in 255 in both formats.
/// Without this limit, blocks that decompress to nothing could be appended without end.
const FRAME_STORED_BYTES_MAX: usize = FRAME_RAW_BYTES_MAX + (64 << 10);

/// One block of a frame as its block header announces it.
struct Block {
    /// Length in bytes, with its header.
    stored_bytes: usize,
    /// Whether the frame's checksum comes after it.
    last: bool,
}

/// The content size that a frame header announces, if a frame may be that large: asked before anything is
/// allocated for it.
fn checked_raw_bytes(announced: u64) -> Result<usize> {
    match usize::try_from(announced) {
        Ok(bytes) if bytes <= FRAME_RAW_BYTES_MAX => Ok(bytes),
        _ => Err(Error::damaged(format!(
            "frame announces {announced} bytes, more than the {FRAME_RAW_BYTES_MAX} that a frame may hold"
        ))),
    }
}

/// The `N` bytes at offset `at`, if they are there.
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The little-endian number at offset `at`, if its four bytes are there.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}
