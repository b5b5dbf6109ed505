//! A WAL file on its way out of an object: every checksum holds, and it is what its name says, or it is an error.

use super::check::{WalExpectation, length_max};
use super::header;
use crate::codec::{ContentHasher, ContentSum, Decoded, FRAME_RAW_BYTES, FrameDecoder};
use crate::error::{Context, Error, Result};
use crate::postgres::{LongPageHeader, SegmentName, SegmentSize, WalFileName};
use crate::repository::Repository;
use crate::store::ReadRange;
use std::io::Write;

/// What was fetched.
#[derive(Clone, Copy, Debug)]
pub struct FetchedWal {
    /// Length and digest of the file.
    pub sum: ContentSum,
    /// The length of the object.
    pub stored_bytes: u64,
}

/// Writes the file `name` to `output`, checked whole: its sum, and that it is what its name says.
///
/// `None` when the store has said that there is no such object. What was written before an error is worth nothing.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::error::ErrorKind::Damaged), [`ErrorKind::Foreign`](crate::error::ErrorKind::Foreign),
/// and the store's own.
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

/// Where a name holds the beginning of the file's digest, it must be that of the file.
fn check_digest(name: WalFileName, sum: &ContentSum) -> Result<()> {
    match name {
        WalFileName::FurtherPartial(_, beginning) if beginning != sum.digest.beginning() => {
            Err(Error::damaged(format!("the file's BLAKE3 is {}, which differs from its name", sum.digest)))
        }
        _ => Ok(()),
    }
}

/// As [`fetch`] for a small file, which becomes the content of `output`; only its sum is checked.
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

/// What a segment says of itself in its first page; `None` when the store has said that there is no such object.
///
/// Reads no more than that; the object's sum is not checked.
///
/// # Errors
/// As [`fetch`].
pub fn header_of(repository: &Repository, name: SegmentName) -> Result<Option<LongPageHeader>> {
    let name = WalFileName::Segment(name);
    let Some(mut reader) = repository.store().open(&repository.layout().wal_file(name)?, ReadRange::WHOLE)?
    else {
        return Ok(None);
    };
    let mut decoder = FrameDecoder::new();
    let (mut stored, mut raw) = (Vec::new(), Vec::new());
    let header = loop {
        match decoder.next(&mut raw) {
            Ok(Decoded::Frame) => break LongPageHeader::parse(&raw, repository.assumed_version()),
            Ok(Decoded::Skippable { .. }) => continue,
            Ok(Decoded::NeedMore) => {}
            Err(error) => break Err(error),
        }
        stored.clear();
        if reader.read(&mut stored)? == 0 {
            break Err(Error::damaged("it is truncated"));
        }
        decoder.push(&stored);
    };
    header.context(|| located(repository, name)).map(Some)
}

/// Reads an object for nothing but its sum: whether it is intact, and what it holds.
///
/// # Errors
/// As [`fetch`].
pub fn sum(repository: &Repository, name: WalFileName) -> Result<Option<FetchedWal>> {
    decode(repository, name, &mut |_| Ok(()))
}

fn located(repository: &Repository, name: WalFileName) -> String {
    match repository.layout().wal_file(name) {
        Ok(key) => format!("the stored object \"{}/{key}\" cannot be used", repository.store().location()),
        Err(_) => format!("the stored object of {name} cannot be used"),
    }
}

/// Decodes an object, handing out its raw bytes in order.
fn decode(
    repository: &Repository,
    name: WalFileName,
    output: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Option<FetchedWal>> {
    let Some(mut reader) = repository.store().open(&repository.layout().wal_file(name)?, ReadRange::WHOLE)?
    else {
        return Ok(None);
    };
    let mut decoding =
        Decoding { announced: None, hasher: ContentHasher::new(), length_max: length_max(name) };
    let mut decoder = FrameDecoder::new();
    let (mut stored, mut raw) = (Vec::new(), Vec::new());
    let mut stored_bytes = 0;
    loop {
        stored.clear();
        let length = reader.read(&mut stored)?;
        if length == 0 {
            break;
        }
        stored_bytes += length as u64;
        decoder.push(&stored);
        loop {
            raw.clear();
            match decoder.next(&mut raw).and_then(|decoded| decoding.take(decoded, &raw, output)) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Err(error).context(|| located(repository, name)),
            }
        }
    }
    decoder
        .finish()
        .and_then(|()| decoding.finish())
        .context(|| located(repository, name))
        .map(|sum| Some(FetchedWal { sum, stored_bytes }))
}

/// How far the decoding of one object has come.
struct Decoding {
    announced: Option<ContentSum>,
    hasher: ContentHasher,
    length_max: u64,
}

impl Decoding {
    /// Takes one frame; whether to ask for another before reading on.
    fn take(
        &mut self,
        decoded: Decoded,
        raw: &[u8],
        output: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<bool> {
        match (decoded, &self.announced) {
            (Decoded::NeedMore, _) => Ok(false),
            (Decoded::Skippable { kind: header::FRAME_KIND, payload }, None) => {
                let announced = header::decode(&payload)?;
                if announced.length_bytes > self.length_max {
                    return Err(Error::damaged(format!("it announces {} bytes", announced.length_bytes)));
                }
                self.announced = Some(announced);
                Ok(true)
            }
            (Decoded::Frame, Some(announced)) => {
                self.hasher.update(raw);
                if self.hasher.length_bytes() > announced.length_bytes {
                    return Err(Error::damaged("it contains more bytes than it announces"));
                }
                output(raw).map(|()| true)
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
