//! Stores an object with one request.

use super::behavior::ContentCheck;
use super::client::{Retry, random};
use super::errors::{RequestFailure, ResponseKind};
use super::reader::S3Reader;
use super::{ObjectUse, S3Inner};
use crate::config::{LockMode, ServerEncryption};
use crate::error::{Context, Error, Result};
use crate::store::{ObjectKey, PutOutcome};
use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ObjectLockMode, ServerSideEncryption, StorageClass};
use bytes::Bytes;
use md5::{Digest, Md5};
use std::collections::HashMap;
use std::sync::Arc;

/// The name of the metadata that identifies the put that created an object. After a lost response, "exists already" may
/// mean our own object.
pub const MARK: &str = "pgark-write";

/// The name of the metadata with the BLAKE3 digest of the decoded content.
pub const DIGEST: &str = "pgark-blake3";

/// Whether an object may overwrite another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// A heartbeat.
    Yes,
    /// Data.
    No,
}

/// Stores an object from memory with one request.
pub struct SinglePut<'a> {
    store: &'a Arc<S3Inner>,
    key: &'a ObjectKey,
    content: Bytes,
    mark: String,
    /// The value of [`DIGEST`].
    pub digest: Option<String>,
}

/// The attributes of new objects.
pub struct Attributes {
    pub storage_class: Option<StorageClass>,
    pub encryption: Option<ServerSideEncryption>,
    pub kms_key_id: Option<String>,
    pub tagging: Option<String>,
    pub lock: Option<(ObjectLockMode, DateTime)>,
}

/// Sets [`Attributes`] on either of the two requests that begin an object. Their types have nothing in common.
macro_rules! with_attributes {
    ($request:expr, $attributes:expr) => {{
        let attributes: &$crate::store::s3::put::Attributes = $attributes;
        $request
            .set_storage_class(attributes.storage_class.clone())
            .set_server_side_encryption(attributes.encryption.clone())
            .set_ssekms_key_id(attributes.kms_key_id.clone())
            .set_tagging(attributes.tagging.clone())
            .set_object_lock_mode(attributes.lock.as_ref().map(|(mode, _)| mode.clone()))
            .set_object_lock_retain_until_date(attributes.lock.as_ref().map(|(_, until)| *until))
    }};
}
pub(super) use with_attributes;

impl Attributes {
    /// The attributes that the settings require for an object without a lock.
    pub fn unlocked(store: &S3Inner, purpose: ObjectUse) -> Attributes {
        let settings = &store.client.settings;
        let class = match purpose {
            ObjectUse::Wal => &settings.storage_class_wal,
            ObjectUse::Pack => &settings.storage_class_backup,
            ObjectUse::Other => &None,
        };
        let (encryption, kms_key_id) = match &settings.encryption {
            Some(ServerEncryption::Kms { key_id }) => (Some(ServerSideEncryption::AwsKms), key_id.clone()),
            Some(ServerEncryption::Service) => (Some(ServerSideEncryption::Aes256), None),
            None => (None, None),
        };
        let tags: Vec<_> = settings
            .tags
            .iter()
            .map(|(name, value)| format!("{}={}", escaped(name), escaped(value)))
            .collect();
        Attributes {
            storage_class: class.as_deref().map(StorageClass::from),
            encryption,
            kms_key_id,
            tagging: (!tags.is_empty()).then(|| tags.join("&")),
            lock: None,
        }
    }

    /// The attributes that the settings require for an object.
    pub fn of(store: &S3Inner, key: &ObjectKey) -> Attributes {
        let lock = store.client.settings.lock.map(|lock| {
            let until = store.client.clock.now() + lock.retention;
            (lock_mode(lock.mode), DateTime::from(until))
        });
        Attributes { lock, ..Attributes::unlocked(store, use_of(store, key)) }
    }
}

fn use_of(store: &S3Inner, key: &ObjectKey) -> ObjectUse {
    (store.use_of)(key).unwrap_or(ObjectUse::Other)
}

/// The name of a mode in requests.
pub fn lock_mode(mode: LockMode) -> ObjectLockMode {
    match mode {
        LockMode::Governance => ObjectLockMode::Governance,
        LockMode::Compliance => ObjectLockMode::Compliance,
    }
}

impl<'a> SinglePut<'a> {
    pub fn new(store: &'a Arc<S3Inner>, key: &'a ObjectKey, content: Bytes) -> SinglePut<'a> {
        SinglePut { store, key, content, mark: new_mark(), digest: None }
    }

    /// Stores it. When this returns [`PutOutcome::Created`], the service has confirmed the bytes.
    pub async fn put(self, overwrite: Overwrite) -> Result<PutOutcome> {
        let what = || format!("could not store \"{}\"", self.store.client.locate(self.key));
        let behavior = self.store.behavior().await?;
        let looks_first = overwrite == Overwrite::No && !behavior.refuses_second_put;
        if looks_first && self.store.head(self.key).await?.is_some() {
            return Ok(PutOutcome::Exists);
        }
        let conditional = overwrite == Overwrite::No && behavior.refuses_second_put;
        match self.send(overwrite, conditional, behavior.check).await {
            Ok(stored) => self.compare_response(&stored).context(what)?,
            Err(RequestFailure { response: ResponseKind::PreconditionFailed, maybe_done, .. })
                if conditional =>
            {
                // An earlier attempt, whose response was lost, may have stored it.
                let head = if maybe_done { self.store.head(self.key).await? } else { None };
                match head {
                    Some(head) if head.mark.as_ref() == Some(&self.mark) => {}
                    _ => return Ok(PutOutcome::Exists),
                }
            }
            Err(failure) => return Err(failure.error.context(what())),
        }
        if looks_first || (overwrite == Overwrite::No && behavior.check == ContentCheck::Nothing) {
            return self.read_back().await.context(what);
        }
        Ok(PutOutcome::Created)
    }

    async fn send(
        &self,
        overwrite: Overwrite,
        conditional: bool,
        check: ContentCheck,
    ) -> std::result::Result<PutObjectOutput, RequestFailure> {
        let client = &self.store.client;
        let sums = Sums::of(&self.content, check);
        let attributes = match overwrite {
            Overwrite::No => Attributes::of(self.store, self.key),
            // Otherwise every heartbeat would be kept for the duration of the lock.
            Overwrite::Yes => Attributes::unlocked(self.store, use_of(self.store, self.key)),
        };
        client
            .request(Retry::Transient, |to| {
                let request = with_attributes!(to.client.put_object(), &attributes)
                    .bucket(&to.address.bucket)
                    .key(client.full_key(self.key))
                    .set_metadata(Some(metadata(&self.mark, self.digest.as_deref())))
                    .set_if_none_match(conditional.then(|| "*".to_owned()))
                    .set_checksum_crc32(sums.crc32.clone())
                    .set_content_md5(sums.md5.clone())
                    .set_request_payer(client.payer())
                    .body(ByteStream::from(self.content.clone()))
                    .customize();
                // Over TLS, a signature of the content adds nothing but the CPU time of SHA-256.
                if to.encrypted { request.disable_payload_signing().send() } else { request.send() }
            })
            .await
    }

    /// Compares the checksum that the service reports, if it does.
    fn compare_response(&self, stored: &PutObjectOutput) -> Result<()> {
        match stored.checksum_crc32() {
            Some(theirs) if theirs != crc32_base64(&self.content) => {
                Err(Error::damaged(format!("the service stored different data: its CRC-32 is {theirs}")))
            }
            _ => Ok(()),
        }
    }

    /// Compares what the service holds with what was sent, if nothing else does.
    async fn read_back(&self) -> Result<PutOutcome> {
        let mut reader = open_stored(self.store, self.key).await?;
        let (mut rest, mut piece, mut same) = (self.content.clone(), Vec::new(), true);
        loop {
            piece.clear();
            if reader.next(&mut piece).await? == 0 {
                break;
            }
            same &= rest.starts_with(&piece);
            rest = rest.slice(piece.len().min(rest.len())..);
        }
        if same && rest.is_empty() {
            return Ok(PutOutcome::Created);
        }
        let head = self.store.head(self.key).await?;
        if head.is_some_and(|head| head.mark.as_ref() == Some(&self.mark)) {
            return Err(differs());
        }
        // Another writer stored it at the same time, and the service kept that one.
        Ok(PutOutcome::Exists)
    }
}

/// Opens an object that was just stored, to compare it with what was sent.
pub async fn open_stored(store: &Arc<S3Inner>, key: &ObjectKey) -> Result<S3Reader> {
    let opened = S3Reader::open(store.clone(), key.clone(), 0).await?;
    opened.ok_or_else(|| Error::unavailable("it was stored and then disappeared"))
}

/// The error for an object that is not what was sent.
pub fn differs() -> Error {
    Error::damaged("the stored object differs from the data sent")
        .hint("Data was corrupted in transit or in the service. Remove that object, and use https.")
}

/// The checksums for the service to compare, in the form of their headers.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    pub crc32: Option<String>,
    pub md5: Option<String>,
}

impl Sums {
    pub fn of(content: &[u8], check: ContentCheck) -> Sums {
        match check {
            ContentCheck::Crc32 => Sums { crc32: Some(crc32_base64(content)), md5: None },
            ContentCheck::Md5 => Sums { crc32: None, md5: Some(md5_base64(content)) },
            ContentCheck::Nothing => Sums::default(),
        }
    }
}

/// The value of `x-amz-checksum-crc32`: the four bytes of the CRC, the highest first, in base64.
pub fn crc32_base64(content: &[u8]) -> String {
    number_base64(crc32fast::hash(content))
}

/// The same for a known CRC.
pub fn number_base64(crc: u32) -> String {
    aws_smithy_types::base64::encode(crc.to_be_bytes())
}

/// The value of `Content-MD5`.
pub fn md5_base64(content: &[u8]) -> String {
    aws_smithy_types::base64::encode(Md5::digest(content))
}

/// The metadata of an object.
pub fn metadata(mark: &str, digest: Option<&str>) -> HashMap<String, String> {
    let digest = digest.map(|digest| (DIGEST.to_owned(), digest.to_owned()));
    digest.into_iter().chain([(MARK.to_owned(), mark.to_owned())]).collect()
}

/// A mark that no other put has.
pub fn new_mark() -> String {
    format!("{:016x}{:016x}", random(), random())
}

/// A part of a query string, escaped.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn checksums_have_the_form_of_the_headers() {
        // `printf 'hello world' | openssl md5 -binary | base64`, and the example of the S3 User Guide's CRC-32.
        assert_eq!(md5_base64(b"hello world"), "XrY7u+Ae7tCTyyK7j1rNww==");
        assert_eq!(crc32_base64(b"hello world"), "DUoRhQ==");
        assert_ne!(new_mark(), new_mark());
    }

    #[test]
    fn attributes_depend_on_the_use_of_an_object() {
        let lines = "cluster = \"main\"\ndata_directory = \"/data\"\nrepository.url = \"s3://bucket\"\n\
                     s3 = { storage_class_wal = \"STANDARD_IA\", storage_class_backup = \"GLACIER_IR\", \
                     sse = \"aws:kms\", kms_key_id = \"k\", object_lock_mode = \"COMPLIANCE\", object_lock_retention = \"2d\" }";
        let config =
            crate::config::Config::parse(std::path::Path::new("/pgark.toml"), lines.as_bytes()).unwrap();
        let use_of = |key: &ObjectKey| match key.as_str() {
            "wal" => Some(ObjectUse::Wal),
            "pack" => Some(ObjectUse::Pack),
            _ => None,
        };
        let store = super::super::S3Store::new("bucket", "", config.s3, use_of);
        for (key, class) in [("wal", Some("STANDARD_IA")), ("pack", Some("GLACIER_IR")), ("other", None)] {
            let attributes = Attributes::of(&store.inner, &ObjectKey::new(key).unwrap());
            assert_eq!(attributes.storage_class.as_ref().map(StorageClass::as_str), class);
            assert_eq!(attributes.encryption, Some(ServerSideEncryption::AwsKms));
            assert_eq!(attributes.kms_key_id.as_deref(), Some("k"));
            let (mode, until) = attributes.lock.unwrap();
            assert_eq!(mode, ObjectLockMode::Compliance);
            let wanted = DateTime::from(SystemTime::now() + Duration::from_secs(2 * 86_400)).secs();
            assert!((until.secs() - wanted).abs() < 60);
        }
        assert!(Attributes::unlocked(&store.inner, ObjectUse::Wal).lock.is_none());
    }

    #[test]
    fn tags_are_escaped_as_in_a_query_string() {
        assert_eq!(escaped("a b/c=d&e+f"), "a%20b%2Fc%3Dd%26e%2Bf");
    }
}
