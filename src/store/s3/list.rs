//! Lists objects and unfinished uploads.

use super::S3Inner;
use super::client::Retry;
use super::errors::{RequestFailure, ResponseKind};
use crate::error::{Context, Error, Result};
use crate::store::{Listing, ObjectInfo, ObjectKey, ObjectVisitor};
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use std::time::{Duration, UNIX_EPOCH};

/// Unfinished uploads are abandoned after this time. No part takes as long, and a lifecycle rule may abort them
/// earlier.
const UPLOAD_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Lists what is directly below a key, with one request for each thousand names.
pub async fn list(store: &S3Inner, below: Option<&ObjectKey>) -> Result<Listing> {
    let prefix = prefix_of(store, below);
    let mut listing = Listing::default();
    let mut start = Some(PageStart::Beginning);
    while let Some(from) = start {
        let page = page(store, &prefix, ListDepth::OneLevel, &from).await?;
        listing.objects.extend(objects(&page, &prefix));
        for directory in page.common_prefixes() {
            let name = directory.prefix().and_then(|name| name.strip_prefix(&prefix)?.strip_suffix('/'));
            if let Some(name) = name.filter(|name| ObjectKey::new(*name).is_ok()) {
                listing.directories.push(name.to_owned());
            }
        }
        start = next_page(store, &prefix, &page, &from)?;
    }
    listing.directories.sort_unstable();
    listing.objects.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(listing)
}

/// The length of an object for which `HEAD` reports none; `None` if the list does not contain it.
pub async fn length_of(store: &S3Inner, key: &ObjectKey) -> Result<Option<u64>> {
    let full_key = store.client.full_key(key);
    let page = page(store, &full_key, ListDepth::OneLevel, &PageStart::Beginning).await?;
    // The shortest name with this prefix comes first.
    let found = page.contents().first().filter(|object| object.key() == Some(&full_key));
    Ok(found.and_then(|object| u64::try_from(object.size()?).ok()))
}

/// Visits the objects below a key, with one request for each thousand. Not asynchronous, because the visitor may make
/// requests of its own.
pub fn walk(
    store: &S3Inner,
    below: &ObjectKey,
    from: Option<&ObjectKey>,
    visit: ObjectVisitor<'_>,
) -> Result<()> {
    let prefix = prefix_of(store, Some(below));
    let first = from.map(|key| store.client.full_key(key));
    let first = first.as_deref().and_then(|key| key.strip_prefix(&prefix)).unwrap_or_default();
    let mut last = String::new();
    let mut start = Some(PageStart::before(&prefix, first));
    while let Some(from) = start {
        let page = store.client.wait(page(store, &prefix, ListDepth::Whole, &from))?;
        for (name, info) in objects(&page, &prefix) {
            // An unordered name would be missed by searches that rely on the order.
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
        start = next_page(store, &prefix, &page, &from)?;
    }
    Ok(())
}

/// How deep a list goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ListDepth {
    OneLevel,
    Whole,
}

/// Where a page of a list begins.
#[derive(Clone, PartialEq, Eq)]
enum PageStart {
    Beginning,
    /// After this full key.
    After(String),
    /// Where the previous page ended.
    Token(String),
}

impl PageStart {
    /// A position closely before the name `first`: names before it share all but its last letter.
    fn before(prefix: &str, first: &str) -> PageStart {
        match first.get(..first.len().saturating_sub(1)) {
            Some(start) if !start.is_empty() => PageStart::After(format!("{prefix}{start}")),
            _ => PageStart::Beginning,
        }
    }
}

async fn page(
    store: &S3Inner,
    prefix: &str,
    depth: ListDepth,
    from: &PageStart,
) -> Result<ListObjectsV2Output> {
    let (after, token) = match from {
        PageStart::Beginning => (None, None),
        PageStart::After(key) => (Some(key.clone()), None),
        PageStart::Token(token) => (None, Some(token.clone())),
    };
    store
        .client
        .request(Retry::Transient, |to| {
            to.client
                .list_objects_v2()
                .bucket(&to.address.bucket)
                .prefix(prefix)
                .set_delimiter((depth == ListDepth::OneLevel).then(|| "/".to_owned()))
                .set_start_after(after.clone())
                .set_continuation_token(token.clone())
                .set_request_payer(store.client.payer())
                .send()
        })
        .await
        .map_err(|failure| failure.error)
        .context(|| format!("could not list \"s3://{}/{prefix}\"", store.client.place().bucket))
}

/// The objects of a page. Other names cannot be keys: they belong to other programs, or to the probe.
fn objects(page: &ListObjectsV2Output, prefix: &str) -> impl Iterator<Item = (String, ObjectInfo)> {
    page.contents().iter().filter_map(move |object| {
        let name = object.key()?.strip_prefix(prefix).filter(|name| ObjectKey::new(*name).is_ok())?;
        let length_bytes = u64::try_from(object.size().unwrap_or_default()).unwrap_or_default();
        Some((name.to_owned(), ObjectInfo { length_bytes }))
    })
}

/// Where the next page begins; `None` after the last one.
fn next_page(
    store: &S3Inner,
    prefix: &str,
    page: &ListObjectsV2Output,
    from: &PageStart,
) -> Result<Option<PageStart>> {
    if page.is_truncated() != Some(true) {
        return Ok(None);
    }
    let next = page.next_continuation_token().map(|token| PageStart::Token(token.to_owned()));
    match next.filter(|next| next != from) {
        Some(next) => Ok(Some(next)),
        None => Err(Error::unavailable(format!(
            "could not list \"s3://{}/{prefix}\": the service did not send a continuation token",
            store.client.place().bucket
        ))),
    }
}

/// Aborts the uploads of dead writers below our prefix; returns their number. A bucket may be shared with other
/// programs, and so may its root if there is no prefix. Their uploads may take any time.
///
/// Without permission to list uploads, or with a service that cannot, a lifecycle rule of the bucket has to abort them.
pub async fn sweep(store: &S3Inner) -> Result<u64> {
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
            Err(RequestFailure { response: ResponseKind::Denied | ResponseKind::NotImplemented, .. }) => {
                return Ok(swept);
            }
            Err(failure) => return Err(failure.error.context("could not list unfinished uploads")),
        };
        // By the clock that recorded their beginning, which the response has just reported.
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

/// Whether pgark uses this name within the store.
fn is_ours(store: &S3Inner, name: &str) -> bool {
    super::probe::is_object(name) || ObjectKey::new(name).is_ok_and(|key| (store.use_of)(&key).is_some())
}

/// The common prefix of the full keys below a key.
fn prefix_of(store: &S3Inner, below: Option<&ObjectKey>) -> String {
    match below {
        Some(key) => format!("{}/", store.client.full_key(key)),
        None if store.client.place().prefix.is_empty() => String::new(),
        None => format!("{}/", store.client.place().prefix),
    }
}
