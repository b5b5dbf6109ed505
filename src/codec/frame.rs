//! Encodes and decodes sequences of frames in any of the formats.

use super::{Block, FRAME_RAW_BYTES_MAX, FRAME_STORED_BYTES_MAX, SKIPPABLE_BYTES_MAX, lz4, u32_at, zstd};
use crate::config::Compression;
use crate::error::{Error, Result};

/// The magic of a skippable frame of kind 0; the kind is in the four lowest bits.
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
const SKIPPABLE_KIND_MASK: u32 = 0xF;

/// Size of magic and length, in bytes.
const SKIPPABLE_HEADER_BYTES: usize = 8;

/// Size of the checksum after the last block of a frame in either format, in bytes.
const CONTENT_CHECKSUM_BYTES: usize = 4;

/// Encodes raw bytes into frames. Reuses the compressor's memory for every frame.
pub struct FrameEncoder {
    format: FormatEncoder,
}

enum FormatEncoder {
    Lz4(lz4::Lz4Encoder),
    Zstd(zstd::ZstdEncoder),
}

impl FrameEncoder {
    /// Creates an encoder for frames with this compression.
    pub fn new(compression: Compression) -> FrameEncoder {
        let format = match compression {
            Compression::None => FormatEncoder::Lz4(lz4::Lz4Encoder::storing()),
            Compression::Lz4 => FormatEncoder::Lz4(lz4::Lz4Encoder::compressing()),
            Compression::Zstd { level } => FormatEncoder::Zstd(zstd::ZstdEncoder::new(level)),
        };
        FrameEncoder { format }
    }

    /// Appends exactly one frame with the content `raw`, 0 to [`FRAME_RAW_BYTES_MAX`] bytes, to `out`.
    ///
    /// The frame is longer than `raw` by at most 1 in 255 and a few bytes.
    ///
    /// Errors: [`Usage`](crate::error::ErrorKind::Usage) if `raw` is too long,
    /// [`Unavailable`](crate::error::ErrorKind::Unavailable) if zstd cannot allocate memory. On error, `out` is
    /// unchanged.
    pub fn encode(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if raw.len() > FRAME_RAW_BYTES_MAX {
            return Err(Error::usage(format!(
                "{} bytes are more than the {FRAME_RAW_BYTES_MAX} that a frame may hold",
                raw.len()
            )));
        }
        match &mut self.format {
            FormatEncoder::Lz4(encoder) => {
                encoder.encode(raw, out);
                Ok(())
            }
            FormatEncoder::Zstd(encoder) => encoder.encode(raw, out),
        }
    }
}

/// Appends a skippable frame of `kind` 0 to 15 to `out`. Standard tools skip it.
///
/// Errors: [`Usage`](crate::error::ErrorKind::Usage) if `kind` is greater than 15 or `payload` is longer than
/// [`SKIPPABLE_BYTES_MAX`]. On error, `out` is unchanged.
pub fn skippable_frame(kind: u8, payload: &[u8], out: &mut Vec<u8>) -> Result<()> {
    if u32::from(kind) > SKIPPABLE_KIND_MASK {
        return Err(Error::usage(format!("there is no skippable frame of kind {kind}")));
    }
    if payload.len() > SKIPPABLE_BYTES_MAX {
        return Err(Error::usage(format!(
            "{} bytes are more than the {SKIPPABLE_BYTES_MAX} that a skippable frame may hold",
            payload.len()
        )));
    }
    out.extend_from_slice(&(SKIPPABLE_MAGIC | u32::from(kind)).to_le_bytes());
    // At most 64 KiB.
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

/// Decodes stored bytes, pushed in pieces of any length, into the content of their frames.
///
/// Determines the format of each frame from its magic. The input is untrusted: lengths are checked against the limits
/// before any allocation, and content is returned only after its checksum was verified. Skippable frames have no
/// checksum. Memory: a small multiple of the longest frame and of one push. Rejects a frame longer than
/// [`FRAME_RAW_BYTES_MAX`] plus 64 KiB instead of waiting for its end.
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// Number of bytes at the beginning of `buffer` that have been consumed.
    taken_bytes: usize,
    /// The frame at the front, once its header is complete.
    front: Option<Front>,
    zstd: zstd::Decoder,
}

/// Result of [`FrameDecoder::next`].
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A frame; its content is in `raw`.
    Frame,
    /// A skippable frame.
    Skippable {
        /// 0 to 15.
        kind: u8,
        /// At most [`SKIPPABLE_BYTES_MAX`], without a checksum.
        payload: Vec<u8>,
    },
    /// The next frame is incomplete, or there is none: push more bytes, or finish.
    NeedMore,
}

/// A frame whose end is being located. Kept between calls so that no block header is read twice.
#[derive(Clone, Copy)]
struct Front {
    header: FormatHeader,
    /// Number of bytes up to the next block header; the length of the whole frame once `complete`.
    measured_bytes: usize,
    complete: bool,
}

#[derive(Clone, Copy)]
enum FormatHeader {
    Lz4(lz4::Lz4Header),
    Zstd(zstd::ZstdHeader),
}

impl Default for FrameDecoder {
    fn default() -> FrameDecoder {
        FrameDecoder::new()
    }
}

impl FrameDecoder {
    /// Creates a decoder for a new sequence of frames.
    pub fn new() -> FrameDecoder {
        FrameDecoder { buffer: Vec::new(), taken_bytes: 0, front: None, zstd: zstd::Decoder::new() }
    }

    /// Adds the next stored bytes. Before the next push, call [`next`](FrameDecoder::next) until it needs more.
    pub fn push(&mut self, bytes: &[u8]) {
        // Moves the rest only after at least as many bytes were consumed, so each byte is copied at most once.
        if self.taken_bytes >= self.unread().len() {
            self.buffer.drain(..self.taken_bytes);
            self.taken_bytes = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Number of pushed bytes not consumed yet: the distance of the next frame from the end of the pushed bytes.
    pub fn pending_bytes(&self) -> usize {
        self.unread().len()
    }

    /// Consumes the next frame. Only [`Decoded::Frame`] replaces the content of `raw`. Pass the same buffer in every
    /// call, so that it is neither reallocated nor cleared.
    ///
    /// Errors: [`Damaged`](crate::error::ErrorKind::Damaged) if the bytes are not a valid frame. The content of `raw`
    /// is then unspecified, and every later call fails in the same way.
    pub fn next(&mut self, raw: &mut Vec<u8>) -> Result<Decoded> {
        let Some(magic) = u32_at(self.unread(), 0) else { return Ok(Decoded::NeedMore) };
        if magic & !SKIPPABLE_KIND_MASK == SKIPPABLE_MAGIC {
            return self.next_skippable((magic & SKIPPABLE_KIND_MASK) as u8);
        }
        let front = match self.front {
            Some(front) => Some(front),
            None => Front::parse(magic, self.unread())?,
        };
        let Some(mut front) = front else { return Ok(Decoded::NeedMore) };
        front.measure(self.unread())?;
        self.front = Some(front);
        // `unread()` would borrow the zstd context too.
        let frame = self.buffer.get(self.taken_bytes..).and_then(|bytes| bytes.get(..front.measured_bytes));
        let Some(frame) = frame.filter(|_| front.complete) else { return Ok(Decoded::NeedMore) };
        match front.header {
            FormatHeader::Lz4(header) => header.decode(frame, raw)?,
            FormatHeader::Zstd(header) => self.zstd.decode(&header, frame, raw)?,
        }
        self.take(front.measured_bytes);
        Ok(Decoded::Frame)
    }

    /// Checks that the input is complete, after [`next`](FrameDecoder::next) needed more.
    ///
    /// Errors: [`Damaged`](crate::error::ErrorKind::Damaged) if the last frame is incomplete. Does not detect missing
    /// whole frames.
    pub fn finish(&self) -> Result<()> {
        if self.unread().is_empty() {
            return Ok(());
        }
        Err(Error::damaged("stored data ends in the middle of a frame"))
    }

    fn next_skippable(&mut self, kind: u8) -> Result<Decoded> {
        let Some(length) = u32_at(self.unread(), 4) else { return Ok(Decoded::NeedMore) };
        let length = length as usize;
        if length > SKIPPABLE_BYTES_MAX {
            return Err(Error::damaged(format!(
                "skippable frame of {length} bytes, more than the {SKIPPABLE_BYTES_MAX} that it may hold"
            )));
        }
        let end = SKIPPABLE_HEADER_BYTES + length;
        let Some(payload) = self.unread().get(SKIPPABLE_HEADER_BYTES..end) else {
            return Ok(Decoded::NeedMore);
        };
        let payload = payload.to_vec();
        self.take(end);
        Ok(Decoded::Skippable { kind, payload })
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.taken_bytes..).unwrap_or_default()
    }

    fn take(&mut self, bytes: usize) {
        self.taken_bytes += bytes;
        self.front = None;
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }
}

impl Front {
    /// Parses the frame header at the beginning of `bytes`, with this `magic`; `None` if the header needs more bytes.
    fn parse(magic: u32, bytes: &[u8]) -> Result<Option<Front>> {
        let parsed = match magic {
            lz4::MAGIC => {
                lz4::Lz4Header::parse(bytes)?.map(|(header, length)| (FormatHeader::Lz4(header), length))
            }
            zstd::MAGIC => {
                zstd::ZstdHeader::parse(bytes)?.map(|(header, length)| (FormatHeader::Zstd(header), length))
            }
            _ => {
                return Err(Error::damaged(format!(
                    "no lz4, zstd or skippable frame begins with {magic:#010x}"
                )));
            }
        };
        Ok(parsed.map(|(header, length)| Front { header, measured_bytes: length, complete: false }))
    }

    /// Advances from block to block as far as `bytes`, which begin with the frame, permit.
    fn measure(&mut self, bytes: &[u8]) -> Result<()> {
        while !self.complete {
            let rest = bytes.get(self.measured_bytes..).unwrap_or_default();
            let Some(block) = self.header.block(rest)? else { break };
            self.measured_bytes += block.stored_bytes;
            if block.last {
                self.measured_bytes += CONTENT_CHECKSUM_BYTES;
                self.complete = true;
            }
            if self.measured_bytes > FRAME_STORED_BYTES_MAX {
                return Err(Error::damaged("frame is longer than its content can need"));
            }
        }
        Ok(())
    }
}

impl FormatHeader {
    fn block(&self, bytes: &[u8]) -> Result<Option<Block>> {
        match self {
            FormatHeader::Lz4(header) => header.block(bytes),
            FormatHeader::Zstd(header) => header.block(bytes),
        }
    }
}
