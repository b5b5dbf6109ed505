//! A store in a bucket of S3, or of an S3-compatible service.
//!
//! One `PutObject`, or the end of a multipart upload, makes a whole object visible, with `If-None-Match: *` and
//! checksums that the service compares. [`probe`] tests once what the service really does; where it does less, the
//! store compensates. Source: Amazon S3 API Reference, `PutObject`, "Conditional writes".
//!
//! Objects are written by `writer`, then `put`, or `multipart` if they are large. They are read by `reader`, of which
//! `ranges` runs several at once. All requests go through [`client`], which retries what [`errors`] considers
//! transient.

mod address;
mod behavior;
mod client;
mod clock;
mod connect;
mod errors;
mod examine;
mod keys;
mod list;
mod multipart;
mod probe;
mod progress;
mod put;
mod ranges;
mod reader;
mod writer;

use super::{
    Capabilities, Listing, NewObject, ObjectInfo, ObjectKey, ObjectReader, ObjectUse, ObjectVisitor,
    ObjectWriter, Observation, ReadRange, Store, StoreService,
};
use crate::config::S3Settings;
use crate::error::{Context, Error, Result};
use behavior::ServiceBehavior;
use client::{Retry, S3Client};
use errors::{RequestFailure, ResponseKind};
use jiff::Timestamp;
use put::{Overwrite, SinglePut};
use ranges::RangesReader;
use reader::S3Reader;
use std::sync::Arc;
use tokio::sync::OnceCell;
use writer::S3Writer;

/// A store in a bucket.
#[derive(Clone, Debug)]
pub struct S3Store {
    inner: Arc<S3Inner>,
}

#[derive(Debug)]
struct S3Inner {
    client: S3Client,
    use_of: fn(&ObjectKey) -> Option<ObjectUse>,
    behavior: OnceCell<ServiceBehavior>,
}

impl S3Store {
    /// The store below `prefix` in `bucket`. `use_of` tells what an object is; names for which it returns `None` belong
    /// to other programs. Accesses nothing.
    pub fn new(
        bucket: &str,
        prefix: &str,
        settings: S3Settings,
        use_of: fn(&ObjectKey) -> Option<ObjectUse>,
    ) -> S3Store {
        let client = S3Client::new(bucket, prefix, settings);
        S3Store { inner: Arc::new(S3Inner { client, use_of, behavior: OnceCell::new() }) }
    }
}

impl S3Inner {
    async fn behavior(&self) -> Result<&ServiceBehavior> {
        self.behavior.get_or_try_init(|| probe::behavior(self)).await
    }

    /// Length and mark of an object; `None` if the service has confirmed that it does not exist.
    async fn head(&self, key: &ObjectKey) -> Result<Option<Head>> {
        let what = || format!("could not inspect \"{}\"", self.client.locate(key));
        let found = self
            .client
            .request(Retry::Transient, |to| {
                to.client
                    .head_object()
                    .bucket(&to.address.bucket)
                    .key(self.client.full_key(key))
                    .set_request_payer(self.client.payer())
                    .send()
            })
            .await;
        match found {
            Ok(head) => {
                let mark = head.metadata().and_then(|metadata| metadata.get(put::MARK).cloned());
                let length_bytes = match head.content_length().map(u64::try_from) {
                    Some(Ok(length_bytes)) => Some(length_bytes),
                    _ => list::length_of(self, key).await.context(what)?,
                };
                // A list may be out of date: an object that HEAD has found is not absent.
                let unlisted =
                    || Error::unavailable("the service reports no length for an object").context(what());
                length_bytes.map(|length_bytes| Some(Head { length_bytes, mark })).ok_or_else(unlisted)
            }
            Err(RequestFailure { response: ResponseKind::NoSuchKey, .. }) => Ok(None),
            Err(RequestFailure { response: ResponseKind::NotFound, .. }) => {
                // The response to a HEAD has no explanation. It looks the same if there is no bucket.
                self.check_bucket().await.context(what)?;
                Ok(None)
            }
            Err(RequestFailure {
                response: ResponseKind::Denied | ResponseKind::UnexplainedBadRequest,
                error,
                ..
            }) => {
                // Nor does it tell whether the keys are unknown or what is missing. A list does.
                self.check_bucket().await.context(what)?;
                Err(error.context(what()))
            }
            Err(failure) => Err(failure.error.context(what())),
        }
    }

    /// Checks that the bucket exists and may be listed. Only then is an object known to be absent.
    async fn check_bucket(&self) -> Result<()> {
        let listed = self
            .client
            .request(Retry::Transient, |to| {
                to.client
                    .list_objects_v2()
                    .bucket(&to.address.bucket)
                    .prefix(&to.address.prefix)
                    .max_keys(1)
                    .set_request_payer(self.client.payer())
                    .send()
            })
            .await;
        listed.map(drop).map_err(|failure| self.denied_or(failure))
    }

    /// The error of a request that reads. Without permission to list, S3 responds with 403 for objects that do not
    /// exist.
    fn denied_or(&self, failure: RequestFailure) -> Error {
        if failure.response != ResponseKind::Denied {
            return failure.error;
        }
        let hint = failure.error.hint_text().unwrap_or_default().to_owned();
        failure.error.hint(format!(
            "{hint} Without s3:ListBucket, S3 also denies access to objects that do not exist."
        ))
    }
}

/// What `HEAD` reports of an object.
#[derive(Debug)]
struct Head {
    length_bytes: u64,
    /// The put that created it.
    mark: Option<String>,
}

impl StoreService for S3Store {
    fn location(&self) -> String {
        self.inner.client.place().location()
    }

    fn now(&self) -> Result<Timestamp> {
        let clock = &self.inner.client.clock;
        if !clock.is_measured() {
            self.inner.client.wait(self.inner.check_bucket())?;
        }
        Timestamp::try_from(clock.now())
            .map_err(|error| Error::unavailable("could not read the clock").caused_by(error))
    }

    fn trouble(&self) -> Option<Error> {
        self.inner.client.trouble()
    }

    fn examine(&self) -> Result<Vec<Observation>> {
        self.inner.client.wait(examine::examine(&self.inner))
    }

    fn sweep(&self) -> Result<u64> {
        self.inner.client.wait(list::sweep(&self.inner))
    }
}

impl Store for S3Store {
    /// What was stored remains until it is deleted; a bucket cannot be unmounted.
    fn capabilities(&self) -> Capabilities {
        Capabilities { header_last: false, keeps_digest: true, can_be_unmounted: false }
    }

    fn create(&self, key: &ObjectKey, object: NewObject) -> Result<Box<dyn ObjectWriter>> {
        if object.header_bytes > 0 {
            return Err(Error::damaged("internal error: a bucket takes the header of an object first"));
        }
        let digest = object.digest.map(|digest| digest.to_string());
        Ok(Box::new(S3Writer::begin(self.inner.clone(), key.clone(), digest)))
    }

    fn open(&self, key: &ObjectKey, range: ReadRange) -> Result<Option<Box<dyn ObjectReader>>> {
        let (client, store, key) = (&self.inner.client, self.inner.clone(), key.clone());
        Ok(match range.expected_end {
            None => client.wait(S3Reader::open(store, key, range.from))?.map(|reader| Box::new(reader) as _),
            Some(end) => client
                .wait(RangesReader::open(store, key, range.from, end))?
                .map(|reader| Box::new(reader) as _),
        })
    }
    fn replace(&self, key: &ObjectKey, content: &[u8]) -> Result<()> {
        let content = bytes::Bytes::copy_from_slice(content);
        let object = SinglePut::new(&self.inner, key, content);
        self.inner.client.wait(object.put(Overwrite::Yes)).map(drop)
    }

    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        let head = self.inner.client.wait(self.inner.head(key))?;
        Ok(head.map(|head| ObjectInfo { length_bytes: head.length_bytes }))
    }

    fn list(&self, below: Option<&ObjectKey>) -> Result<Listing> {
        self.inner.client.wait(list::list(&self.inner, below))
    }

    fn walk(&self, below: &ObjectKey, from: Option<&ObjectKey>, visit: ObjectVisitor<'_>) -> Result<()> {
        list::walk(&self.inner, below, from, visit)
    }

    fn make_durable(&self, key: &ObjectKey) -> Result<()> {
        match self.inner.client.wait(self.inner.head(key))? {
            Some(_) => Ok(()),
            None => Err(Error::absent(format!("\"{}\" was removed", self.inner.client.locate(key)))),
        }
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        let client = &self.inner.client;
        client.wait(async {
            let deleted = client.request(Retry::Transient, |to| {
                to.client
                    .delete_object()
                    .bucket(&to.address.bucket)
                    .key(client.full_key(key))
                    .set_request_payer(client.payer())
                    .send()
            });
            match deleted.await {
                Ok(_) | Err(RequestFailure { response: ResponseKind::NoSuchKey, .. }) => Ok(()),
                Err(failure) => {
                    let denied = failure.response == ResponseKind::Denied;
                    let error = failure.error.context(format!("could not remove \"{}\"", client.locate(key)));
                    Err(if denied {
                        error.hint("Grant s3:DeleteObject to remove objects. Archiving does not need it.")
                    } else {
                        error
                    })
                }
            }
        })
    }
}
