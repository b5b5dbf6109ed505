//! What lies in the bucket: objects, and uploads that nobody ended.

use super::Inner;
use super::client::Retry;
use super::errors::{Answer, Failure};
use crate::error::{Context, Error, Result};
use crate::store::{Listing, ObjectInfo, ObjectKey};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An upload without an end is dead after this: no part takes that long, and a lifecycle rule may come earlier.
const UPLOAD_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What lies directly below a key, a request for each thousand names.
pub async fn list(store: &Inner, below: Option<&ObjectKey>) -> Result<Listing> {
    let prefix = prefix_of(store, below);
    let mut listing = Listing::default();
    let mut token: Option<String> = None;
    loop {
        let page = store
            .client
            .request(Retry::Transient, |to| {
                to.client
                    .list_objects_v2()
                    .bucket(&to.address.bucket)
                    .prefix(&prefix)
                    .delimiter("/")
                    .set_continuation_token(token.clone())
                    .set_request_payer(store.client.payer())
                    .send()
            })
            .await
            .map_err(|failure| failure.error)
            .context(|| format!("could not list \"s3://{}/{prefix}\"", store.client.place().bucket))?;
        for object in page.contents() {
            let name = object.key().and_then(|key| key.strip_prefix(&prefix));
            // Names that cannot be keys are somebody else's, or the probe's.
            if let Some(name) = name.filter(|name| ObjectKey::new(*name).is_ok()) {
                let length_bytes = u64::try_from(object.size().unwrap_or_default()).unwrap_or_default();
                listing.objects.push((name.to_owned(), ObjectInfo { length_bytes }));
            }
        }
        for directory in page.common_prefixes() {
            let name = directory.prefix().and_then(|name| name.strip_prefix(&prefix)?.strip_suffix('/'));
            if let Some(name) = name.filter(|name| ObjectKey::new(*name).is_ok()) {
                listing.directories.push(name.to_owned());
            }
        }
        match (page.is_truncated(), page.next_continuation_token()) {
            (Some(true), Some(next)) if token.as_deref() != Some(next) => token = Some(next.to_owned()),
            (Some(true), _) => {
                return Err(Error::unavailable(format!(
                    "could not list \"s3://{}/{prefix}\": the service does not say how its list goes on",
                    store.client.place().bucket
                )));
            }
            _ => break,
        }
    }
    listing.directories.sort_unstable();
    listing.objects.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(listing)
}

/// Ends the uploads of dead writers below our prefix; returns how many there were.
///
/// Whoever may not list uploads, or has a service that cannot, leaves that to a lifecycle rule of the bucket.
pub async fn sweep(store: &Inner) -> Result<u64> {
    let prefix = prefix_of(store, None);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
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
        for upload in page.uploads() {
            let (Some(key), Some(id), Some(begun)) = (upload.key(), upload.upload_id(), upload.initiated())
            else {
                continue;
            };
            let begun = Duration::from_secs(u64::try_from(begun.secs()).unwrap_or_default());
            if now.saturating_sub(begun) > UPLOAD_AGE_MAX && super::multipart::abort(store, key, id).await {
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

/// What the full keys below a key begin with.
fn prefix_of(store: &Inner, below: Option<&ObjectKey>) -> String {
    match below {
        Some(key) => format!("{}/", store.client.full_key(key)),
        None if store.client.place().prefix.is_empty() => String::new(),
        None => format!("{}/", store.client.place().prefix),
    }
}
