//! An object that consists of frames, written and read as a stream.

use crate::codec::{ContentHasher, ContentSum, FRAME_RAW_BYTES, FrameEncoder, skippable_frame};
use crate::config::Compression;
use crate::error::{Error, Result};
use crate::repository::object::{FrameReader, NextFrame, Reader, SummedWriter};
use crate::store::{ObjectKey, Store};
use serde::{Deserialize, Serialize};
use std::io;

/// What a manifest records of a framed object, to detect a missing frame or another object of the same name.
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

/// Compresses content into the frames of a new object. Memory: one frame.
pub struct FramedWriter {
    object: SummedWriter,
    encoder: FrameEncoder,
    hasher: ContentHasher,
    raw: Vec<u8>,
    stored: Vec<u8>,
}

impl FramedWriter {
    /// Begins an object, which must not exist.
    ///
    /// # Errors
    /// Those of the store, here and in the other functions.
    pub fn create(store: &dyn Store, key: &ObjectKey, compression: Compression) -> Result<FramedWriter> {
        Ok(FramedWriter {
            object: SummedWriter::create(store, key)?,
            encoder: FrameEncoder::new(compression),
            hasher: ContentHasher::new(),
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

    /// Creates the object, durably.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`](crate::error::ErrorKind::Conflict) if an object of this name exists. It stays.
    pub fn finish(mut self) -> Result<StoredObject> {
        self.flush_frame()?;
        let content = self.hasher.finish();
        let object = self.object.finish()?;
        Ok(StoredObject {
            raw_bytes: content.length_bytes,
            raw_digest: content.digest,
            stored_bytes: object.stored_bytes,
            stored_crc32: object.crc32,
        })
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
    frames: FrameReader,
    hasher: ContentHasher,
    expected: StoredObject,
    header: Option<(u8, Vec<u8>)>,
    raw: Vec<u8>,
    taken_bytes: usize,
    ended: bool,
}

impl FramedReader {
    /// Opens an object; `None` if the store has confirmed that it does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged); those of the store, here and in the other functions.
    pub fn open(store: &dyn Store, key: &ObjectKey, expected: StoredObject) -> Result<Option<FramedReader>> {
        let Some(object) = Reader::open(store, key)? else { return Ok(None) };
        Ok(Some(FramedReader {
            frames: FrameReader::new(object, 0),
            hasher: ContentHasher::new(),
            expected,
            header: None,
            raw: Vec::new(),
            taken_bytes: 0,
            ended: false,
        }))
    }

    /// The payload of the object's first frame, if that is a skippable frame of `kind`.
    pub fn header(&mut self, kind: u8) -> Result<Option<Vec<u8>>> {
        self.fill()?;
        Ok(self.header.take().filter(|(found, _)| *found == kind).map(|(_, payload)| payload))
    }

    /// The next piece of content. Empty only at the end, after length and digest were verified.
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

    /// Marks `bytes` of the last piece as used.
    pub fn take(&mut self, bytes: usize) {
        self.taken_bytes += bytes;
    }

    /// Replaces `raw` by the next content that is not empty; false at the object's end.
    fn next_frame(&mut self) -> Result<bool> {
        loop {
            match self.frames.next(&mut self.raw)? {
                NextFrame::Content => {
                    self.hasher.update(&self.raw);
                    if self.hasher.length_bytes() > self.expected.raw_bytes {
                        return Err(Error::damaged("it has more content than recorded"));
                    }
                    if !self.raw.is_empty() {
                        return Ok(true);
                    }
                }
                NextFrame::Skippable { kind, payload } if self.hasher.length_bytes() == 0 => {
                    self.header.get_or_insert((kind, payload));
                }
                NextFrame::Skippable { .. } => {}
                NextFrame::End => return Ok(false),
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
        let mut available = self.fill().map_err(io::Error::other)?;
        let length = available.read(buffer)?;
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
