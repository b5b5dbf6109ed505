//! Reads WAL files from objects. Verifies every checksum, and that a file is what its name says.

use super::check::{WalExpectation, length_max};
use super::header;
use crate::codec::{ContentHasher, ContentSum, FRAME_RAW_BYTES};
use crate::error::{Context, Error, Result};
use crate::postgres::{LongPageHeader, SegmentName, SegmentSize, WalFileName};
use crate::repository::Repository;
use crate::repository::object::{FrameError, FrameReader, NextFrame, Reader};
use crate::store::StoreExt;
use std::io::Write;

/// What was fetched.
#[derive(Clone, Copy, Debug)]
pub struct FetchedWal {
    /// Length and digest of the file.
    pub sum: ContentSum,
    /// The length of the object.
    pub stored_bytes: u64,
}

/// Writes the file `name` to `output`. Verifies the whole file: its sum, and that it is what its name says.
///
/// `None` if the store has confirmed that there is no such object. On error, what was written is not usable.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged), [`ErrorKind::Foreign`](crate::error::ErrorKind::Foreign);
/// those of the store.
pub fn fetch(
    repository: &Repository,
    name: WalFileName,
    segment_size: Option<SegmentSize>,
    output: &mut dyn Write,
) -> Result<Option<FetchedWal>> {
    repository.check_readable()?;
    let expected = WalExpectation::of(repository, name, segment_size);
    let mut start = Vec::new();
    let fetched = decode(repository, name, &mut |bytes| {
        if start.len() < FRAME_RAW_BYTES {
            start.extend_from_slice(bytes);
        }
        output.write_all(bytes).context(|| "could not write a fetched file")
    })?;
    if let Some(fetched) = &fetched {
        expected
            .check(&start, fetched.sum.length_bytes, &|timeline| repository.history(timeline))
            .and_then(|()| check_digest(name, &fetched.sum))
            .context(|| located(repository, name))?;
    }
    Ok(fetched)
}

/// Checks the beginning of the file's digest, if the name contains it.
fn check_digest(name: WalFileName, sum: &ContentSum) -> Result<()> {
    match name {
        WalFileName::FurtherPartial(_, beginning) if beginning != sum.digest.beginning() => {
            Err(Error::damaged(format!("the file's BLAKE3 is {}, which differs from its name", sum.digest)))
        }
        _ => Ok(()),
    }
}

/// As [`fetch`], for a small file that replaces the content of `output`. Verifies only its sum.
///
/// # Errors
/// As [`fetch`].
pub fn read(repository: &Repository, name: WalFileName, output: &mut Vec<u8>) -> Result<Option<FetchedWal>> {
    output.clear();
    decode(repository, name, &mut |bytes| {
        output.extend_from_slice(bytes);
        Ok(())
    })
}

/// The header in the first page of a segment; `None` if the store has confirmed that there is no such object.
///
/// Reads no more than that, and does not verify the object's sum.
///
/// # Errors
/// As [`fetch`].
fn header_of(repository: &Repository, name: SegmentName) -> Result<Option<LongPageHeader>> {
    let name = WalFileName::Segment(name);
    let Some(mut frames) = open(repository, name)? else { return Ok(None) };
    let mut raw = Vec::new();
    let header = loop {
        match frames.next(&mut raw) {
            Ok(NextFrame::Content) => break LongPageHeader::parse(&raw, repository.assumed_version()),
            Ok(NextFrame::Skippable { .. }) => {}
            Ok(NextFrame::End) => break Err(Error::damaged("it is truncated")),
            Err(FrameError::Content(error)) => break Err(error),
            Err(FrameError::Store(error)) => return Err(error),
        }
    };
    header.context(|| located(repository, name)).map(Some)
}

/// The header in the first page of a segment; `None` if there is no such object, or if it is damaged. Reads no more
/// than that.
///
/// # Errors
/// Transient ones of the store.
pub fn readable_header(repository: &Repository, name: SegmentName) -> Result<Option<LongPageHeader>> {
    match header_of(repository, name) {
        Err(error) if !error.kind().is_transient() => Ok(None),
        other => other,
    }
}

/// Reads an object only to verify it and to return its sum.
///
/// # Errors
/// As [`fetch`].
pub fn sum(repository: &Repository, name: WalFileName) -> Result<Option<FetchedWal>> {
    decode(repository, name, &mut |_| Ok(()))
}

fn located(repository: &Repository, name: WalFileName) -> String {
    match repository.layout().wal_file(name) {
        Ok(key) => format!("the stored object \"{}\" cannot be used", repository.store().locate(&key)),
        Err(_) => format!("the stored object of {name} cannot be used"),
    }
}

/// Decodes an object and passes its content on in order.
fn decode(
    repository: &Repository,
    name: WalFileName,
    output: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Option<FetchedWal>> {
    let Some(mut frames) = open(repository, name)? else { return Ok(None) };
    let mut decoding =
        Decoding { announced: None, hasher: ContentHasher::new(), length_max: length_max(name) };
    let mut raw = Vec::new();
    loop {
        let taken = match frames.next(&mut raw) {
            Ok(NextFrame::End) => break,
            Ok(frame) => decoding.take(frame, &raw, output),
            Err(FrameError::Content(error)) => Err(error),
            Err(FrameError::Store(error)) => return Err(error),
        };
        taken.context(|| located(repository, name))?;
    }
    let sum = decoding.finish().context(|| located(repository, name))?;
    Ok(Some(FetchedWal { sum, stored_bytes: frames.position() }))
}

fn open(repository: &Repository, name: WalFileName) -> Result<Option<FrameReader>> {
    let object = Reader::open(repository.store().as_ref(), &repository.layout().wal_file(name)?)?;
    Ok(object.map(|object| FrameReader::new(object, 0)))
}

/// The state of decoding one object.
struct Decoding {
    announced: Option<ContentSum>,
    hasher: ContentHasher,
    length_max: u64,
}

impl Decoding {
    /// Processes one frame.
    fn take(
        &mut self,
        frame: NextFrame,
        raw: &[u8],
        output: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        match (frame, &self.announced) {
            (NextFrame::Skippable { kind: header::FRAME_KIND, payload }, None) => {
                let announced = header::decode(&payload)?;
                if announced.length_bytes > self.length_max {
                    return Err(Error::damaged(format!("it announces {} bytes", announced.length_bytes)));
                }
                self.announced = Some(announced);
                Ok(())
            }
            (NextFrame::Content, Some(announced)) => {
                self.hasher.update(raw);
                if self.hasher.length_bytes() > announced.length_bytes {
                    return Err(Error::damaged("it contains more bytes than it announces"));
                }
                output(raw)
            }
            _ => Err(Error::damaged("it does not start with the header of a WAL object")),
        }
    }

    fn finish(self) -> Result<ContentSum> {
        let announced = self.announced.ok_or_else(|| Error::damaged("it is empty"))?;
        let found = self.hasher.finish();
        if found == announced {
            Ok(found)
        } else {
            Err(Error::damaged("its digest does not match its content"))
        }
    }
}
