//! Zstandard frames. Determines the extent of a frame before the reference library decodes it.
//!
//! Source: RFC 8878, section 3.1.1. All numbers are little-endian.

use super::{Block, bytes_at, checked_raw_bytes};
use crate::error::{Error, Result};
use std::io::{self, Cursor};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::compress_bound;

/// The first four bytes of a frame.
pub(super) const MAGIC: u32 = 0xFD2F_B528;

// The frame header descriptor, after the magic.
const DESCRIPTOR_AT: usize = 4;
const CONTENT_SIZE_FLAG_SHIFT: u8 = 6;
const SINGLE_SEGMENT: u8 = 0b0010_0000;
const RESERVED: u8 = 0b0000_1000;
const CONTENT_CHECKSUM: u8 = 0b0000_0100;
const DICTIONARY_MASK: u8 = 0b0000_0011;

// The block header.
const LAST_BLOCK: u32 = 1;
const BLOCK_TYPE_SHIFT: u32 = 1;
const BLOCK_SIZE_SHIFT: u32 = 3;
const BLOCK_HEADER_BYTES: usize = 3;
const BLOCK_BYTES_MAX: usize = 128 << 10;

/// Encodes frames; creates the library's context on first use and reuses it.
pub(super) struct ZstdEncoder {
    level: u8,
    context: Option<Compressor<'static>>,
}

/// Decodes frames; creates the library's context on first use and reuses it.
pub(super) struct Decoder {
    context: Option<Decompressor<'static>>,
}

/// The parsed header of a frame.
#[derive(Clone, Copy)]
pub(super) struct ZstdHeader {
    pub(super) raw_bytes: usize,
}

impl ZstdEncoder {
    /// An encoder for `level`, 1 to 19.
    pub(super) fn new(level: u8) -> ZstdEncoder {
        ZstdEncoder { level, context: None }
    }

    /// Appends one frame with the content `raw` to `out`; on error, `out` is unchanged.
    pub(super) fn encode(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let failed = |error| Error::io("could not compress with zstd", error);
        let context = match &mut self.context {
            Some(context) => context,
            none => none.insert(new_compressor(self.level).map_err(failed)?),
        };
        out.reserve(compress_bound(raw.len()));
        let mut end = Cursor::new(&mut *out);
        end.set_position(end.get_ref().len() as u64);
        context.compress_to_buffer(raw, &mut end).map_err(failed)?;
        Ok(())
    }
}

impl Decoder {
    pub(super) fn new() -> Decoder {
        Decoder { context: None }
    }

    /// Replaces `raw` with the content of the complete `frame`, which begins with `header`.
    pub(super) fn decode(&mut self, header: &ZstdHeader, frame: &[u8], raw: &mut Vec<u8>) -> Result<()> {
        let context = match &mut self.context {
            Some(context) => context,
            none => none.insert(
                Decompressor::new().map_err(|error| Error::io("could not decompress with zstd", error))?,
            ),
        };
        // Not cleared first: only the part beyond the previous length is filled with zeros. The library cannot write
        // past the slice and verifies the content checksum.
        raw.resize(header.raw_bytes, 0);
        let length = context
            .decompress_to_buffer(frame, raw.as_mut_slice())
            .map_err(|error| Error::damaged(format!("zstd frame {}", complaint(&error))))?;
        if length != header.raw_bytes {
            return Err(Error::damaged("zstd frame holds less than it announces"));
        }
        Ok(())
    }
}

impl ZstdHeader {
    /// Parses the header at the beginning of `bytes`, including the magic, and returns it with its length; `None` if
    /// more bytes are needed.
    ///
    /// Errors: [`Damaged`](crate::error::ErrorKind::Damaged) if the header is not accepted.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(ZstdHeader, usize)>> {
        let Some(&descriptor) = bytes.get(DESCRIPTOR_AT) else { return Ok(None) };
        check_descriptor(descriptor)?;
        let single_segment = descriptor & SINGLE_SEGMENT != 0;
        // The window descriptor is absent if the window covers the whole content.
        let size_at = DESCRIPTOR_AT + 1 + usize::from(!single_segment);
        let (announced, size_bytes) = match descriptor >> CONTENT_SIZE_FLAG_SHIFT {
            0 if !single_segment => return Err(Error::damaged("zstd frame has no content size")),
            0 => (bytes_at(bytes, size_at).map(|size| u64::from(u8::from_le_bytes(size))), 1),
            // Two-byte sizes start at 256.
            1 => (bytes_at(bytes, size_at).map(|size| 256 + u64::from(u16::from_le_bytes(size))), 2),
            2 => (bytes_at(bytes, size_at).map(|size| u64::from(u32::from_le_bytes(size))), 4),
            _ => (bytes_at(bytes, size_at).map(u64::from_le_bytes), 8),
        };
        let Some(announced) = announced else { return Ok(None) };
        Ok(Some((ZstdHeader { raw_bytes: checked_raw_bytes(announced)? }, size_at + size_bytes)))
    }

    /// Parses the block header at the beginning of `bytes`; `None` if more bytes are needed.
    pub(super) fn block(&self, bytes: &[u8]) -> Result<Option<Block>> {
        let Some([low, middle, high]) = bytes_at(bytes, 0) else { return Ok(None) };
        let word = u32::from_le_bytes([low, middle, high, 0]);
        let size = (word >> BLOCK_SIZE_SHIFT) as usize;
        if size > BLOCK_BYTES_MAX {
            return Err(Error::damaged("zstd block is longer than the format allows"));
        }
        let body_bytes = match (word >> BLOCK_TYPE_SHIFT) & 0b11 {
            // Raw and compressed.
            0 | 2 => size,
            // One byte, repeated `size` times.
            1 => 1,
            _ => return Err(Error::damaged("zstd block is of an unknown type")),
        };
        let stored_bytes = BLOCK_HEADER_BYTES + body_bytes;
        Ok(Some(Block { stored_bytes, last: word & LAST_BLOCK != 0 }))
    }
}

/// Rejects every frame with a descriptor that is not accepted.
fn check_descriptor(descriptor: u8) -> Result<()> {
    let refused = if descriptor & RESERVED != 0 {
        "is of an unknown version"
    } else if descriptor & DICTIONARY_MASK != 0 {
        "needs a dictionary"
    } else if descriptor & CONTENT_CHECKSUM == 0 {
        "has no checksum"
    } else {
        return Ok(());
    };
    Err(Error::damaged(format!("zstd frame {refused}")))
}

fn new_compressor(level: u8) -> io::Result<Compressor<'static>> {
    let mut context = Compressor::new(i32::from(level))?;
    context.include_checksum(true)?;
    context.include_contentsize(true)?;
    Ok(context)
}

/// Describes a library error, to complete a sentence. The texts come from zstd's `error_private.c`.
fn complaint(error: &io::Error) -> String {
    match error.to_string() {
        text if text.contains("checksum") => "checksum does not match".to_owned(),
        text => format!("does not decompress: {}", text.to_lowercase()),
    }
}
