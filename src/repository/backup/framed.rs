//! An object that is nothing but frames: written and read as a stream.

use crate::codec::{
    ContentHasher, ContentSum, Crc32, Decoded, FRAME_RAW_BYTES, FrameDecoder, FrameEncoder, skippable_frame,
};
use crate::config::Compression;
use crate::error::{Error, Result};
use crate::store::{NewObject, ObjectKey, ObjectReader, ObjectWriter, PutOutcome, ReadRange, Store};
use serde::{Deserialize, Serialize};
use std::io;

/// What is recorded of a framed object, so that a missing frame or another object under its name is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredObject {
    /// Length of the content.
    pub raw_bytes: u64,
    /// BLAKE3 of the content.
    pub raw_digest: crate::codec::Digest,
    /// Length of the object.
    pub stored_bytes: u64,
    /// CRC-32 of the object.
    #[serde(with = "super::text::crc32_digits")]
    pub stored_crc32: u32,
}

impl StoredObject {
    fn content(&self) -> ContentSum {
        ContentSum { length_bytes: self.raw_bytes, digest: self.raw_digest }
    }
}

/// Compresses what is written into the frames of a new object. Memory: one frame.
pub struct FramedWriter {
    object: Box<dyn ObjectWriter>,
    encoder: FrameEncoder,
    hasher: ContentHasher,
    crc: Crc32,
    stored_bytes: u64,
    raw: Vec<u8>,
    stored: Vec<u8>,
}

impl FramedWriter {
    /// Begins an object, which must not exist.
    ///
    /// # Errors
    /// The store's, here and in the other functions.
    pub fn create(store: &dyn Store, key: &ObjectKey, compression: Compression) -> Result<FramedWriter> {
        Ok(FramedWriter {
            object: store.create(key, NewObject::default())?,
            encoder: FrameEncoder::new(compression),
            hasher: ContentHasher::new(),
            crc: Crc32::new(),
            stored_bytes: 0,
            raw: Vec::with_capacity(FRAME_RAW_BYTES),
            stored: Vec::new(),
        })
    }

    /// Appends a skippable frame, which is not part of the content.
    pub fn skippable(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        self.flush_frame()?;
        skippable_frame(kind, payload, &mut self.stored)?;
        self.store()
    }

    /// Appends content.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = FRAME_RAW_BYTES.saturating_sub(self.raw.len());
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.raw.extend_from_slice(now);
            if self.raw.len() >= FRAME_RAW_BYTES {
                self.flush_frame()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Makes the object exist. [`PutOutcome::Exists`]: another one of this name was there, and stays.
    pub fn finish(mut self) -> Result<(StoredObject, PutOutcome)> {
        self.flush_frame()?;
        let sum = self.hasher.finish();
        let stored = StoredObject {
            raw_bytes: sum.length_bytes,
            raw_digest: sum.digest,
            stored_bytes: self.stored_bytes,
            stored_crc32: self.crc.value(),
        };
        Ok((stored, self.object.finish()?))
    }

    fn flush_frame(&mut self) -> Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        self.hasher.update(&self.raw);
        self.encoder.encode(&self.raw, &mut self.stored)?;
        self.raw.clear();
        self.store()
    }

    fn store(&mut self) -> Result<()> {
        self.crc.update(&self.stored);
        self.stored_bytes += self.stored.len() as u64;
        self.object.write(&self.stored)?;
        self.stored.clear();
        Ok(())
    }
}

impl io::Write for FramedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes).map(|()| bytes.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        // A frame is written when it is full, or at the end.
        Ok(())
    }
}

/// Reads the content of a framed object. Memory: a few frames.
pub struct FramedReader {
    object: Box<dyn ObjectReader>,
    decoder: FrameDecoder,
    hasher: ContentHasher,
    expected: StoredObject,
    header: Option<(u8, Vec<u8>)>,
    stored: Vec<u8>,
    raw: Vec<u8>,
    taken_bytes: usize,
    ended: bool,
}

impl FramedReader {
    /// Opens an object; `None` when the store has said that it does not exist.
    ///
    /// # Errors
    /// The store's, and [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged), also in the other functions.
    pub fn open(store: &dyn Store, key: &ObjectKey, expected: StoredObject) -> Result<Option<FramedReader>> {
        let Some(object) = store.open(key, ReadRange::WHOLE)? else { return Ok(None) };
        Ok(Some(FramedReader {
            object,
            decoder: FrameDecoder::new(),
            hasher: ContentHasher::new(),
            expected,
            header: None,
            stored: Vec::new(),
            raw: Vec::new(),
            taken_bytes: 0,
            ended: false,
        }))
    }

    /// The payload of the skippable frame of `kind` that the object begins with, if it does.
    pub fn header(&mut self, kind: u8) -> Result<Option<Vec<u8>>> {
        self.fill()?;
        Ok(self.header.take().filter(|(found, _)| *found == kind).map(|(_, payload)| payload))
    }

    /// The next piece of content, not empty; empty only at the end, once length and digest were found right.
    pub fn fill(&mut self) -> Result<&[u8]> {
        if self.taken_bytes >= self.raw.len() && !self.ended {
            self.taken_bytes = 0;
            self.ended = !self.next_frame()?;
            if self.ended {
                self.raw.clear();
                self.check_sum()?;
            }
        }
        Ok(self.raw.get(self.taken_bytes..).unwrap_or_default())
    }

    /// Says that `bytes` of the last piece were used.
    pub fn take(&mut self, bytes: usize) {
        self.taken_bytes += bytes;
    }

    /// Replaces `raw` by the next content that is not empty; false at the object's end.
    fn next_frame(&mut self) -> Result<bool> {
        loop {
            match self.decoder.next(&mut self.raw)? {
                Decoded::Frame => {
                    self.hasher.update(&self.raw);
                    if self.hasher.length_bytes() > self.expected.raw_bytes {
                        return Err(Error::damaged("it has more content than recorded"));
                    }
                    if !self.raw.is_empty() {
                        return Ok(true);
                    }
                }
                Decoded::Skippable { kind, payload } if self.hasher.length_bytes() == 0 => {
                    self.header.get_or_insert((kind, payload));
                }
                Decoded::Skippable { .. } => {}
                Decoded::NeedMore => {
                    self.stored.clear();
                    if self.object.read(&mut self.stored)? == 0 {
                        return self.decoder.finish().map(|()| false);
                    }
                    self.decoder.push(&self.stored);
                }
            }
        }
    }

    fn check_sum(&self) -> Result<()> {
        if self.hasher.finish() == self.expected.content() {
            return Ok(());
        }
        Err(Error::damaged("its length or digest differs from the recorded one"))
    }
}

impl io::Read for FramedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill().map_err(io::Error::other)?;
        let length = available.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), available.get(..length)) {
            to.copy_from_slice(from);
        }
        self.take(length);
        Ok(length)
    }
}

impl io::BufRead for FramedReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.fill().map_err(io::Error::other)
    }

    fn consume(&mut self, bytes: usize) {
        self.take(bytes);
    }
}
