//! A store in a bucket of S3, or of a service that speaks like it.
//!
//! An object becomes visible whole, by one `PutObject` or by the end of a multipart upload, with `If-None-Match: *` and
//! checksums that the service compares; what the service really does of that is found out once by [`probe`] and made
//! up for where it does less. Source: Amazon S3 API Reference, `PutObject`, "Conditional writes".
//!
//! The way of an object in: `writer` → `put`, or where it is large → `multipart`; out: `reader`, of which `ranges` has
//! several at once. Requests go through [`client`], which
//! tries again what [`errors`] calls transient.

mod address;
mod behaviour;
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

pub use behaviour::{Behaviour, ContentCheck};

use super::{
    Capabilities, Listing, NewObject, ObjectInfo, ObjectKey, ObjectReader, ObjectUse, ObjectVisitor,
    ObjectWriter, Observation, ReadRange, Store, StoreService,
};
use crate::config::S3Settings;
use crate::error::{Context, Error, Result};
use client::{Retry, S3Client};
use errors::{Answer, Failure};
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
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: S3Client,
    use_of: fn(&ObjectKey) -> Option<ObjectUse>,
    behaviour: OnceCell<Behaviour>,
}

impl S3Store {
    /// The store below `prefix` in `bucket`; `use_of` tells what an object is, and of which names there are none: they
    /// are somebody else's. Touches nothing.
    pub fn new(
        bucket: &str,
        prefix: &str,
        settings: S3Settings,
        use_of: fn(&ObjectKey) -> Option<ObjectUse>,
    ) -> S3Store {
        let client = S3Client::new(bucket, prefix, settings);
        S3Store { inner: Arc::new(Inner { client, use_of, behaviour: OnceCell::new() }) }
    }

    /// What the service does of what it is asked for; found out where nobody has done so yet.
    ///
    /// # Errors
    /// Unavailable: it could not be found out, or an object lock that is asked for does not hold.
    pub fn behaviour(&self) -> Result<Behaviour> {
        self.inner.client.wait(async { self.inner.behaviour().await.cloned() })
    }
}

impl Inner {
    async fn behaviour(&self) -> Result<&Behaviour> {
        self.behaviour.get_or_try_init(|| probe::behaviour(self)).await
    }

    /// Length and mark of an object; `None` when the service has said that it does not exist.
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
                // A list may lag behind: what HEAD has found is not absent.
                let unlisted =
                    || Error::unavailable("the service reports no length for an object").context(what());
                length_bytes.map(|length_bytes| Some(Head { length_bytes, mark })).ok_or_else(unlisted)
            }
            Err(Failure { answer: Answer::NoSuchKey, .. }) => Ok(None),
            Err(Failure { answer: Answer::NotFound, .. }) => {
                // The answer to a HEAD has no words: that there is no bucket looks the same.
                self.check_bucket().await.context(what)?;
                Ok(None)
            }
            Err(Failure { answer: Answer::Denied | Answer::UnexplainedBadRequest, error, .. }) => {
                // Nor does it say whether the keys are unknown, or what is missing: a list does.
                self.check_bucket().await.context(what)?;
                Err(error.context(what()))
            }
            Err(failure) => Err(failure.error.context(what())),
        }
    }

    /// That the bucket exists and may be listed: only then an object's absence is known.
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

    /// The error of a request that reads. S3 says 403 of what does not exist to whoever may not list.
    fn denied_or(&self, failure: Failure) -> Error {
        if failure.answer != Answer::Denied {
            return failure.error;
        }
        let hint = failure.error.hint_text().unwrap_or_default().to_owned();
        failure.error.hint(format!(
            "{hint} Without s3:ListBucket, S3 also denies access to objects that do not exist."
        ))
    }
}

/// What `HEAD` says of an object.
#[derive(Debug)]
struct Head {
    length_bytes: u64,
    /// Which put it came from.
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
                Ok(_) | Err(Failure { answer: Answer::NoSuchKey, .. }) => Ok(()),
                Err(failure) => {
                    let denied = failure.answer == Answer::Denied;
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
