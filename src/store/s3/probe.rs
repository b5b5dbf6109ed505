//! How the service really behaves.
//!
//! S3-compatible services accept headers that they do not obey: one overwrites in spite of `If-None-Match`, one never
//! compares a checksum, several ignore an object lock silently. So each repository is tested once, before the first
//! put, and `store-probe.json` at its root records the results. Nothing is concluded from a service's name.
//!
//! | test | without it | remaining risk |
//! |---|---|---|
//! | a second put is refused | `HEAD` before it, and reading back after it | two writers at the same moment: the later one stays, and the earlier one may have been told that its bytes are stored |
//! | a second upload is refused | `HEAD` before and after it | the same, for large objects |
//! | a wrong CRC-32 is refused | `Content-MD5` | – |
//! | a wrong MD5 is refused | reading back | – |
//! | an object lock is effective | an error if it is required | – |
//!
//! The names of the probe's own objects are no keys. The objects are removed if that is permitted.

use super::behavior::{ContentCheck, ServiceBehavior};
use super::client::{Retry, random};
use super::errors::{RequestFailure, ResponseKind};
use super::put::{self, Attributes, Sums, crc32_base64, lock_mode, md5_base64, with_attributes};
use super::{ObjectUse, S3Inner};
use crate::config::LockMode;
use crate::error::{Context, Error, Result};
use crate::store::json_text;
use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};
use std::time::Duration;

/// The object with the results.
const NAME: &str = "store-probe.json";
/// The prefix of the probe's own objects. The leading dot keeps the name from being a key.
const OBJECTS: &str = ".pgark-probe";
const VERSION: u32 = 1;
/// How long the object is locked that tests the lock.
const LOCKED: Duration = Duration::from_secs(600);

const ONE: &[u8] = b"pgark asks what this service does\n";
const OTHER: &[u8] = b"pgark asks what this service does not do\n";

/// The recorded behavior, or else that which a test finds now.
pub async fn behavior(store: &S3Inner) -> Result<ServiceBehavior> {
    let what = || {
        format!("could not determine the behavior of the service of \"{}\"", store.client.place().location())
    };
    let known = remembered(store).await.context(what)?;
    let found = match &known {
        Some(known) => known.clone(),
        None => probe(store).await.context(what)?,
    };
    let found = with_lock(store, found).await?;
    if known.as_ref() != Some(&found) {
        remember(store, &found).await.context(what)?;
    }
    Ok(found)
}

async fn remembered(store: &S3Inner) -> Result<Option<ServiceBehavior>> {
    let client = &store.client;
    let found = client.request(Retry::Transient, |to| {
        to.client
            .get_object()
            .bucket(&to.address.bucket)
            .key(to.address.full_key(NAME))
            .set_request_payer(client.payer())
            .send()
    });
    let found = match found.await {
        Ok(found) => found,
        Err(RequestFailure { response: ResponseKind::NoSuchKey, .. }) => return Ok(None),
        Err(failure) => return Err(store.denied_or(failure)),
    };
    let content = collected(store, found.body, NAME).await?;
    match serde_json::from_slice::<ServiceBehavior>(&content) {
        Ok(known) if known.version == VERSION => Ok(Some(known)),
        Ok(_) => {
            Err(Error::usage(format!("{NAME} was written by a newer pgark"))
                .hint("Upgrade pgark on this host."))
        }
        Err(error) => Err(Error::damaged(format!("{NAME} is damaged"))
            .caused_by(error)
            .hint("Remove it. pgark then tests the service again.")),
    }
}

/// Reads a small body.
async fn collected(store: &S3Inner, body: ByteStream, name: &str) -> Result<bytes::Bytes> {
    let content = tokio::time::timeout(store.client.settings.stall_timeout, body.collect()).await;
    let content = content
        .map_err(|_| Error::unavailable(format!("the response for {name} stalled")))?
        .map_err(|error| Error::unavailable(format!("could not read {name}")).caused_by(error))?;
    Ok(content.into_bytes())
}

/// Checks that the content stored under this full key can be read. Nothing may be acknowledged otherwise.
///
/// # Errors
/// Unavailable if it cannot be read or differs.
pub async fn read_back(store: &S3Inner, key: &str, content: &[u8]) -> Result<()> {
    let client = &store.client;
    let found = client.request(Retry::Transient, |to| {
        to.client.get_object().bucket(&to.address.bucket).key(key).set_request_payer(client.payer()).send()
    });
    let found = found.await.map_err(|failure| store.denied_or(failure))?;
    if collected(store, found.body, key).await? == content {
        return Ok(());
    }
    Err(Error::unavailable("the service returned different data than was stored")
        .hint("Data is corrupted in transit or in the service. Use https, and check every proxy in between."))
}

async fn remember(store: &S3Inner, found: &ServiceBehavior) -> Result<()> {
    let text = json_text(found, NAME)?;
    let key = store.client.place().full_key(NAME);
    // Of two concurrent tests both find the same.
    let sums = Sums::of(&text, found.check);
    try_put(store, &key, &text, sums, Condition::None, None).await?.accepted().map(drop)
}

async fn probe(store: &S3Inner) -> Result<ServiceBehavior> {
    let key = own_object(store);
    let put = |content: &'static [u8], sums: Sums, condition: Condition| {
        let key = key.clone();
        async move { try_put(store, &key, content, sums, condition, None).await }
    };
    let crc = |content: &[u8]| Sums { crc32: Some(crc32_base64(content)), md5: None };
    let md5 = |content: &[u8]| Sums { crc32: None, md5: Some(md5_base64(content)) };

    // Some services refuse unknown headers instead of ignoring them.
    let takes_crc = put(ONE, crc(ONE), Condition::None).await?;
    let answers_checksum = takes_crc.reports_crc32(ONE);
    if let PutAttempt::Refused(_) = takes_crc {
        put(ONE, Sums::default(), Condition::None).await?.accepted()?;
    }
    read_back(store, &key, ONE).await?;
    let check = if takes_crc.is_accepted() && !put(ONE, crc(OTHER), Condition::None).await?.is_accepted() {
        ContentCheck::Crc32
    } else if put(ONE, md5(ONE), Condition::None).await?.is_accepted()
        && !put(ONE, md5(OTHER), Condition::None).await?.is_accepted()
    {
        ContentCheck::Md5
    } else {
        ContentCheck::Nothing
    };
    let second = put(OTHER, Sums::of(OTHER, check), Condition::New).await?;
    let refuses_second_put = match second {
        PutAttempt::Refused(RequestFailure { response: ResponseKind::PreconditionFailed, .. }) => {
            // The object must be the reason for the refusal, not the header.
            let fresh = own_object(store);
            let first = try_put(store, &fresh, ONE, Sums::of(ONE, check), Condition::New, None).await?;
            remove(store, &fresh, None).await;
            first.is_accepted()
        }
        _ => false,
    };
    let upload = probe_upload(store, &key, check).await?;
    remove(store, &key, None).await;
    Ok(ServiceBehavior {
        version: VERSION,
        refuses_second_put,
        refuses_second_upload: upload.refuses_second,
        check,
        checks_whole_upload: upload.checks_whole,
        answers_checksum,
        locks: Vec::new(),
        probed_by: concat!("pgark ", env!("CARGO_PKG_VERSION")).to_owned(),
    })
}

/// Adds the lock that the settings require, once it was found to be effective.
async fn with_lock(store: &S3Inner, mut found: ServiceBehavior) -> Result<ServiceBehavior> {
    let Some(lock) = store.client.settings.lock else { return Ok(found) };
    let mode = lock_mode(lock.mode);
    if found.locks.iter().any(|known| known == mode.as_str()) {
        return Ok(found);
    }
    let key = own_object(store);
    let until = DateTime::from(store.client.clock.now() + LOCKED);
    let ineffective = |reason: &str| {
        Error::unavailable(format!("the object lock required by s3.object_lock_mode is not effective: {reason}")).hint(
            "Create a bucket with object lock (not every service can enable it later), or remove s3.object_lock_mode.",
        )
    };
    let sums = Sums::of(ONE, found.check);
    let stored = match try_put(store, &key, ONE, sums, Condition::None, Some((mode.clone(), until))).await? {
        PutAttempt::Accepted(stored) => stored,
        PutAttempt::Refused(_) => return Err(ineffective("the service rejects it")),
    };
    let Some(version) = stored.version_id().filter(|version| *version != "null") else {
        remove(store, &key, None).await;
        return Err(ineffective("the bucket keeps no versions"));
    };
    if remove(store, &key, Some(version)).await {
        return Err(ineffective("a locked object could be deleted"));
    }
    // Without any delete permission the refusal proves nothing. Then the object must be reported as locked.
    let unlocked = own_object(store);
    let sums = Sums::of(ONE, found.check);
    let stored = try_put(store, &unlocked, ONE, sums, Condition::None, None).await?.accepted()?;
    if !remove(store, &unlocked, stored.version_id()).await
        && !is_reported_locked(store, &key, lock.mode).await?
    {
        return Err(ineffective("the object is not reported as locked"));
    }
    found.locks.push(mode.as_str().to_owned());
    Ok(found)
}

async fn is_reported_locked(store: &S3Inner, key: &str, mode: LockMode) -> Result<bool> {
    let client = &store.client;
    let head = client.request(Retry::Transient, |to| {
        to.client.head_object().bucket(&to.address.bucket).key(key).set_request_payer(client.payer()).send()
    });
    let head = head.await.map_err(|failure| store.denied_or(failure))?;
    Ok(head.object_lock_mode().map(|locked| locked.as_str().to_owned())
        == Some(lock_mode(mode).as_str().to_owned()))
}

/// The results of multipart uploads over an existing object.
struct UploadBehavior {
    refuses_second: bool,
    checks_whole: bool,
}

async fn probe_upload(store: &S3Inner, key: &str, check: ContentCheck) -> Result<UploadBehavior> {
    let whole = check == ContentCheck::Crc32;
    // A wrong checksum of the whole must be refused, and the right one accepted.
    let checks_whole = whole
        && !try_upload(store, key, WholeSum::Wrong, Condition::None).await?
        && try_upload(store, key, WholeSum::Right, Condition::None).await?;
    let refuses_second = !try_upload(store, key, WholeSum::Omitted, Condition::New).await?;
    Ok(UploadBehavior { refuses_second, checks_whole })
}

/// The checksum of the whole upload that is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WholeSum {
    Right,
    Wrong,
    Omitted,
}

/// Uploads one part and completes the upload; returns whether the service accepted it.
async fn try_upload(store: &S3Inner, key: &str, whole: WholeSum, condition: Condition) -> Result<bool> {
    let client = &store.client;
    let sends_sum = whole != WholeSum::Omitted;
    let attributes = Attributes::unlocked(store, ObjectUse::Other);
    let begun = client.request(Retry::NoResponse, |to| {
        with_attributes!(to.client.create_multipart_upload(), &attributes)
            .bucket(&to.address.bucket)
            .key(key)
            .set_checksum_algorithm(sends_sum.then_some(ChecksumAlgorithm::Crc32))
            .set_checksum_type(sends_sum.then_some(ChecksumType::FullObject))
            .set_request_payer(client.payer())
            .send()
    });
    let Some(begun) = refused_or(begun.await)? else { return Ok(false) };
    let id = begun.upload_id().unwrap_or_default().to_owned();
    let crc = sends_sum.then(|| crc32_base64(ONE));
    let sent = client.request(Retry::NoResponse, |to| {
        to.client
            .upload_part()
            .bucket(&to.address.bucket)
            .key(key)
            .upload_id(&id)
            .part_number(1)
            .set_checksum_crc32(crc.clone())
            .set_request_payer(client.payer())
            .body(ByteStream::from_static(ONE))
            .send()
    });
    let Some(sent) = refused_or(sent.await)? else {
        super::multipart::abort(store, key, &id).await;
        return Ok(false);
    };
    let part = CompletedPart::builder()
        .part_number(1)
        .set_e_tag(sent.e_tag().map(str::to_owned))
        .set_checksum_crc32(crc)
        .build();
    let parts = CompletedMultipartUpload::builder().parts(part).build();
    let of_whole = match whole {
        WholeSum::Right => Some(crc32_base64(ONE)),
        WholeSum::Wrong => Some(crc32_base64(OTHER)),
        WholeSum::Omitted => None,
    };
    let done = client.request(Retry::NoResponse, |to| {
        to.client
            .complete_multipart_upload()
            .bucket(&to.address.bucket)
            .key(key)
            .upload_id(&id)
            .multipart_upload(parts.clone())
            .set_checksum_type(sends_sum.then_some(ChecksumType::FullObject))
            .set_checksum_crc32(of_whole.clone())
            .set_if_none_match(condition.header())
            .set_request_payer(client.payer())
            .send()
    });
    let done = refused_or(done.await)?.is_some();
    if !done {
        super::multipart::abort(store, key, &id).await;
    }
    Ok(done)
}

/// The condition of a put.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    None,
    /// There is no such object yet.
    New,
}

impl Condition {
    fn header(self) -> Option<String> {
        (self == Condition::New).then(|| "*".to_owned())
    }
}

/// The result of a put that may be refused.
#[allow(clippy::large_enum_variant)] // one at a time, on the stack
pub enum PutAttempt {
    Accepted(PutObjectOutput),
    Refused(RequestFailure),
}

pub async fn try_put(
    store: &S3Inner,
    key: &str,
    content: &[u8],
    sums: Sums,
    condition: Condition,
    lock: Option<(aws_sdk_s3::types::ObjectLockMode, DateTime)>,
) -> Result<PutAttempt> {
    let client = &store.client;
    let content = bytes::Bytes::copy_from_slice(content);
    let attributes = Attributes { lock, ..Attributes::unlocked(store, ObjectUse::Other) };
    let stored = client.request(Retry::NoResponse, |to| {
        with_attributes!(to.client.put_object(), &attributes)
            .bucket(&to.address.bucket)
            .key(key)
            .metadata(put::MARK, "probe")
            .set_if_none_match(condition.header())
            .set_checksum_crc32(sums.crc32.clone())
            .set_content_md5(sums.md5.clone())
            .set_request_payer(client.payer())
            .body(ByteStream::from(content.clone()))
            .send()
    });
    Ok(match stored.await {
        Ok(stored) => PutAttempt::Accepted(stored),
        Err(failure) if is_refusal(&failure) => PutAttempt::Refused(failure),
        Err(failure) => return Err(failure.error),
    })
}

impl PutAttempt {
    fn is_accepted(&self) -> bool {
        matches!(self, PutAttempt::Accepted(_))
    }

    fn reports_crc32(&self, content: &[u8]) -> bool {
        matches!(self, PutAttempt::Accepted(stored) if stored.checksum_crc32() == Some(&crc32_base64(content)))
    }

    pub fn accepted(self) -> Result<PutObjectOutput> {
        match self {
            PutAttempt::Accepted(stored) => Ok(stored),
            PutAttempt::Refused(failure) => Err(failure.error),
        }
    }
}

/// The output, or `None` if the service refuses the request.
fn refused_or<T>(result: std::result::Result<T, RequestFailure>) -> Result<Option<T>> {
    match result {
        Ok(output) => Ok(Some(output)),
        Err(failure) if is_refusal(&failure) => Ok(None),
        Err(failure) => Err(failure.error),
    }
}

/// Whether a failure answers the question of the test. Unavailability and missing permissions do not.
fn is_refusal(failure: &RequestFailure) -> bool {
    matches!(
        failure.response,
        ResponseKind::BadRequest
            | ResponseKind::UnexplainedBadRequest
            | ResponseKind::PreconditionFailed
            | ResponseKind::NotImplemented
    )
}

/// Whether a name within the store belongs to one of the probe's own objects.
pub fn is_object(name: &str) -> bool {
    let number = name.strip_prefix(OBJECTS).and_then(|rest| rest.strip_prefix('/'));
    number.is_some_and(|number| number.len() == 16 && number.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// The full key for a new object of the probe.
pub fn own_object(store: &S3Inner) -> String {
    store.client.place().full_key(&format!("{OBJECTS}/{:016x}", random()))
}

/// Removes an object, or one version of it; returns whether the service did so.
pub async fn remove(store: &S3Inner, key: &str, version: Option<&str>) -> bool {
    let client = &store.client;
    let removed = client.request(Retry::Transient, |to| {
        to.client
            .delete_object()
            .bucket(&to.address.bucket)
            .key(key)
            .set_version_id(version.map(str::to_owned))
            .set_request_payer(client.payer())
            .send()
    });
    removed.await.is_ok()
}
