//! A WAL file on its way into an object: one read, in which it is summed, checked and compressed.

use super::check::{HistoryLookup, WalExpectation, length_max};
use super::header;
use crate::codec::{ContentHasher, ContentSum, FRAME_RAW_BYTES, FrameEncoder, skippable_frame};
use crate::config::Compression;
use crate::error::{Context, Error, Result};
use crate::postgres::Lsn;
use crate::postgres::wal_header::{WAL_PAGE_BYTES, WalPageHeader};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

/// How much of an object is kept in memory: a segment of the usual 16 MiB that does not compress; the rest of a larger one
/// goes to a file without a name.
const MEMORY_BYTES_MAX: usize = 17 << 20;

/// An object, ready to be stored.
pub struct EncodedWal {
    /// What it decodes to.
    pub sum: ContentSum,
    header: Vec<u8>,
    /// The end of the frames, or all of them.
    memory: Vec<u8>,
    /// The frames before `memory`.
    spilled: Option<File>,
}

/// How closely a segment is looked at on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCheck {
    /// Its first page: PostgreSQL has marked it as ready.
    FirstPage,
    /// Every page: nobody but us says that it is complete.
    EveryPage,
}

/// How to encode one file.
#[derive(Clone, Copy, Debug)]
pub struct Encoding {
    /// What it must be.
    pub expected: WalExpectation,
    /// Its length.
    pub length_bytes: u64,
    /// How closely to look.
    pub pages: PageCheck,
    /// How to compress.
    pub compression: Compression,
}

impl Encoding {
    /// Reads all of `source` and encodes it, if it is what is expected.
    ///
    /// # Errors
    /// What [`WalExpectation::check`] says, and the operating system's.
    pub fn run(
        &self,
        mut source: impl Read,
        history: HistoryLookup<'_>,
        scratch: &Path,
    ) -> Result<EncodedWal> {
        // So that the small forms are complete in their first frame.
        if self.length_bytes > length_max(self.expected.name) {
            return Err(Error::damaged(format!("the file has {} bytes", self.length_bytes)));
        }
        let mut encoder = FrameEncoder::new(self.compression);
        let mut hasher = ContentHasher::new();
        let mut pages = PageWalk::default();
        let mut raw = Vec::with_capacity(FRAME_RAW_BYTES);
        let mut memory = Vec::new();
        let mut spilled: Option<File> = None;
        loop {
            raw.clear();
            let chunk = (&mut source).take(FRAME_RAW_BYTES as u64).read_to_end(&mut raw);
            chunk.context(|| "could not read the file")?;
            if hasher.length_bytes() == 0 {
                self.expected.check(&raw, self.length_bytes, history)?;
            }
            if raw.is_empty() {
                break;
            }
            if self.pages == PageCheck::EveryPage {
                pages.walk(&raw)?;
            }
            hasher.update(&raw);
            encoder.encode(&raw, &mut memory)?;
            if memory.len() > MEMORY_BYTES_MAX {
                spill(&mut memory, &mut spilled, scratch)?;
            }
        }
        let sum = hasher.finish();
        if sum.length_bytes != self.length_bytes {
            return Err(Error::unavailable(format!(
                "the file had {} bytes when it was opened, and {} were read",
                self.length_bytes, sum.length_bytes
            )));
        }
        let mut frame = Vec::new();
        skippable_frame(header::FRAME_KIND, &header::encode(&sum), &mut frame)?;
        Ok(EncodedWal { sum, header: frame, memory, spilled })
    }
}

/// Looks at one page after the other: each continues the one before, until only zeros follow.
#[derive(Default)]
struct PageWalk {
    /// The address of the next page, once the first was seen.
    next: Option<Lsn>,
    in_tail: bool,
}

impl PageWalk {
    /// Looks at whole pages.
    fn walk(&mut self, pages: &[u8]) -> Result<()> {
        for page in pages.chunks(WAL_PAGE_BYTES as usize) {
            let unused = page.iter().all(|byte| *byte == 0);
            if self.in_tail || unused {
                if !unused {
                    return Err(Error::damaged("a page follows pages that were never written"));
                }
                self.in_tail = true;
                continue;
            }
            let header = WalPageHeader::parse(page)?;
            if self.next.is_some_and(|expected| expected != header.address) {
                return Err(Error::damaged(format!(
                    "a page holds the WAL from {} on: it is left from before",
                    header.address
                )));
            }
            self.next = header.address.checked_add(u64::from(WAL_PAGE_BYTES));
        }
        Ok(())
    }
}

fn spill(memory: &mut Vec<u8>, spilled: &mut Option<File>, scratch: &Path) -> Result<()> {
    let what = || format!("could not write to \"{}\"", scratch.display());
    let mut file = match spilled.take() {
        Some(file) => file,
        None => tempfile::tempfile_in(scratch).context(what)?,
    };
    file.write_all(memory).context(what)?;
    memory.clear();
    *spilled = Some(file);
    Ok(())
}

impl EncodedWal {
    /// Hands out the whole object, piece after piece. Can be called again.
    pub fn write_to(&mut self, mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        put(&self.header)?;
        if let Some(file) = &mut self.spilled {
            let what = || "could not read a spilled segment back";
            file.rewind().context(what)?;
            let mut buffer = vec![0; FRAME_RAW_BYTES];
            loop {
                match file.read(&mut buffer).context(what)? {
                    0 => break,
                    length => put(buffer.get(..length).unwrap_or_default())?,
                }
            }
        }
        put(&self.memory)
    }
}
