//! Encodes a WAL file. Reads it once, in pieces that are summed, compressed and checked while they are in the
//! processor's cache. Several threads can share one file.

use super::check::{HistoryLookup, WalExpectation, length_max};
use crate::codec::{ContentPart, ContentSum, FRAME_RAW_BYTES, FrameEncoder};
use crate::config::Compression;
use crate::durable::{Disk, PageCache, read_full};
use crate::error::{Context, Error, Result};
use crate::postgres::wal::header::{WAL_PAGE_BYTES, WalPageHeader};
use crate::postgres::{Lsn, MajorVersion};
use std::cell::Cell;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// How many frames a thread encodes at a time: enough to make synchronization cheap, and few enough that all threads
/// end together.
const PIECE_FRAMES: u64 = 4;

/// How many frames are encoded before they are passed on. Bounds the memory to 4 MiB of content.
const BATCH_FRAMES: u64 = 16;

/// How thoroughly a segment is checked before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCheck {
    /// Its first page: PostgreSQL has marked the segment as ready.
    FirstPage,
    /// Every page: PostgreSQL has not confirmed that the segment is complete.
    EveryPage,
}

/// How to encode one file.
#[derive(Clone, Copy, Debug)]
pub struct Encoding<'a> {
    /// The disk through which it is read.
    pub disk: &'a dyn Disk,
    /// Its path, for messages.
    pub path: &'a Path,
    /// What it must be.
    pub expected: WalExpectation,
    /// Its length.
    pub length_bytes: u64,
    /// How thoroughly to check it.
    pub pages: PageCheck,
    /// How to compress.
    pub compression: Compression,
    /// How many threads may work on it.
    pub threads: NonZeroUsize,
}

/// The buffers of a thread, which the next one reuses.
struct Tools {
    encoder: FrameEncoder,
    raw: Vec<u8>,
}

/// Consecutive frames.
struct EncodedPiece {
    first_frame: u64,
    stored: Vec<u8>,
    parts: Vec<ContentPart>,
}

impl Encoding<'_> {
    /// Reads and encodes all of `source` if it is as expected; passes the frames on in order.
    ///
    /// Memory: some frames for each thread, and a batch of encoded ones.
    ///
    /// # Errors
    /// Those of [`WalExpectation::check`], the operating system and `output`. The check precedes the first frame.
    pub fn run(
        &self,
        source: &File,
        history: HistoryLookup<'_>,
        output: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<ContentSum> {
        let what = || format!("could not read \"{}\"", self.path.display());
        let mut raw = Vec::new();
        // A repository's failure to provide a history is not the file's failure.
        let unknown = Cell::new(false);
        let lookup = |timeline| history(timeline).inspect_err(|_| unknown.set(true));
        match self.check(source, &lookup, &mut raw) {
            Err(error) if unknown.get() => return Err(error),
            checked => checked.context(what)?,
        }
        let tools = Mutex::new(vec![Tools { encoder: FrameEncoder::new(self.compression), raw }]);
        let mut parts = Vec::new();
        let mut used = Vec::new();
        let mut next = 0;
        while next < self.frames() {
            let batch = next..self.frames().min(next + BATCH_FRAMES);
            next = batch.end;
            let again = Mutex::new(used.split_off(0));
            for piece in self.encode_batch(source, batch, &tools, &again).context(what)? {
                output(&piece.stored)?;
                parts.extend(piece.parts);
                used.push(piece.stored);
            }
        }
        Ok(ContentSum::join(&parts))
    }

    fn check(&self, source: &File, history: HistoryLookup<'_>, raw: &mut Vec<u8>) -> Result<()> {
        // The small forms are then complete in their first frame.
        if self.length_bytes > length_max(self.expected.name) {
            return Err(Error::damaged(format!("the file has {} bytes", self.length_bytes)));
        }
        self.read_frame(source, 0, raw)?;
        self.expected.check(raw, self.length_bytes, history)?;
        if self.pages == PageCheck::EveryPage {
            let mut pages =
                PageWalk { assumed_version: self.expected.assumed_version, next: None, in_tail: false };
            for frame in 0..self.frames() {
                self.read_frame(source, frame, raw)?;
                pages.walk(raw)?;
            }
        }
        Ok(())
    }

    fn frames(&self) -> u64 {
        self.length_bytes.div_ceil(FRAME_RAW_BYTES as u64)
    }

    /// Encodes these frames with all threads; returns the pieces in order. `used` are buffers for reuse.
    fn encode_batch(
        &self,
        source: &File,
        frames: Range<u64>,
        tools: &Mutex<Vec<Tools>>,
        used: &Mutex<Vec<Vec<u8>>>,
    ) -> Result<Vec<EncodedPiece>> {
        let next = AtomicU64::new(frames.start);
        let work = || -> Result<Vec<EncodedPiece>> {
            let mut ours = take(tools)
                .unwrap_or_else(|| Tools { encoder: FrameEncoder::new(self.compression), raw: Vec::new() });
            let mut pieces = Vec::new();
            loop {
                let first_frame = next.fetch_add(PIECE_FRAMES, Ordering::Relaxed);
                if first_frame >= frames.end {
                    break;
                }
                let mut stored = take(used).unwrap_or_default();
                stored.clear();
                let mut parts = Vec::new();
                for frame in first_frame..frames.end.min(first_frame + PIECE_FRAMES) {
                    self.read_frame(source, frame, &mut ours.raw)?;
                    parts.push(ContentPart::of(frame * FRAME_RAW_BYTES as u64, &ours.raw));
                    ours.encoder.encode(&ours.raw, &mut stored)?;
                }
                pieces.push(EncodedPiece { first_frame, stored, parts });
            }
            tools.lock().unwrap_or_else(PoisonError::into_inner).push(ours);
            Ok(pieces)
        };
        let turns = (frames.end - frames.start).div_ceil(PIECE_FRAMES);
        let helpers = turns.min(self.threads.get() as u64).saturating_sub(1);
        let mut pieces = thread::scope(|scope| -> Result<Vec<EncodedPiece>> {
            // Without a helper it only takes longer.
            let helpers: Vec<_> =
                (0..helpers).filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
            let mut pieces = work()?;
            for helper in helpers {
                let theirs =
                    helper.join().unwrap_or_else(|_| Err(Error::damaged("an encoding thread failed")));
                pieces.extend(theirs?);
            }
            Ok(pieces)
        })?;
        pieces.sort_unstable_by_key(|piece| piece.first_frame);
        Ok(pieces)
    }

    /// Replaces `raw` by the whole content of a frame.
    fn read_frame(&self, source: &File, frame: u64, raw: &mut Vec<u8>) -> Result<()> {
        let offset = frame * FRAME_RAW_BYTES as u64;
        let length = self.length_bytes.saturating_sub(offset).min(FRAME_RAW_BYTES as u64);
        raw.resize(length as usize, 0);
        let read = read_full(raw, offset, |rest, offset| {
            self.disk.read_data_at(source, rest, offset, PageCache::Keep)
        });
        if read.map_err(|error| Error::io("could not read the file", error))? < raw.len() {
            return Err(Error::unavailable(format!(
                "the file had {} bytes when it was opened, but was truncated since",
                self.length_bytes
            )));
        }
        Ok(())
    }
}

fn take<T>(from: &Mutex<Vec<T>>) -> Option<T> {
    from.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

/// Checks one page after the other: each continues the previous one, until only zeros follow.
struct PageWalk {
    assumed_version: Option<MajorVersion>,
    /// The address of the next page and the magic of all pages, after the first one.
    next: Option<(Lsn, u16)>,
    in_tail: bool,
}

impl PageWalk {
    /// Checks whole pages.
    fn walk(&mut self, pages: &[u8]) -> Result<()> {
        for page in pages.chunks(WAL_PAGE_BYTES as usize) {
            let unused = page.iter().all(|byte| *byte == 0);
            if self.in_tail || unused {
                if !unused {
                    return Err(Error::damaged("a written page follows unwritten pages"));
                }
                self.in_tail = true;
                continue;
            }
            let header = WalPageHeader::parse(page, self.assumed_version)?;
            if self.next.is_some_and(|(_, magic)| magic != header.magic) {
                return Err(Error::damaged(format!(
                    "a page has a different magic number, {:04X}",
                    header.magic
                )));
            }
            if self.next.is_some_and(|(expected, _)| expected != header.address) {
                return Err(Error::damaged(format!(
                    "a page contains WAL from {} on: it is left over from an earlier segment",
                    header.address
                )));
            }
            let next = header.address.checked_add(u64::from(WAL_PAGE_BYTES));
            self.next = next.map(|address| (address, header.magic));
        }
        Ok(())
    }
}
