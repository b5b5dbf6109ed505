//! Reads files from a pack.

use crate::error::{Context, Error, Result};
use crate::repository::backup::index::FileEntry;
use crate::repository::object::{FrameReader, NextFrame, Reader};
use crate::store::{ObjectKey, Store, StoreExt};
use std::ops::Range;

/// The distance to a file up to which the data in between is decoded. Beyond it, opening the pack again is cheaper.
const DECODE_FORWARD_BYTES_MAX: u64 = 1 << 20;

/// Passes the content of one file on and verifies its CRC-32C. On error, what was passed on is not usable.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged), also if there is no such pack; those of the store and
/// `output`.
pub fn read_file(
    store: &dyn Store,
    pack: &ObjectKey,
    entry: &FileEntry,
    output: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    PackReader::new(store, pack.clone()).read_file(entry, output)
}

/// Reads many files of one pack. In the order of their positions, each stored byte is read and decoded once.
///
/// Memory: a few frames.
pub struct PackReader<'a> {
    store: &'a dyn Store,
    key: ObjectKey,
    input: Option<Input>,
    /// Ranges of the pack that will be read completely, in order: their beginnings and ends.
    announced: Vec<(u64, u64)>,
}

/// The pack, open at some position.
struct Input {
    frames: FrameReader,
    /// The offset of the frame whose content is in `raw`; `None` before the first one.
    frame_at: Option<u64>,
    raw: Vec<u8>,
}

/// The progress of reading a file piece by piece.
#[derive(Debug)]
pub struct FileReading {
    /// The end of its frames.
    end: u64,
    /// The number of raw bytes before it in the next frame.
    skip: usize,
    missing: u64,
    /// The rest of the current piece, as a range of the reader's frame.
    piece: Range<usize>,
    begun: bool,
    crc32c: u32,
    expected: u32,
}

impl FileReading {
    /// Marks this many bytes of the current piece as used.
    pub fn take(&mut self, bytes: usize) {
        self.piece.start = (self.piece.start + bytes).min(self.piece.end);
    }
}

impl<'a> PackReader<'a> {
    /// A reader of this pack. Accesses nothing.
    pub fn new(store: &'a dyn Store, key: ObjectKey) -> PackReader<'a> {
        PackReader { store, key, input: None, announced: Vec::new() }
    }

    /// Announces the files to be read, ordered by their positions, so that the store may fetch them ahead.
    pub fn announce<'e>(&mut self, entries: impl Iterator<Item = &'e FileEntry>) {
        self.announced.clear();
        for place in entries.filter(|entry| entry.bytes > 0).map(|entry| entry.place) {
            let end = place.frame_offset.saturating_add(place.stored_bytes);
            match self.announced.last_mut() {
                Some((_, last)) if place.frame_offset <= last.saturating_add(DECODE_FORWARD_BYTES_MAX) => {
                    *last = end.max(*last);
                }
                _ => self.announced.push((place.frame_offset, end)),
            }
        }
    }

    /// The end of the announced range that contains `offset`.
    fn announced_end(&self, offset: u64) -> Option<u64> {
        let after = self.announced.partition_point(|(begin, _)| *begin <= offset);
        let (_, end) = self.announced.get(after.checked_sub(1)?)?;
        Some(*end).filter(|end| *end > offset)
    }

    /// Passes the content of a file on and verifies its CRC-32C. On error, what was passed on is not usable.
    ///
    /// # Errors
    /// As [`read_file`].
    pub fn read_file(
        &mut self,
        entry: &FileEntry,
        output: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let read = self.read(entry, output);
        if read.is_err() {
            self.input = None;
        }
        read.context(|| {
            format!("could not read \"{}\" from \"{}\"", entry.path, self.store.locate(&self.key))
        })
    }

    fn read(&mut self, entry: &FileEntry, output: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut reading = self.begin(entry)?;
        loop {
            let piece = self.fill(&mut reading)?;
            if piece.is_empty() {
                return Ok(());
            }
            output(piece)?;
            let length = piece.len();
            reading.take(length);
        }
    }

    /// Begins to read a file piece by piece. Meanwhile this reader reads no other one.
    ///
    /// # Errors
    /// As [`read_file`].
    pub fn begin(&mut self, entry: &FileEntry) -> Result<FileReading> {
        let place = entry.place;
        let end = place.frame_offset.checked_add(place.stored_bytes);
        let end = end.ok_or_else(|| Error::damaged("its position in the pack is invalid"))?;
        if entry.bytes > 0 {
            self.seek(place.frame_offset, end)?;
        }
        Ok(FileReading {
            end,
            skip: place.skip_bytes as usize,
            missing: entry.bytes,
            piece: 0..0,
            begun: false,
            crc32c: 0,
            expected: entry.crc32c,
        })
    }

    /// The rest of the current piece, or the next one. Empty only at the end, after the checksum was verified.
    ///
    /// # Errors
    /// As [`read_file`].
    pub fn fill(&mut self, reading: &mut FileReading) -> Result<&[u8]> {
        if reading.piece.is_empty() && (reading.missing > 0 || !reading.begun) {
            self.next_piece(reading)?;
        }
        let raw = self.input.as_ref().map(|input| input.raw.as_slice()).unwrap_or_default();
        Ok(raw.get(reading.piece.clone()).unwrap_or_default())
    }

    fn next_piece(&mut self, reading: &mut FileReading) -> Result<()> {
        if reading.missing > 0 {
            let input = self.input.as_mut().ok_or_else(|| Error::damaged("the pack is not open"))?;
            if reading.begun && !input.next_frame()? {
                return Err(Error::damaged("the pack is truncated before it"));
            }
            if input.frame_at.is_none_or(|at| at >= reading.end) {
                return Err(Error::damaged("its frames are shorter than its content"));
            }
            let content = input.raw.get(reading.skip..).unwrap_or_default();
            let length =
                usize::try_from(reading.missing).map_or(content.len(), |missing| missing.min(content.len()));
            let content = content.get(..length).unwrap_or_default();
            if content.is_empty() {
                return Err(Error::damaged("its content is not at the position given by the index"));
            }
            reading.crc32c = crc32c::crc32c_append(reading.crc32c, content);
            reading.piece = reading.skip..reading.skip + length;
            reading.missing -= length as u64;
            reading.skip = 0;
        }
        reading.begun = true;
        // At the last piece, before it is passed on.
        if reading.missing == 0 && reading.crc32c != reading.expected {
            return Err(Error::damaged(format!(
                "its checksum is {:08x}, but {:08x} was recorded",
                reading.crc32c, reading.expected
            )));
        }
        Ok(())
    }

    /// Makes the frame at `offset` the current one, for a file whose frames end at `end`.
    fn seek(&mut self, offset: u64, end: u64) -> Result<()> {
        let near = self.input.as_ref().is_some_and(|input| {
            let next = input.frames.position();
            input.frame_at == Some(offset) || (next <= offset && offset - next <= DECODE_FORWARD_BYTES_MAX)
        });
        if !near {
            let until = self.announced_end(offset).unwrap_or(end).max(end);
            let object = Reader::open_at(self.store, &self.key, offset, until)?;
            let object = object.ok_or_else(|| Error::damaged("the repository does not hold this pack"))?;
            let frames = FrameReader::new(object, offset);
            self.input = Some(Input { frames, frame_at: None, raw: Vec::new() });
        }
        let input = self.input.as_mut().ok_or_else(|| Error::damaged("the pack is not open"))?;
        while input.frame_at.is_none_or(|at| at < offset) {
            if !input.next_frame()? {
                return Err(Error::damaged("the pack is truncated before it"));
            }
        }
        if input.frame_at == Some(offset) {
            return Ok(());
        }
        Err(Error::damaged("no frame starts at the position given by the index"))
    }
}

impl Input {
    /// Decodes the next frame; false at the end of the pack.
    fn next_frame(&mut self) -> Result<bool> {
        loop {
            let at = self.frames.position();
            match self.frames.next(&mut self.raw)? {
                NextFrame::Content => {
                    self.frame_at = Some(at);
                    return Ok(true);
                }
                NextFrame::Skippable { .. } => {}
                NextFrame::End => return Ok(false),
            }
        }
    }
}
