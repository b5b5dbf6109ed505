//! What lies in the bucket: objects, and uploads that nobody ended.

use super::Inner;
use super::client::Retry;
use super::errors::{Answer, Failure};
use crate::error::{Context, Error, Result};
use crate::store::{Listing, ObjectInfo, ObjectKey, ObjectVisitor};
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use std::time::{Duration, UNIX_EPOCH};

/// An upload without an end is dead after this: no part takes that long, and a lifecycle rule may come earlier.
const UPLOAD_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What lies directly below a key, a request for each thousand names.
pub async fn list(store: &Inner, below: Option<&ObjectKey>) -> Result<Listing> {
    let prefix = prefix_of(store, below);
    let mut listing = Listing::default();
    let mut place = Some(Place::Beginning);
    while let Some(from) = place {
        let page = page(store, &prefix, Depth::OneLevel, &from).await?;
        listing.objects.extend(objects(&page, &prefix));
        for directory in page.common_prefixes() {
            let name = directory.prefix().and_then(|name| name.strip_prefix(&prefix)?.strip_suffix('/'));
            if let Some(name) = name.filter(|name| ObjectKey::new(*name).is_ok()) {
                listing.directories.push(name.to_owned());
            }
        }
        place = following(store, &prefix, &page, &from)?;
    }
    listing.directories.sort_unstable();
    listing.objects.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(listing)
}

/// The length of an object, where a `HEAD` does not tell; `None` when the list does not hold it.
pub async fn length_of(store: &Inner, key: &ObjectKey) -> Result<Option<u64>> {
    let full_key = store.client.full_key(key);
    let page = page(store, &full_key, Depth::OneLevel, &Place::Beginning).await?;
    // The shortest name that begins so is the first one.
    let found = page.contents().first().filter(|object| object.key() == Some(&full_key));
    Ok(found.and_then(|object| u64::try_from(object.size()?).ok()))
}

/// Visits the objects below a key, a request for each thousand of them. Not asynchronous: whoever visits may make
/// requests of his own.
pub fn walk(
    store: &Inner,
    below: &ObjectKey,
    from: Option<&ObjectKey>,
    visit: ObjectVisitor<'_>,
) -> Result<()> {
    let prefix = prefix_of(store, Some(below));
    let first = from.map(|key| store.client.full_key(key));
    let first = first.as_deref().and_then(|key| key.strip_prefix(&prefix)).unwrap_or_default();
    let mut last = String::new();
    let mut place = Some(Place::before(&prefix, first));
    while let Some(from) = place {
        let page = store.client.wait(page(store, &prefix, Depth::Whole, &from))?;
        for (name, info) in objects(&page, &prefix) {
            // What is found by its place in the order would be missed.
            if name <= last {
                return Err(Error::unavailable(format!(
                    "the service lists \"s3://{}/{prefix}\" unordered",
                    store.client.place().bucket
                ))
                .hint(
                    "Directory buckets (S3 Express One Zone) list unordered. Use a general purpose bucket.",
                ));
            }
            if name.as_str() >= first && visit(&name, info).is_break() {
                return Ok(());
            }
            last = name;
        }
        place = following(store, &prefix, &page, &from)?;
    }
    Ok(())
}

/// How far down a list goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    OneLevel,
    Whole,
}

/// Where a page of a list begins.
#[derive(Clone, PartialEq, Eq)]
enum Place {
    Beginning,
    /// After this full key.
    After(String),
    /// Where the page before ended.
    Token(String),
}

impl Place {
    /// Somewhere before the name `first`, and not far: what comes before it shares all but its last letter.
    fn before(prefix: &str, first: &str) -> Place {
        match first.get(..first.len().saturating_sub(1)) {
            Some(start) if !start.is_empty() => Place::After(format!("{prefix}{start}")),
            _ => Place::Beginning,
        }
    }
}

async fn page(store: &Inner, prefix: &str, depth: Depth, from: &Place) -> Result<ListObjectsV2Output> {
    let (after, token) = match from {
        Place::Beginning => (None, None),
        Place::After(key) => (Some(key.clone()), None),
        Place::Token(token) => (None, Some(token.clone())),
    };
    store
        .client
        .request(Retry::Transient, |to| {
            to.client
                .list_objects_v2()
                .bucket(&to.address.bucket)
                .prefix(prefix)
                .set_delimiter((depth == Depth::OneLevel).then(|| "/".to_owned()))
                .set_start_after(after.clone())
                .set_continuation_token(token.clone())
                .set_request_payer(store.client.payer())
                .send()
        })
        .await
        .map_err(|failure| failure.error)
        .context(|| format!("could not list \"s3://{}/{prefix}\"", store.client.place().bucket))
}

/// The objects of a page. Names that cannot be keys are somebody else's, or the probe's.
fn objects(page: &ListObjectsV2Output, prefix: &str) -> impl Iterator<Item = (String, ObjectInfo)> {
    page.contents().iter().filter_map(move |object| {
        let name = object.key()?.strip_prefix(prefix).filter(|name| ObjectKey::new(*name).is_ok())?;
        let length_bytes = u64::try_from(object.size().unwrap_or_default()).unwrap_or_default();
        Some((name.to_owned(), ObjectInfo { length_bytes }))
    })
}

/// Where the next page begins; `None` after the last one.
fn following(store: &Inner, prefix: &str, page: &ListObjectsV2Output, from: &Place) -> Result<Option<Place>> {
    if page.is_truncated() != Some(true) {
        return Ok(None);
    }
    let next = page.next_continuation_token().map(|token| Place::Token(token.to_owned()));
    match next.filter(|next| next != from) {
        Some(next) => Ok(Some(next)),
        None => Err(Error::unavailable(format!(
            "could not list \"s3://{}/{prefix}\": the service did not send a continuation token",
            store.client.place().bucket
        ))),
    }
}

/// Ends the uploads of dead writers below our prefix; returns how many there were. A bucket, and without a prefix its root,
/// may be shared with others, whose uploads take as long as they like.
///
/// Whoever may not list uploads, or has a service that cannot, leaves that to a lifecycle rule of the bucket.
pub async fn sweep(store: &Inner) -> Result<u64> {
    let prefix = prefix_of(store, None);
    let mut swept = 0;
    let mut from: (Option<String>, Option<String>) = (None, None);
    loop {
        let page = store.client.request(Retry::Transient, |to| {
            to.client
                .list_multipart_uploads()
                .bucket(&to.address.bucket)
                .prefix(&prefix)
                .set_key_marker(from.0.clone())
                .set_upload_id_marker(from.1.clone())
                .set_request_payer(store.client.payer())
                .send()
        });
        let page = match page.await {
            Ok(page) => page,
            Err(Failure { answer: Answer::Denied | Answer::NotImplemented, .. }) => return Ok(swept),
            Err(failure) => return Err(failure.error.context("could not list unfinished uploads")),
        };
        // By the clock that has noted when they began, which the answer has just told.
        let now = store.client.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for upload in page.uploads() {
            let (Some(key), Some(id), Some(begun)) = (upload.key(), upload.upload_id(), upload.initiated())
            else {
                continue;
            };
            let begun = Duration::from_secs(u64::try_from(begun.secs()).unwrap_or_default());
            let is_ours = key.strip_prefix(&prefix).is_some_and(|name| is_ours(store, name));
            if is_ours
                && now.saturating_sub(begun) > UPLOAD_AGE_MAX
                && super::multipart::abort(store, key, id).await
            {
                swept += 1;
            }
        }
        let next =
            (page.next_key_marker().map(str::to_owned), page.next_upload_id_marker().map(str::to_owned));
        if page.is_truncated() != Some(true) || next.0.is_none() || next == from {
            return Ok(swept);
        }
        from = next;
    }
}

/// Whether this name within the store is one that we give.
fn is_ours(store: &Inner, name: &str) -> bool {
    super::probe::is_object(name) || ObjectKey::new(name).is_ok_and(|key| (store.use_of)(&key).is_some())
}

/// What the full keys below a key begin with.
fn prefix_of(store: &Inner, below: Option<&ObjectKey>) -> String {
    match below {
        Some(key) => format!("{}/", store.client.full_key(key)),
        None if store.client.place().prefix.is_empty() => String::new(),
        None => format!("{}/", store.client.place().prefix),
    }
}
