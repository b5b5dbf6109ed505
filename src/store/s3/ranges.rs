//! Reads a long part of an object with several requests at once: one connection alone is slower than most networks and
//! disks.
//!
//! The part is divided into ranges. The first one streams to the caller, while the following ones are fetched. Each
//! resumes on its own after an interruption. Nothing is fetched that the caller has not announced. RangeSource: Amazon
//! S3 User Guide, "Performance guidelines", byte-range fetches.

use super::S3Inner;
use super::reader::{Range, S3Reader};
use crate::error::{Context, Error, Result};
use crate::store::{ObjectKey, ObjectReader};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

/// The length of a range: the minimum that S3 recommends.
const RANGE_BYTES: u64 = 8 << 20;
/// How many ranges are fetched ahead of the current one, into memory.
const RANGES_AHEAD: usize = 3;

pub struct RangesReader {
    store: Arc<S3Inner>,
    key: ObjectKey,
    /// The object's version. All ranges belong to the same one.
    etag: Option<String>,
    current: RangeSource,
    ahead: VecDeque<FetchedAhead>,
    /// Where the next range begins that was not requested yet.
    next: u64,
    /// Where the announced part ends.
    until: u64,
    object_end: u64,
}

/// The source of the bytes.
enum RangeSource {
    /// A body that is read on demand.
    Streamed(Box<S3Reader>),
    Ahead(FetchedAhead),
}

/// A range that is being fetched into memory.
struct FetchedAhead {
    /// Unbounded, because the range is bounded. The last piece is empty, or an error.
    pieces: UnboundedReceiver<Result<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for FetchedAhead {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RangesReader {
    /// Opens an object at byte `from`; `None` if the service has confirmed that it does not exist. The caller expects
    /// to read up to byte `until`; what follows is requested on demand.
    pub async fn open(
        store: Arc<S3Inner>,
        key: ObjectKey,
        from: u64,
        until: u64,
    ) -> Result<Option<RangesReader>> {
        let range = Range { from, until: Some(range_end(from, until)) };
        let Some(first) = S3Reader::open_range(store.clone(), key.clone(), range, None).await? else {
            return Ok(None);
        };
        // If the length is unknown, the whole object comes in one response.
        let object_end = first.object_end().unwrap_or(u64::MAX);
        let mut reader = RangesReader {
            store,
            key,
            etag: first.etag(),
            // A service without ranges responds with the whole object.
            next: first.end().unwrap_or(u64::MAX),
            current: RangeSource::Streamed(Box::new(first)),
            ahead: VecDeque::new(),
            until: until.min(object_end),
            object_end,
        };
        reader.fetch_ahead()?;
        Ok(Some(reader))
    }

    /// Requests as many ranges as may be in flight.
    fn fetch_ahead(&mut self) -> Result<()> {
        while self.ahead.len() < RANGES_AHEAD && self.next < self.until {
            let range = Range { from: self.next, until: Some(range_end(self.next, self.until)) };
            let (sender, pieces) = unbounded_channel();
            let fetch = fetch(self.store.clone(), self.key.clone(), range, self.etag.clone(), sender);
            let task = self.store.client.spawn(fetch)?;
            self.ahead.push_back(FetchedAhead { pieces, task });
            self.next = range.until.unwrap_or(self.until);
        }
        Ok(())
    }

    /// The next bytes; none at the object's end.
    async fn next_piece(&mut self) -> Result<Bytes> {
        loop {
            let piece = match &mut self.current {
                RangeSource::Streamed(reader) => reader.next_piece().await?,
                RangeSource::Ahead(range) => match range.pieces.recv().await {
                    Some(piece) => piece?,
                    None => return Err(Error::unavailable("fetching ahead ended prematurely")),
                },
            };
            if !piece.is_empty() {
                return Ok(piece);
            }
            self.current = match self.ahead.pop_front() {
                Some(range) => RangeSource::Ahead(range),
                None if self.next >= self.object_end => return Ok(Bytes::new()),
                None => RangeSource::Streamed(Box::new(self.open_unannounced().await?)),
            };
            self.fetch_ahead()?;
        }
    }

    /// Opens a range that was not announced.
    async fn open_unannounced(&mut self) -> Result<S3Reader> {
        let range = Range { from: self.next, until: Some(range_end(self.next, self.object_end)) };
        let opened = S3Reader::open_range(self.store.clone(), self.key.clone(), range, self.etag.clone());
        let reader = opened.await?.ok_or_else(changed)?;
        self.next = reader.end().unwrap_or(u64::MAX);
        Ok(reader)
    }
}

impl ObjectReader for RangesReader {
    fn read(&mut self, buffer: &mut Vec<u8>) -> Result<usize> {
        let store = self.store.clone();
        let piece = store
            .client
            .wait(self.next_piece())
            .context(|| format!("could not read \"{}\"", store.client.locate(&self.key)))?;
        buffer.extend_from_slice(&piece);
        Ok(piece.len())
    }
}

/// Fetches a range piece by piece: all of it, or an error.
async fn fetch(
    store: Arc<S3Inner>,
    key: ObjectKey,
    range: Range,
    etag: Option<String>,
    pieces: UnboundedSender<Result<Bytes>>,
) {
    let mut reader = match S3Reader::open_range(store, key, range, etag).await {
        Ok(Some(reader)) if reader.end() == range.until => reader,
        other => {
            // The reader may have been dropped.
            let _ = pieces.send(other.and_then(|_| Err(changed())));
            return;
        }
    };
    loop {
        let piece = reader.next_piece().await;
        let goes_on = piece.as_ref().is_ok_and(|piece| !piece.is_empty());
        if pieces.send(piece).is_err() || !goes_on {
            return;
        }
    }
}

/// The error for a range that no longer exists, although the object did when it was opened.
fn changed() -> Error {
    Error::unavailable("the object changed while it was read")
}

fn range_end(from: u64, until: u64) -> u64 {
    from.saturating_add(RANGE_BYTES).min(until.max(from.saturating_add(1)))
}
