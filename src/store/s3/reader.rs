//! Reads an object.
//!
//! Makes one request, if the object arrives completely. After an interruption or a stall it requests the rest, of the
//! same version of the object.

use super::S3Inner;
use super::client::Retry;
use super::errors::{RequestFailure, ResponseKind, no_response, stalled};
use crate::error::{Context, Error, Result};
use crate::store::{ObjectKey, ObjectReader};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// The pause before the rest of a body is requested.
const PAUSE: Duration = Duration::from_millis(200);

pub struct S3Reader {
    store: Arc<S3Inner>,
    key: ObjectKey,
    /// The object's version. A resumed body belongs to the same one.
    etag: Option<String>,
    position: u64,
    /// The end of the range; `None`: the end of the body. Behind some proxies a response does not report its length.
    end: Option<u64>,
    /// The object's length, if the response reports it. The object may continue after `end`.
    object_end: Option<u64>,
    /// `None` after an interruption.
    body: Option<ByteStream>,
    /// When the current wait began.
    waiting_since: Instant,
}

/// A range of an object.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub from: u64,
    /// `None`: to the object's end.
    pub until: Option<u64>,
}

impl S3Reader {
    /// Opens an object at byte `from`; `None` if the service has confirmed that it does not exist.
    pub async fn open(store: Arc<S3Inner>, key: ObjectKey, from: u64) -> Result<Option<S3Reader>> {
        S3Reader::open_range(store, key, Range { from, until: None }, None).await
    }

    /// Opens a range of an object, of the version `etag`.
    pub async fn open_range(
        store: Arc<S3Inner>,
        key: ObjectKey,
        range: Range,
        etag: Option<String>,
    ) -> Result<Option<S3Reader>> {
        let from = range.from;
        match get(&store, &key, range, etag.clone()).await {
            Ok(found) => {
                let ends = Ends::of(&found, range)?;
                let etag = found.e_tag().map(str::to_owned);
                Ok(Some(S3Reader {
                    store,
                    key,
                    etag,
                    position: from,
                    end: ends.body,
                    object_end: ends.object,
                    body: Some(found.body),
                    waiting_since: Instant::now(),
                }))
            }
            Err(RequestFailure { response: ResponseKind::NoSuchKey, .. }) => Ok(None),
            // The object exists and ends before the range: the first read finds its end.
            Err(RequestFailure { response: ResponseKind::InvalidRange, .. }) => Ok(Some(S3Reader {
                store,
                key,
                etag,
                position: from,
                end: Some(from),
                object_end: Some(from),
                body: None,
                waiting_since: Instant::now(),
            })),
            Err(failure) => {
                let what = format!("could not open \"{}\"", store.client.locate(&key));
                Err(store.denied_or(changed_or(failure)).context(what))
            }
        }
    }

    /// Appends the next bytes to `buffer`; none at the end.
    pub async fn next(&mut self, buffer: &mut Vec<u8>) -> Result<usize> {
        let piece = self.next_piece().await?;
        buffer.extend_from_slice(&piece);
        Ok(piece.len())
    }

    /// The next bytes; none at the end.
    pub async fn next_piece(&mut self) -> Result<Bytes> {
        self.waiting_since = Instant::now();
        loop {
            if self.end.is_some_and(|end| self.position >= end) {
                return Ok(Bytes::new());
            }
            let failure = match self.piece().await {
                Ok(piece) if piece.is_empty() => continue,
                Ok(piece) => {
                    self.position += piece.len() as u64;
                    if self.end.is_some_and(|end| self.position > end) {
                        return Err(Error::damaged("the service sent more data than announced"));
                    }
                    return Ok(piece);
                }
                // A body of unknown length was interrupted after its last byte: no more bytes of the same version
                // follow.
                Err(RequestFailure { response: ResponseKind::InvalidRange, .. }) if self.end.is_none() => {
                    self.end = Some(self.position);
                    continue;
                }
                Err(failure) => failure,
            };
            self.body = None;
            let waited = self.waiting_since.elapsed();
            if !failure.transient || waited > self.store.client.settings.retry_deadline {
                return Err(self.store.denied_or(changed_or(failure)));
            }
            tracing::debug!(error = %failure.error, key = %self.key, position = self.position, "resuming a response body");
            self.store.client.set_trouble(Some(failure.error));
            sleep(PAUSE).await;
        }
    }

    /// The object's length, whatever the range; `None` if the service has not reported it.
    pub fn object_end(&self) -> Option<u64> {
        self.object_end
    }

    /// The version of the object.
    pub fn etag(&self) -> Option<String> {
        self.etag.clone()
    }

    /// The end of the range; `None`: the object's end.
    pub fn end(&self) -> Option<u64> {
        self.end
    }

    async fn piece(&mut self) -> std::result::Result<Bytes, RequestFailure> {
        let stall = self.store.client.settings.stall_timeout;
        let body = match &mut self.body {
            Some(body) => body,
            None => {
                let (body, end) = self.resume().await?;
                self.end = self.end.or(end);
                self.body.insert(body)
            }
        };
        match timeout(stall, body.next()).await {
            Err(_) => Err(stalled(stall.as_secs())),
            Ok(None) => match self.end {
                Some(end) => Err(no_response(format!("the body ends at byte {} of {end}", self.position))),
                // The connection was closed properly, so the body is complete.
                None => {
                    self.end = Some(self.position);
                    Ok(Bytes::new())
                }
            },
            Ok(Some(Err(error))) => {
                Err(no_response(format!("the body was interrupted at byte {}: {error}", self.position)))
            }
            Ok(Some(Ok(piece))) => Ok(piece),
        }
    }

    /// Requests the rest; returns its body and where that ends.
    async fn resume(&self) -> std::result::Result<(ByteStream, Option<u64>), RequestFailure> {
        let until = self.end.filter(|end| self.object_end.is_none_or(|object| *end < object));
        let range = Range { from: self.position, until };
        let found = get(&self.store, &self.key, range, self.etag.clone()).await?;
        match Ends::of(&found, range) {
            Ok(Ends { body: end, .. }) if end.is_none() || self.end.is_none() || end == self.end => {
                Ok((found.body, end))
            }
            _ => Err(changed()),
        }
    }
}

/// The failure for an object that is no longer the same.
fn changed() -> RequestFailure {
    RequestFailure { transient: false, ..no_response("the object changed while it was read".to_owned()) }
}

/// The meaning of a failed condition on the object's version.
fn changed_or(failure: RequestFailure) -> RequestFailure {
    if failure.response == ResponseKind::PreconditionFailed { changed() } else { failure }
}

impl ObjectReader for S3Reader {
    fn read(&mut self, buffer: &mut Vec<u8>) -> Result<usize> {
        let store = self.store.clone();
        store
            .client
            .wait(self.next(buffer))
            .context(|| format!("could not read \"{}\"", store.client.locate(&self.key)))
    }
}

async fn get(
    store: &S3Inner,
    key: &ObjectKey,
    range: Range,
    etag: Option<String>,
) -> std::result::Result<GetObjectOutput, RequestFailure> {
    let range = match range {
        Range { from: 0, until: None } => None,
        Range { from, until: None } => Some(format!("bytes={from}-")),
        Range { from, until: Some(until) } => Some(format!("bytes={from}-{}", until.saturating_sub(1))),
    };
    store
        .client
        .request(Retry::Transient, |to| {
            to.client
                .get_object()
                .bucket(&to.address.bucket)
                .key(store.client.full_key(key))
                .set_range(range.clone())
                .set_if_match(etag.clone())
                .set_request_payer(store.client.payer())
                .send()
        })
        .await
}

/// Where a response ends, and the object, as far as the response reports it.
struct Ends {
    body: Option<u64>,
    object: Option<u64>,
}

impl Ends {
    /// The ends in a response to a request for this range.
    fn of(found: &GetObjectOutput, range: Range) -> Result<Ends> {
        let length = found.content_length().and_then(|length| u64::try_from(length).ok());
        // Not every service supports ranges. Its response would pass for another part of the object.
        let content = found.content_range().and_then(|range| range.strip_prefix("bytes ")?.split_once('-'));
        let begins = content.and_then(|(first, _)| first.parse().ok()).unwrap_or(0);
        let (last, object) = content.and_then(|(_, rest)| rest.split_once('/')).unzip();
        if begins != range.from {
            return Err(Error::unavailable(format!(
                "the response starts at byte {begins} instead of {}",
                range.from
            )));
        }
        let last = last.and_then(|last| last.parse::<u64>().ok());
        let body =
            length.map(|length| begins.saturating_add(length)).or(last.map(|last| last.saturating_add(1)));
        let object = object.and_then(|object| object.parse::<u64>().ok()).or(body).max(body);
        Ok(Ends { body, object })
    }
}
