//! One object on its way out of the bucket.
//!
//! One request for an object that arrives whole. A body that breaks off or stands still is asked for again from where
//! it ended, and only of the same version of the object.

use super::Inner;
use super::client::Retry;
use super::errors::{Answer, Failure, stalled, unanswered};
use crate::error::{Context, Error, Result};
use crate::store::{ObjectKey, ObjectReader};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// The pause before a body is asked for again.
const PAUSE: Duration = Duration::from_millis(200);

pub struct S3Reader {
    store: Arc<Inner>,
    key: ObjectKey,
    /// The object's version, so that a resumed body is of the same one.
    etag: Option<String>,
    position: u64,
    end: u64,
    /// `None` when it broke off.
    body: Option<ByteStream>,
    /// Since when nothing came.
    waiting_since: Instant,
}

impl S3Reader {
    /// Asks for an object from byte `from` on; `None` when the service has said that it does not exist.
    pub async fn open(store: Arc<Inner>, key: ObjectKey, from: u64) -> Result<Option<S3Reader>> {
        match get(&store, &key, from, None).await {
            Ok(found) => {
                let (end, etag) = (end_of(&found, from)?, found.e_tag().map(str::to_owned));
                let (body, waiting_since) = (Some(found.body), Instant::now());
                Ok(Some(S3Reader { store, key, etag, position: from, end, body, waiting_since }))
            }
            Err(Failure { answer: Answer::NoSuchKey, .. }) => Ok(None),
            // It exists, and ends before: so the first read finds its end.
            Err(Failure { answer: Answer::InvalidRange, .. }) => {
                let (body, waiting_since) = (None, Instant::now());
                Ok(Some(S3Reader { store, key, etag: None, position: from, end: from, body, waiting_since }))
            }
            Err(failure) => Err(store
                .denied_or(failure)
                .context(format!("could not open \"{}\"", store.client.locate(&key)))),
        }
    }

    /// The next bytes, appended to `buffer`; none at the end.
    pub async fn next(&mut self, buffer: &mut Vec<u8>) -> Result<usize> {
        self.waiting_since = Instant::now();
        loop {
            if self.position >= self.end {
                return Ok(0);
            }
            let failure = match self.piece().await {
                Ok(piece) if piece.is_empty() => continue,
                Ok(piece) => {
                    self.position += piece.len() as u64;
                    if self.position > self.end {
                        return Err(Error::damaged("the service sends more than it announced"));
                    }
                    buffer.extend_from_slice(&piece);
                    return Ok(piece.len());
                }
                Err(failure) => failure,
            };
            self.body = None;
            let waited = self.waiting_since.elapsed();
            if !failure.transient || waited > self.store.client.settings.retry_deadline {
                return Err(self.store.denied_or(failure));
            }
            tracing::debug!(error = %failure.error, key = %self.key, position = self.position, "resumes a body");
            sleep(PAUSE).await;
        }
    }

    async fn piece(&mut self) -> std::result::Result<bytes::Bytes, Failure> {
        let stall = self.store.client.settings.stall_timeout;
        let body = match &mut self.body {
            Some(body) => body,
            None => self.body.insert(self.resume().await?),
        };
        match timeout(stall, body.next()).await {
            Err(_) => Err(stalled(stall.as_secs())),
            Ok(None) => Err(unanswered(format!("the body ends at byte {} of {}", self.position, self.end))),
            Ok(Some(Err(error))) => {
                Err(unanswered(format!("the body breaks off at byte {}: {error}", self.position)))
            }
            Ok(Some(Ok(piece))) => Ok(piece),
        }
    }

    async fn resume(&self) -> std::result::Result<ByteStream, Failure> {
        let found = get(&self.store, &self.key, self.position, self.etag.clone()).await?;
        match end_of(&found, self.position) {
            Ok(end) if end == self.end => Ok(found.body),
            _ => Err(Failure {
                transient: false,
                ..unanswered("the object changed while it was read".to_owned())
            }),
        }
    }
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
    store: &Inner,
    key: &ObjectKey,
    from: u64,
    etag: Option<String>,
) -> std::result::Result<GetObjectOutput, Failure> {
    let range = (from > 0).then(|| format!("bytes={from}-"));
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

/// Where the object ends, from an answer that begins at byte `from`.
fn end_of(found: &GetObjectOutput, from: u64) -> Result<u64> {
    let length = found.content_length().and_then(|length| u64::try_from(length).ok());
    // Not every service knows ranges; this answer would be taken for another part of the object.
    let begins = found.content_range().and_then(|range| range.strip_prefix("bytes ")?.split_once('-'));
    let begins = begins.and_then(|(first, _)| first.parse().ok()).unwrap_or(0);
    match length {
        Some(length) if begins == from => Ok(from + length),
        _ => Err(Error::unavailable(format!("the service answers from byte {begins} on, asked for {from}"))),
    }
}
