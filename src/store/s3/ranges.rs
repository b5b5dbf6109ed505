//! A long stretch of an object, with several requests on their way at once: one connection alone is slower than most
//! networks and disks are.
//!
//! The stretch is cut into ranges. The first one streams to whoever reads; those behind it are fetched meanwhile, each
//! resumed by itself where it breaks off. Nothing is fetched that the reader has not announced.
//! Source: Amazon S3 User Guide, "Performance guidelines", byte-range fetches.

use super::Inner;
use super::reader::{Range, S3Reader};
use crate::error::{Context, Error, Result};
use crate::store::{ObjectKey, ObjectReader};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

/// How long a range is: what S3 recommends at the least.
const RANGE_BYTES: u64 = 8 << 20;
/// How many ranges are fetched ahead of the one that is read, each in memory as far as it has come.
const RANGES_AHEAD: usize = 3;

pub struct RangesReader {
    store: Arc<Inner>,
    key: ObjectKey,
    /// The object's version, so that all ranges are of the same one.
    etag: Option<String>,
    current: Source,
    ahead: VecDeque<FetchedAhead>,
    /// Where the next range begins that nobody has asked for.
    next: u64,
    /// What was announced ends here.
    until: u64,
    object_end: u64,
}

/// Where bytes come from.
enum Source {
    /// A body that is read as it is wanted.
    Streamed(Box<S3Reader>),
    Ahead(FetchedAhead),
}

/// A range on its way into memory.
struct FetchedAhead {
    /// Not bounded: a range is. The last one is empty, or an error.
    pieces: UnboundedReceiver<Result<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for FetchedAhead {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RangesReader {
    /// Asks for an object from byte `from` on; `None` when the service has said that it does not exist. Up to byte `until`
    /// it will be read; what lies behind is asked for when it is wanted.
    pub async fn open(
        store: Arc<Inner>,
        key: ObjectKey,
        from: u64,
        until: u64,
    ) -> Result<Option<RangesReader>> {
        let range = Range { from, until: Some(range_end(from, until)) };
        let Some(first) = S3Reader::open_range(store.clone(), key.clone(), range, None).await? else {
            return Ok(None);
        };
        // Without a word about its length, all of it comes in one answer.
        let object_end = first.object_end().unwrap_or(u64::MAX);
        let mut reader = RangesReader {
            store,
            key,
            etag: first.etag(),
            // A service that knows no ranges answers with all of it.
            next: first.end().unwrap_or(u64::MAX),
            current: Source::Streamed(Box::new(first)),
            ahead: VecDeque::new(),
            until: until.min(object_end),
            object_end,
        };
        reader.fetch_ahead()?;
        Ok(Some(reader))
    }

    /// Asks for as many ranges as may be on their way.
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
                Source::Streamed(reader) => reader.next_piece().await?,
                Source::Ahead(range) => match range.pieces.recv().await {
                    Some(piece) => piece?,
                    None => return Err(Error::unavailable("fetching ahead ended prematurely")),
                },
            };
            if !piece.is_empty() {
                return Ok(piece);
            }
            self.current = match self.ahead.pop_front() {
                Some(range) => Source::Ahead(range),
                None if self.next >= self.object_end => return Ok(Bytes::new()),
                None => Source::Streamed(Box::new(self.one_more().await?)),
            };
            self.fetch_ahead()?;
        }
    }

    /// A range that nobody has announced.
    async fn one_more(&mut self) -> Result<S3Reader> {
        let range = Range { from: self.next, until: Some(range_end(self.next, self.object_end)) };
        let opened = S3Reader::open_range(self.store.clone(), self.key.clone(), range, self.etag.clone());
        let reader = opened.await?.ok_or_else(gone)?;
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

/// Fetches a range, piece by piece; all of it, or an error in its place.
async fn fetch(
    store: Arc<Inner>,
    key: ObjectKey,
    range: Range,
    etag: Option<String>,
    pieces: UnboundedSender<Result<Bytes>>,
) {
    let mut reader = match S3Reader::open_range(store, key, range, etag).await {
        Ok(Some(reader)) if reader.end() == range.until => reader,
        other => {
            // Whoever has gone does not need it.
            let _ = pieces.send(other.and_then(|_| Err(gone())));
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

/// The range was there when the object was opened.
fn gone() -> Error {
    Error::unavailable("the object changed while it was read")
}

fn range_end(from: u64, until: u64) -> u64 {
    from.saturating_add(RANGE_BYTES).min(until.max(from.saturating_add(1)))
}
