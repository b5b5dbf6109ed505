//! Reads the frames of an object one after the other.

use super::Reader;
use crate::codec::{Decoded, FrameDecoder};
use crate::error::Error;

/// Reads the frames of an object one after the other. Memory: a few frames.
pub struct FrameReader {
    object: Reader,
    decoder: FrameDecoder,
    /// The offset up to which the object was read.
    read_to: u64,
    stored: Vec<u8>,
}

/// What comes next in an object.
#[derive(Debug, PartialEq, Eq)]
pub enum NextFrame {
    /// A frame whose content replaced that of the buffer.
    Content,
    /// A skippable frame.
    Skippable {
        /// 0 to 15.
        kind: u8,
        /// What it holds; no checksum protects it.
        payload: Vec<u8>,
    },
    /// The object's end.
    End,
}

/// Why a frame could not be read.
#[derive(Debug)]
pub enum FrameError {
    /// The store failed.
    Store(Error),
    /// The object is damaged.
    Content(Error),
}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Error {
        match error {
            FrameError::Store(error) | FrameError::Content(error) => error,
        }
    }
}

impl FrameReader {
    /// Reads on from the offset `from`, at which `object` was opened.
    pub fn new(object: Reader, from: u64) -> FrameReader {
        FrameReader { object, decoder: FrameDecoder::new(), read_to: from, stored: Vec::new() }
    }

    /// The offset of the next frame.
    pub fn position(&self) -> u64 {
        self.read_to.saturating_sub(self.decoder.pending_bytes() as u64)
    }

    /// Reads the next frame. Its content replaces that of `raw`; pass the same buffer in every call.
    ///
    /// # Errors
    /// Those of the store, and [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged) for an invalid or incomplete
    /// frame.
    pub fn next(&mut self, raw: &mut Vec<u8>) -> Result<NextFrame, FrameError> {
        loop {
            match self.decoder.next(raw).map_err(FrameError::Content)? {
                Decoded::Frame => return Ok(NextFrame::Content),
                Decoded::Skippable { kind, payload } => return Ok(NextFrame::Skippable { kind, payload }),
                Decoded::NeedMore => {}
            }
            self.stored.clear();
            let length = self.object.read(&mut self.stored).map_err(FrameError::Store)?;
            if length == 0 {
                return self.decoder.finish().map(|()| NextFrame::End).map_err(FrameError::Content);
            }
            self.read_to = self.read_to.saturating_add(length as u64);
            self.decoder.push(&self.stored);
        }
    }
}
