//! Stores an object in parts.
//!
//! Nothing is visible before the end. An abandoned upload is aborted, and that of a killed process is swept after a
//! day. Source: Amazon S3 User Guide, "Amazon S3 multipart upload limits".

use super::S3Inner;
use super::behavior::{ContentCheck, ServiceBehavior};
use super::client::Retry;
use super::errors::{RequestFailure, ResponseKind};
use super::put::{self, Attributes, Sums, with_attributes};
use crate::error::{Context, Error, Result};
use crate::store::{ObjectKey, PutOutcome};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How many parts are sent at once, each from memory.
const PARTS_AT_ONCE: usize = 2;
/// How many parts have the same length; then it doubles. S3 accepts 10,000 parts: with 8 MiB at first that is 484 GiB.
/// The first 16 GiB also suit services that require parts of equal length.
const PARTS_OF_ONE_LENGTH: u32 = 2000;
/// S3 assembles the parts before it responds, which takes minutes for the largest objects. Meanwhile it sends spaces. A
/// service that sends nothing is asked again, and responds that it is still working or that there is no such upload any
/// more.
const FINISH_MAX: Duration = Duration::from_secs(600);
/// How long a dropped writer waits until its upload is aborted.
const ABORT_MAX: Duration = Duration::from_secs(5);

/// An upload that has begun.
pub struct Upload {
    store: Arc<S3Inner>,
    key: ObjectKey,
    id: String,
    mark: String,
    behavior: ServiceBehavior,
    sending: VecDeque<JoinHandle<std::result::Result<CompletedPart, RequestFailure>>>,
    parts: Vec<CompletedPart>,
    /// How many parts were handed over.
    begun_parts: u32,
    length_bytes: u64,
    crc: crc32fast::Hasher,
    ended: bool,
}

impl Upload {
    pub async fn begin(store: &Arc<S3Inner>, key: &ObjectKey, digest: Option<String>) -> Result<Upload> {
        let behavior = store.behavior().await?.clone();
        let (mark, attributes) = (put::new_mark(), Attributes::of(store, key));
        let sums = behavior.check == ContentCheck::Crc32;
        let whole = sums && behavior.checks_whole_upload;
        let begun = store
            .client
            .request(Retry::Transient, |to| {
                with_attributes!(to.client.create_multipart_upload(), &attributes)
                    .bucket(&to.address.bucket)
                    .key(store.client.full_key(key))
                    .set_metadata(Some(put::metadata(&mark, digest.as_deref())))
                    .set_checksum_algorithm(sums.then_some(ChecksumAlgorithm::Crc32))
                    .set_checksum_type(whole.then_some(ChecksumType::FullObject))
                    .set_request_payer(store.client.payer())
                    .send()
            })
            .await
            .map_err(|failure| failure.error)
            .context(|| format!("could not start storing \"{}\"", store.client.locate(key)))?;
        let id = begun.upload_id().ok_or_else(|| Error::unavailable("the service returned no upload ID"))?;
        Ok(Upload {
            store: store.clone(),
            key: key.clone(),
            id: id.to_owned(),
            mark,
            behavior,
            sending: VecDeque::new(),
            parts: Vec::new(),
            begun_parts: 0,
            length_bytes: 0,
            crc: crc32fast::Hasher::new(),
            ended: false,
        })
    }

    /// The length of the next part.
    pub fn next_part_bytes(&self) -> usize {
        part_bytes(self.store.client.settings.part_bytes, self.begun_parts)
    }

    /// Sends the next part concurrently; waits while too many are in flight.
    pub async fn send(&mut self, content: Bytes) -> Result<()> {
        while self.sending.len() >= PARTS_AT_ONCE {
            self.wait_for_part().await?;
        }
        self.crc.update(&content);
        self.length_bytes += content.len() as u64;
        self.begun_parts += 1;
        let number = i32::try_from(self.begun_parts).unwrap_or(i32::MAX);
        let (store, key, id) = (self.store.clone(), self.key.clone(), self.id.clone());
        let check = self.behavior.check;
        let part = async move { send_part(&store, &key, &id, number, content, check).await };
        self.sending.push_back(self.store.client.spawn(part)?);
        Ok(())
    }

    async fn wait_for_part(&mut self) -> Result<()> {
        let Some(part) = self.sending.pop_front() else { return Ok(()) };
        let part = part
            .await
            .map_err(|error| Error::unavailable("the upload of a part was interrupted").caused_by(error))?;
        let what = || format!("could not store \"{}\"", self.store.client.locate(&self.key));
        self.parts.push(part.map_err(|failure| failure.error).context(what)?);
        Ok(())
    }

    /// Assembles the parts. When this returns [`PutOutcome::Created`], the service has confirmed the bytes.
    pub async fn finish(mut self) -> Result<PutOutcome> {
        while !self.sending.is_empty() {
            self.wait_for_part().await?;
        }
        let store = self.store.clone();
        let what = || format!("could not store \"{}\"", store.client.locate(&self.key));
        if !self.behavior.refuses_second_upload && store.head(&self.key).await?.is_some() {
            return Ok(PutOutcome::Exists);
        }
        match self.complete().await {
            Ok(()) => {}
            Err(RequestFailure { response: ResponseKind::PreconditionFailed, maybe_done: false, .. }) => {
                return Ok(PutOutcome::Exists);
            }
            // The response to a successful attempt was lost. The object's mark decides.
            Err(RequestFailure {
                response: ResponseKind::PreconditionFailed | ResponseKind::NoSuchUpload,
                maybe_done: true,
                ..
            }) => {}
            Err(failure) => return Err(failure.error.context(what())),
        }
        let Some(head) = store.head(&self.key).await? else {
            return Err(
                Error::unavailable("the service confirmed the object but does not have it").context(what())
            );
        };
        if head.mark.as_ref() != Some(&self.mark) {
            return Ok(PutOutcome::Exists);
        }
        self.ended = true;
        if head.length_bytes != self.length_bytes {
            let (theirs, ours) = (head.length_bytes, self.length_bytes);
            return Err(Error::damaged(format!("it has {theirs} bytes in the bucket instead of {ours}"))
                .context(what()));
        }
        if self.behavior.check == ContentCheck::Nothing {
            self.read_back().await.context(what)?;
        }
        Ok(PutOutcome::Created)
    }

    async fn complete(&self) -> std::result::Result<(), RequestFailure> {
        let client = &self.store.client;
        let mut parts = self.parts.clone();
        parts.sort_by_key(CompletedPart::part_number);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let whole = self.behavior.check == ContentCheck::Crc32 && self.behavior.checks_whole_upload;
        let crc = whole.then(|| put::number_base64(self.crc.clone().finalize()));
        client
            .request_within(FINISH_MAX.max(client.settings.retry_deadline), Retry::Transient, |to| {
                to.client
                    .complete_multipart_upload()
                    .bucket(&to.address.bucket)
                    .key(client.full_key(&self.key))
                    .upload_id(&self.id)
                    .multipart_upload(parts.clone())
                    .set_checksum_type(whole.then_some(ChecksumType::FullObject))
                    .set_checksum_crc32(crc.clone())
                    .set_if_none_match(self.behavior.refuses_second_upload.then(|| "*".to_owned()))
                    .set_request_payer(client.payer())
                    .send()
            })
            .await
            .map(drop)
    }

    /// Compares what the service holds with what was sent, if nothing else does.
    async fn read_back(&self) -> Result<()> {
        let mut reader = put::open_stored(&self.store, &self.key).await?;
        let (mut crc, mut piece) = (crc32fast::Hasher::new(), Vec::new());
        while reader.next(&mut piece).await? > 0 {
            crc.update(&piece);
            piece.clear();
        }
        if crc.finalize() == self.crc.clone().finalize() {
            return Ok(());
        }
        Err(put::differs())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        for part in &self.sending {
            part.abort();
        }
        let (store, key, id) = (self.store.clone(), self.store.client.full_key(&self.key), self.id.clone());
        let (done, wait) = mpsc::channel();
        let aborting = self.store.client.spawn(async move {
            abort(&store, &key, &id).await;
            // The writer may have stopped waiting.
            let _ = done.send(());
        });
        // A thread of the runtime would wait for itself. Nothing is dropped there before the end.
        if aborting.is_ok() {
            let _ = wait.recv_timeout(ABORT_MAX);
        }
    }
}

/// Aborts an upload; returns whether that succeeded. What remains is swept, or ended by a lifecycle rule.
pub async fn abort(store: &S3Inner, key: &str, id: &str) -> bool {
    let aborted = store.client.request(Retry::Transient, |to| {
        to.client
            .abort_multipart_upload()
            .bucket(&to.address.bucket)
            .key(key)
            .upload_id(id)
            .set_request_payer(store.client.payer())
            .send()
    });
    aborted
        .await
        .inspect_err(|failure| tracing::debug!(error = %failure.error, "could not abort an upload"))
        .is_ok()
}

async fn send_part(
    store: &S3Inner,
    key: &ObjectKey,
    id: &str,
    number: i32,
    content: Bytes,
    check: ContentCheck,
) -> std::result::Result<CompletedPart, RequestFailure> {
    let sums = Sums::of(&content, check);
    let sent = store
        .client
        .request(Retry::Transient, |to| {
            let request = to
                .client
                .upload_part()
                .bucket(&to.address.bucket)
                .key(store.client.full_key(key))
                .upload_id(id)
                .part_number(number)
                .set_checksum_crc32(sums.crc32.clone())
                .set_content_md5(sums.md5.clone())
                .set_request_payer(store.client.payer())
                .body(ByteStream::from(content.clone()))
                .customize();
            if to.encrypted { request.disable_payload_signing().send() } else { request.send() }
        })
        .await?;
    Ok(CompletedPart::builder()
        .part_number(number)
        .set_e_tag(sent.e_tag().map(str::to_owned))
        .set_checksum_crc32(sums.crc32)
        .build())
}

/// The length of the next part after `begun` others, if the first ones have `first_bytes`.
fn part_bytes(first_bytes: u64, begun: u32) -> usize {
    usize::try_from(first_bytes << (begun / PARTS_OF_ONE_LENGTH).min(8)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_hold_any_pack() {
        assert_eq!(part_bytes(8 << 20, 0), 8 << 20);
        assert_eq!(part_bytes(8 << 20, 1999), 8 << 20);
        assert_eq!(part_bytes(8 << 20, 2000), 16 << 20);
        let whole: usize = (0..10_000).map(|begun| part_bytes(8 << 20, begun)).sum();
        assert!(whole > 480 << 30);
        let largest_part_of_s3 = 5 << 30;
        assert!(part_bytes(512 << 20, 4000) < largest_part_of_s3);
    }
}
